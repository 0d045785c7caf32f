"""Text that is not markup is escaped, and invalid numbers become n/a."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train.visualization.html import Html, element, finite, inline_image, join, number


@pytest.mark.parametrize(
    "html, expected",
    [
        pytest.param(element("p", "<b>"), "<p>&lt;b&gt;</p>", id="child"),
        pytest.param(element("p", element("b", "x")), "<p><b>x</b></p>", id="markup stays"),
        pytest.param(element("p", title='"><script>'), '<p title="&quot;&gt;&lt;script&gt;"></p>', id="attribute"),
        pytest.param(element("p", title="it's"), '<p title="it&#x27;s"></p>', id="single quote"),
        pytest.param(element("i", class_="a", stroke_width=2), '<i class="a" stroke-width="2"></i>', id="names"),
        pytest.param(element("i", None, "a", id=None), "<i>a</i>", id="none is left out"),
        pytest.param(element("br"), "<br>", id="no closing tag"),
        pytest.param(join("a&", Html("<hr>"), 3), "a&amp;<hr>3", id="join"),
    ],
)
def test_element_escapes_text(html, expected):
    assert html == expected and isinstance(html, Html)


@pytest.mark.parametrize(
    "value, expected",
    [
        (0.81249, "0.812"), (12, "12"), (1234567, "1,234,567"), (np.float32(0.5), "0.500"), (np.int64(4), "4"),
        (None, "n/a"), (float("nan"), "n/a"), (float("-inf"), "n/a"), ("0.5", "n/a"), (True, "n/a"), ([], "n/a"),
    ],
)  # fmt: skip
def test_number_and_finite_by_value(value, expected):
    assert number(value) == expected
    assert (finite(value) is None) == (expected == "n/a")


def test_inline_image_is_a_jpeg_data_uri():
    image = np.zeros((10, 20, 3), np.uint8)
    html = inline_image(image, '"a"')
    assert html.startswith('<img src="data:image/jpeg;base64,/9j/') and 'width="20" height="10"' in html
    assert 'alt="&quot;a&quot;"' in html

"""DetectionResult: what it says of its detections, as JSON, as a picture and as HTML."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ssd_train.data.structures import ClassNames
from ssd_train.deploy.detector import Detection, DetectionResult
from ssd_train.errors import DataError

NAMES = ClassNames(("cat", "<b>dog</b>"))


def make(load=lambda: np.full((150, 200, 3), 90, np.uint8), size_wh=(200, 150), threshold=0.5):
    boxes = [[20, 30, 80, 90], [100, 20, 180, 140], [5, 5, 15, 15]]
    return DetectionResult(boxes, [0.75, 0.5, 0.25], [1, 0, 1], size_wh, NAMES, threshold, "a & b.png", load)


def test_iterates_over_detections_with_names():
    result = make()
    assert len(result) == 3 and result.names == ["<b>dog</b>", "cat", "<b>dog</b>"]
    first, *_ = result
    assert first == Detection("<b>dog</b>", 0.75, (20.0, 30.0, 80.0, 90.0), 1)
    assert [one.score for one in result] == [0.75, 0.5, 0.25]


def test_index_and_repr_are_short():
    result = make()
    assert result[-1] == Detection("<b>dog</b>", 0.25, (5.0, 5.0, 15.0, 15.0), 1)
    with pytest.raises(IndexError):
        result[3]
    assert repr(result) == "<3 detections in a & b.png, 2 with a score of 0.50 or more>"


@pytest.mark.parametrize("threshold, count", [(None, 2), (0.0, 3), (0.5, 2), (0.51, 1), (0.9, 0)])
def test_above_none_is_the_models_threshold(threshold, count):
    shown = make().above(threshold)
    assert isinstance(shown, DetectionResult) and len(shown) == count and shown.names == make().names[:count]
    assert make().above().above(0.6).names == ["<b>dog</b>"]


def test_to_dict_is_json_with_names_and_boxes():
    document = json.loads(json.dumps(make().to_dict()))
    assert (document["image"], document["width"], document["height"]) == ("a & b.png", 200, 150)
    assert document["detections"][1] == {"class_id": 0, "name": "cat", "score": 0.5, "box": [100, 20, 180, 140]}
    assert len(document["detections"]) == 3


def differing(drawn):
    """Return the area of a drawn picture that is not gray: x1, y1, x2, y2."""
    rows, columns = np.nonzero((np.abs(np.asarray(drawn).astype(int) - 90) > 40).any(axis=2))
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None


def test_draw_shows_the_boxes_of_at_least_the_threshold():
    result = make()
    drawn = result.draw()
    assert isinstance(drawn, Image.Image) and drawn.size == (200, 150)
    pixels = np.asarray(drawn).astype(int)
    assert (np.abs(pixels[60, 20] - 90) > 40).any() and (np.abs(pixels[60, 179] - 90) > 40).any(), "edges of both boxes"
    assert differing(result.draw(0.9)) is None
    assert differing(result.draw(0))[0] == 5, "the third box, too"
    x1, y1, x2, y2 = differing(result.draw(0.6))
    assert 18 <= x1 and x2 <= 180


class Shown(HTMLParser):
    """Collects the tags and the text of a document."""

    def __init__(self):
        super().__init__()
        self.tags, self.texts, self.source = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.source = dict(attrs).get("src", self.source)

    def handle_data(self, data):
        self.texts.append(data)


def test_repr_html_has_an_image_and_the_names_as_text():
    parser = Shown()
    parser.feed(make(lambda: np.full((1500, 2000, 3), 90, np.uint8), (2000, 1500))._repr_html_())
    assert set(parser.tags) <= {"figure", "img", "figcaption", "table", "tr", "th", "td"}, "names are no markup"
    assert "<b>dog</b>" in parser.texts and "cat" in parser.texts and parser.tags.count("tr") == 1 + 2
    data = re.fullmatch("data:image/jpeg;base64,(.*)", parser.source).group(1)
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (800, 600)


def test_repr_html_of_a_file_that_is_gone_still_has_the_table():
    def gone():
        raise DataError("a.png: cannot be read (No such file or directory)")

    result = make(gone)
    parser = Shown()
    parser.feed(result._repr_html_())
    assert "img" not in parser.tags and parser.tags.count("tr") == 3
    assert any("a.png: cannot be read" in text for text in parser.texts)
    with pytest.raises(DataError, match="^a.png: "):
        result.draw()

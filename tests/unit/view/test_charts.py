"""Points are where their values put them; what is missing leaves no trace and breaks nothing."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from ssd_train.view.charts import FAINT, Axes, Frame, Series, histogram, line_chart

NAN = float("nan")
SIZE = (560, 300)
AXES = Axes("Epoch", "mAP", (0.0, 10.0), (0.0, 1.0))


def svg_of(html: str) -> ElementTree.Element:
    """The chart parsed strictly, as XML: text that was not escaped fails here."""
    root = ElementTree.fromstring(html)
    return root.find("svg") if root.tag != "svg" else root


def paths(html: str):
    """The points of each path, run by run."""
    found = [path.get("d") for path in svg_of(html).findall("path")]
    number = r"([-\d.]+),([-\d.]+)"
    return [[[tuple(map(float, p)) for p in re.findall(number, run)] for run in d.split("M")[1:]] for d in found]


def test_frame_puts_limits_on_the_rims_of_the_plot():
    frame = Frame(SIZE, (0.0, 10.0), (0.0, 1.0))
    assert (frame.x(0), frame.x(10)) == (48, 546)
    assert (frame.y(0), frame.y(1)) == (264, 26)
    assert (frame.x(5), frame.y(0.5)) == (297, 145)


def test_points_are_drawn_where_their_values_are():
    html = line_chart([Series("a", [0, 5, 10], [0, 0.5, 1])], AXES, SIZE)
    assert paths(html) == [[[(48, 264), (297, 145), (546, 26)]]]


@pytest.mark.parametrize(
    "x, y, runs, dots",
    [
        pytest.param([0, 5, 10], [0, NAN, 1], 0, 2, id="NaN leaves two single points"),
        pytest.param([0, 1, 2, 3, 4], [0, 1, NAN, 1, 0], 2, 0, id="NaN breaks the line"),
        pytest.param([0, 5, 10], [0, None, 1], 1, 0, id="a value not taken does not"),
        pytest.param([0, 5, 10], [0, "x", float("inf")], 0, 1, id="no numbers"),
        pytest.param([None, 5], [0.5, 0.5], 0, 1, id="no epoch"),
        pytest.param([3], [0.5], 0, 1, id="one point is a dot"),
    ],
)
def test_missing_values(x, y, runs, dots):
    html = line_chart([Series("a", x, y)], AXES, SIZE)
    assert sum(len(path) for path in paths(html)) == runs
    assert sum("dot" in circle.get("class") for circle in svg_of(html).findall("circle")) == dots
    assert "nan" not in html.lower() and "inf" not in html.lower()


@pytest.mark.parametrize("series", [[], [Series("a", [], [])], [Series("a", [1, 2], [None, NAN])]])
def test_nothing_to_draw_is_said(series):
    assert line_chart(series, AXES) == '<p class="empty">No values to draw.</p>'


@pytest.mark.parametrize(
    "values",
    [[0.0], [5.0, 5.0], [-3.0, -1.0], [1e-9, 2e-9], [1e12, 3e12], [0.0, 0.0], [-2.0, 7.0]],
    ids=lambda values: str(values),
)
def test_limits_enclose_the_points(values):
    html = line_chart([Series("a", list(range(len(values))), values)], Axes("Epoch", "Loss"), SIZE)
    points = [point for path in paths(html) for run in path for point in run]
    points += [(float(c.get("cx")), float(c.get("cy"))) for c in svg_of(html).findall("circle")]
    assert points and all(48 <= x <= 546 and 26 <= y <= 264 for x, y in points)


def test_ticks_are_round_and_at_their_place():
    html = line_chart([Series("a", [0, 10], [0, 1])], AXES, SIZE)
    texts = {text.text: (float(text.get("x")), float(text.get("y"))) for text in svg_of(html).findall("text")}
    assert texts["0.2"][1] == pytest.approx(264 - 0.2 * 238 + 4, abs=0.01)
    assert texts["6"][0] == pytest.approx(48 + 0.6 * 498, abs=0.01)
    assert "Epoch" in texts and "mAP" in texts


def test_hover_titles_tell_name_and_value():
    html = line_chart([Series("loss", [1, 2], [0.25, 0.5])], AXES, SIZE)
    titles = [circle.find("title").text for circle in svg_of(html).findall("circle")]
    assert titles == ["loss: 0.2500 at epoch 1", "loss: 0.5000 at epoch 2"]


def test_long_lines_carry_few_hover_marks():
    html = line_chart([Series("a", range(5000), [0.5] * 5000)], Axes("Step", "Loss"))
    assert 0 < len(svg_of(html).findall("circle")) <= 200


@pytest.mark.parametrize("mark, expected", [(5.0, 1), (None, 0), (11.0, 0)], ids=["inside", "none", "outside"])
def test_the_best_epoch_is_marked(mark, expected):
    html = line_chart([Series("a", [0, 10], [0, 1])], Axes("Epoch", "mAP", (0, 10), (0, 1), mark, "best"), SIZE)
    marks = [line for line in svg_of(html).findall("line") if line.get("class") == "mark"]
    assert len(marks) == expected and all(line.get("x1") == "297.0" for line in marks)


def test_legend_names_lines_and_sums_up_faint_ones():
    series = [Series("mean", [0, 1], [0, 1], "strong"), *[Series(f"c{i}", [0, 1], [0, 1], FAINT) for i in range(80)]]
    legend = ElementTree.fromstring(line_chart(series, AXES)).findall("div")[0]
    assert ["".join(key.itertext()) for key in legend] == ["mean", "each of the 80"]


def test_names_are_escaped():
    html = line_chart([Series("<script>", [0, 1], [0, 1])], Axes("<b>", "&", mark_x=0, mark_label="<i>"))
    assert "<script>" not in html and "<b>" not in html
    assert "<b>" in "".join(svg_of(html).itertext())


def test_histogram_bars_are_as_high_as_their_counts():
    bars = svg_of(histogram([0, 5, 10], [0.0, 0.1, 0.5, 1.0], Axes("Size", "Boxes"), SIZE)).findall("rect")
    assert [float(bar.get("height")) for bar in bars] == [0, 119, 238]
    assert [bar.find("title").text for bar in bars][1] == "0.1 to 0.5: 5"
    assert float(bars[1].get("x")) == pytest.approx(48 + 166 + 2)


def test_an_empty_histogram_says_so():
    assert "No values" in histogram([0, 0], [0, 1, 2], Axes("Size", "Boxes"))


def test_histogram_wants_one_edge_more():
    with pytest.raises(ValueError, match="2 counts and 2 edges"):
        histogram([1, 2], [0, 1], Axes("Size", "Boxes"))

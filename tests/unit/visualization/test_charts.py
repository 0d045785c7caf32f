"""Charts place points by their values and skip missing values."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from ssd_train.visualization.charts import Axes, Series, histogram, line_chart

NAN = float("nan")
SIZE = (560, 300)
AXES = Axes("Epoch", "mAP", (0.0, 10.0), (0.0, 1.0))


def svg_of(html: str) -> ElementTree.Element:
    """Parse the chart strictly, as XML, which fails on unescaped text."""
    root = ElementTree.fromstring(html)
    return root.find("svg") if root.tag != "svg" else root


def paths(html: str):
    """Return the points of each path, run by run."""
    texts = [path.get("d") for path in svg_of(html).findall("path")]
    number = r"([-\d.]+),([-\d.]+)"
    return [[[tuple(map(float, p)) for p in re.findall(number, run)] for run in d.split("M")[1:]] for d in texts]


def test_line_chart_maps_values_to_coordinates():
    html = line_chart([Series("a", [0, 5, 10], [0, 0.5, 1])], AXES, SIZE)
    assert paths(html) == [[[(48, 264), (297, 145), (546, 26)]]]


@pytest.mark.parametrize(
    "x, y, runs, dots",
    [
        pytest.param([0, 5, 10], [0, NAN, 1], 0, 2, id="NaN leaves two single points"),
        pytest.param([0, 1, 2, 3, 4], [0, 1, NAN, 1, 0], 2, 0, id="NaN breaks the line"),
        pytest.param([0, 5, 10], [0, None, 1], 1, 0, id="None is skipped"),
        pytest.param([0, 5, 10], [0, "x", float("inf")], 0, 1, id="not finite"),
        pytest.param([None, 5], [0.5, 0.5], 0, 1, id="no epoch"),
        pytest.param([3], [0.5], 0, 1, id="one point is a dot"),
    ],
)
def test_line_chart_missing_values_split_runs(x, y, runs, dots):
    html = line_chart([Series("a", x, y)], AXES, SIZE)
    assert sum(len(path) for path in paths(html)) == runs
    assert sum("dot" in circle.get("class") for circle in svg_of(html).findall("circle")) == dots
    assert "nan" not in html.lower() and "inf" not in html.lower()


@pytest.mark.parametrize("series", [[], [Series("a", [], [])], [Series("a", [1, 2], [None, NAN])]])
def test_line_chart_without_values_is_an_empty_note(series):
    note = ElementTree.fromstring(line_chart(series, AXES))
    assert (note.tag, note.get("class")) == ("p", "empty") and note.text


@pytest.mark.parametrize(
    "values",
    [[0.0], [5.0, 5.0], [-3.0, -1.0], [1e-9, 2e-9], [1e12, 3e12], [0.0, 0.0], [-2.0, 7.0]],
    ids=lambda values: str(values),
)
def test_line_chart_limits_enclose_the_points(values):
    html = line_chart([Series("a", list(range(len(values))), values)], Axes("Epoch", "Loss"), SIZE)
    points = [point for path in paths(html) for run in path for point in run]
    points += [(float(c.get("cx")), float(c.get("cy"))) for c in svg_of(html).findall("circle")]
    assert points and all(48 <= x <= 546 and 26 <= y <= 264 for x, y in points)


@pytest.mark.parametrize("mark, expected", [(5.0, 1), (None, 0), (11.0, 0)], ids=["inside", "none", "outside"])
def test_line_chart_mark_inside_limits_is_drawn(mark, expected):
    html = line_chart([Series("a", [0, 10], [0, 1])], Axes("Epoch", "mAP", (0, 10), (0, 1), mark, "best"), SIZE)
    marks = [line for line in svg_of(html).findall("line") if line.get("class") == "mark"]
    assert len(marks) == expected and all(line.get("x1") == "297.0" for line in marks)


def test_histogram_bar_heights_are_proportional_to_counts():
    bars = svg_of(histogram([("train", [0, 5, 15])], [0.0, 0.1, 0.5, 1.0], Axes("Size", "%"), SIZE)).findall("rect")
    # 0, 25 and 75 of 80 % in a chart of 238
    assert [float(bar.get("height")) for bar in bars] == pytest.approx([0, 238 * 25 / 80, 238 * 75 / 80], abs=0.01)
    assert re.findall(r"[\d.]+", bars[1].find("title").text) == ["0.1", "0.5", "5"]
    assert float(bars[1].get("x")) == pytest.approx(48 + 166 + 2)


def test_histogram_of_two_series_compares_shares():
    """Splits of different size with the same sizes of boxes have equally high bars, side by side."""
    html = histogram([("train", [30, 10]), ("validation", [3, 1])], [0, 1, 2], Axes("Size", "%"), SIZE)
    first, second, third, fourth = svg_of(html).findall("rect")
    assert first.get("height") == third.get("height") and second.get("height") == fourth.get("height")
    assert float(first.get("x")) + float(first.get("width")) <= float(third.get("x")) < float(second.get("x"))
    assert first.get("class") != third.get("class")
    assert [key.tail for key in ElementTree.fromstring(html).iter("i")] == ["train", "validation"]


def test_line_chart_whole_x_has_whole_ticks_only():
    series = Series("a", [1, 2, 3], [1, 2, 3])
    for whole, expected in ((True, ["1", "2", "3"]), (False, ["1", "1.5", "2", "2.5", "3"])):
        svg = svg_of(line_chart([series], Axes("Epoch", "Loss", whole_x=whole), SIZE))
        texts = [t.text for t in svg.findall("text") if float(t.get("y")) == 300 - 36 + 15]
        assert texts == expected, whole


def test_histogram_without_counts_is_an_empty_note():
    html = histogram([("train", [0, 0])], [0, 1, 2], Axes("Size", "Boxes"))
    assert ElementTree.fromstring(html).get("class") == "empty"

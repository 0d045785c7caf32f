"""Boxes are drawn at their pixels, labels stay inside the image, and the input image is not modified."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.errors import DataError
from ssd_train.visualization import draw
from ssd_train.visualization.draw import (
    CLASS_COLOURS,
    FALSE_STYLE,
    TRUTH_STYLE,
    WHITE,
    BoxLabels,
    class_label,
    contact_sheet,
    draw_detections,
    draw_labels,
    draw_marks,
    text_size,
)

NAMES = ClassNames(("apple", "pear"))


def grey(width: int = 200, height: int = 120) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the mask (H, W) of the pixels that differ."""
    return (before != after).any(axis=2)


def detections(*rows, size_wh=(200, 120)) -> Detections:
    boxes, scores, ids = zip(*[(row[2:], row[1], row[0]) for row in rows])
    return Detections(boxes, scores, ids, size_wh)


def boxes_on(image, *layer):
    return draw_marks(image, BoxLabels(*layer))


def test_draw_boxes_colours_the_edge_pixels():
    drawn = boxes_on(grey(), np.array([[20, 30, 80, 90]]), [""], [(1, 2, 3)])
    for x, y in ((20, 30), (79, 89), (20, 89), (50, 30), (50, 89), (20, 60), (79, 60)):
        assert tuple(drawn[y, x]) == (1, 2, 3), (x, y)
    assert tuple(drawn[60, 50]) == (128, 128, 128)
    touched = changed(grey(), drawn)
    # outside the box there is only the dark outline
    assert not touched[:29].any() and not touched[91:].any() and not touched[:, :19].any() and not touched[:, 81:].any()


def test_draw_detections_and_truth_keep_the_input_image():
    image = grey()
    drawn = draw_detections(image, detections((0, 0.9, 10, 10, 50, 50)), NAMES, 0.3)
    draw_labels(image, LabeledImage("a", [[10, 10, 50, 50]], [1]), NAMES)
    assert (image == grey()).all() and not np.shares_memory(image, drawn)


def test_draw_truth_is_dashed_white_and_detections_are_solid():
    truth = boxes_on(grey(), np.array([[20, 20, 180, 100]]), [""], [WHITE], TRUTH_STYLE)
    top = truth[20, 20:180]
    assert 0.3 < (top == WHITE).all(axis=1).mean() < 0.7
    # dark between the dashes: visible on a white background
    assert top[(top != WHITE).any(axis=1)].max() < 100
    solid = boxes_on(grey(), np.array([[20, 20, 180, 100]]), [""], [CLASS_COLOURS[0]])
    assert (solid[20, 20:180] == CLASS_COLOURS[0]).all()


def test_draw_false_positive_is_dotted_in_its_colour_with_a_black_label():
    box = np.array([[20, 40, 180, 110]])
    drawn = boxes_on(grey(), box, ["x"], [CLASS_COLOURS[0]], FALSE_STYLE)
    bottom = drawn[109, 20:180]
    coloured = (bottom == CLASS_COLOURS[0]).all(axis=1)
    assert 0.3 < coloured.mean() < 0.7 and np.abs(np.diff(coloured.astype(int))).sum() > 40
    hit = boxes_on(grey(), box, ["x"], [CLASS_COLOURS[0]])
    assert np.median(drawn[26:38, 21:27]) < 60 < 100 < np.median(hit[26:38, 21:27].max(axis=2))


def test_draw_marked_box_is_tinted_with_a_thicker_line():
    box = np.array([[20, 40, 180, 110]])
    marks = [BoxLabels(box, [""], [CLASS_COLOURS[0]], marked=np.array([marked])) for marked in (False, True)]
    plain, marked = (draw_marks(grey(), one) for one in marks)
    assert tuple(plain[75, 100]) == tuple(grey()[75, 100]) != tuple(marked[75, 100])
    widths = [(drawn[75, 15:60] == CLASS_COLOURS[0]).all(axis=1).sum() for drawn in (plain, marked)]
    assert widths[1] == 2 * widths[0]


@pytest.mark.parametrize(
    "threshold, expected",
    [
        pytest.param(0.2, [True, True], id="below both"),
        pytest.param(0.5, [True, True], id="equal is drawn"),
        pytest.param(0.51, [True, False], id="above one"),
        pytest.param(0.95, [False, False], id="above both"),
    ],
)
def test_draw_detections_below_threshold_are_left_out(threshold, expected):
    detected = detections((0, 0.9, 10, 30, 50, 70), (1, 0.5, 110, 30, 190, 90))
    drawn = draw_detections(grey(), detected, NAMES, threshold)
    colours = [tuple(drawn[50, 10]) == CLASS_COLOURS[0], tuple(drawn[60, 110]) == CLASS_COLOURS[1]]
    assert colours == expected


def test_draw_detections_and_truth_scale_boxes_to_the_image():
    detected = detections((0, 0.9, 200, 120, 400, 240), size_wh=(400, 240))
    drawn = draw_detections(grey(200, 120), detected, NAMES, 0.3)
    assert tuple(drawn[100, 100]) == CLASS_COLOURS[0] and tuple(drawn[119, 150]) == CLASS_COLOURS[0]
    truth = draw_labels(grey(200, 120), LabeledImage("a", [[200, 120, 400, 240]], [0], (400, 240)), NAMES)
    assert tuple(truth[60, 100]) == CLASS_COLOURS[0]


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((0, 0, 200, 120), id="whole image"),
        pytest.param((0, 0, 1, 1), id="one pixel in the corner"),
        pytest.param((199, 119, 200, 120), id="last pixel"),
        pytest.param((150, 0, 200, 4), id="flat at the top right"),
    ],
)
@pytest.mark.parametrize("name", ["a", "a name much longer than the picture is wide " * 3])
def test_draw_detections_labels_stay_inside(box, name):
    """A label's background has the colour of the class."""
    classes = ClassNames((name,))
    drawn = draw_detections(grey(), detections((0, 0.9, *box)), classes, 0.3)
    assert drawn.shape == grey().shape and changed(grey(), drawn).any()
    label_rows = (np.abs(drawn.astype(int) - CLASS_COLOURS[0]).max(axis=2) < 25).any(axis=1).sum()
    # a full line of text, not cut by the border
    assert label_rows >= draw.text_wh("a", text_size((200, 120)))[1]


def test_draw_marks_labels_of_two_layers_do_not_overlap():
    """The labels of both layers are fully visible, and no box line crosses them."""
    size = text_size((200, 120))
    width, height = draw.text_wh("pear", size)
    width += 2 * max(1, size // 6)
    box, colour = (40, 40, 160, 100), CLASS_COLOURS[1]
    # the first label's place, above its box, is also that of the truth's label; the second box crosses both
    found = BoxLabels(np.array([(40, 100 + height, 160, 120), (44, 30, 150, 107)]), ["pear", ""], [colour] * 2)
    truth = BoxLabels(np.array([box]), ["pear"], [WHITE], TRUTH_STYLE)
    together = draw_marks(grey(), found, truth)

    def places(background):
        """Return the upper left corners of fully visible labels, found with the image of a label drawn alone."""
        alone = draw_marks(grey(), BoxLabels(np.array([(40, 60, 44, 64)]), ["pear"], [background]))[60 - height : 60]
        template = alone[:, 40 : 40 + width].astype(int)
        return [
            (x, y)
            for y in range(120 - height)
            for x in range(200 - width)
            # labels are slightly transparent
            if np.abs(together[y : y + height, x : x + width].astype(int) - template).max() < 40
        ]

    assert places(colour) and places(WHITE)


def test_class_label_without_glyphs_is_the_number(only_built_in_font):
    names = ClassNames(("设备", "부호", "plain", "line\nbreak"))
    assert [class_label(names, index) for index in range(4)] == ["#0", "#1", "plain", "line break"]
    draw_detections(grey(), detections((0, 0.9, 10, 10, 90, 90)), names, 0.3)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(np.zeros(4, np.uint8), id="a row"),
        pytest.param(np.zeros((4, 4), np.uint8), id="grey"),
        pytest.param(np.zeros((4, 4, 4), np.uint8), id="four channels"),
        pytest.param(np.zeros((4, 4, 3), np.float32), id="float"),
        pytest.param(np.zeros((0, 4, 3), np.uint8), id="empty"),
    ],
)
def test_draw_boxes_invalid_image_raises(image):
    with pytest.raises(DataError):
        boxes_on(image, np.zeros((0, 4)), [], [])


@pytest.mark.parametrize("count, rows", [(0, 1), (1, 1), (3, 1), (4, 2), (6, 2)])
def test_contact_sheet_grid(count, rows):
    red = np.zeros((50, 50, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
    sheet = contact_sheet([red] * count, ["name"] * count, 3, (100, 120))
    assert sheet.shape == (rows * 120, 300, 3)
    for index in range(rows * 3):
        centre = sheet[index // 3 * 120 + 70, index % 3 * 100 + 50]
        assert tuple(centre) == ((200, 0, 0) if index < count else (255, 255, 255)), index

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_train import boxes as B

SIZE = (200, 120)  # width, height: unequal, so that a swap shows

# quarters are exact in float32, so that round trips are exact too
quarters = st.integers(0, 4 * 120).map(lambda n: n / 4)
one_box = st.tuples(quarters, quarters, quarters, quarters).map(
    lambda v: [min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3])]
)
some_boxes = st.lists(one_box, max_size=6).map(B.as_boxes)


@pytest.mark.parametrize("values", [[], np.zeros((0, 4)), np.array([])], ids=["list", "array", "flat"])
def test_no_boxes_have_four_columns(values):
    assert B.as_boxes(values).shape == (0, 4) and B.as_boxes(values).dtype == np.float32


@given(some_boxes)
def test_turns_undo_each_other(boxes):
    width, height = SIZE
    assert (B.flip_x(B.flip_x(boxes, SIZE), SIZE) == boxes).all()
    assert (B.flip_y(B.flip_y(boxes, SIZE), SIZE) == boxes).all()
    assert (B.rotate_cw(B.rotate_ccw(boxes, SIZE), (height, width)) == boxes).all()
    twice = B.rotate_cw(B.rotate_cw(boxes, SIZE), (height, width))
    assert (twice == B.flip_x(B.flip_y(boxes, SIZE), SIZE)).all()


MOVES = {
    "flip_x": (B.flip_x, lambda image: image[:, ::-1]),
    "flip_y": (B.flip_y, lambda image: image[::-1]),
    "rotate_ccw": (B.rotate_ccw, lambda image: np.rot90(image, 1)),
    "rotate_cw": (B.rotate_cw, lambda image: np.rot90(image, -1)),
}


@pytest.mark.parametrize("move, turn", MOVES.values(), ids=MOVES.keys())
def test_boxes_move_with_the_pixels(move, turn):
    image = np.zeros(SIZE[::-1], np.uint8)
    image[10:25, 30:70] = 1
    rows, columns = np.nonzero(turn(image))
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert move(B.as_boxes([[30, 10, 70, 25]]), SIZE).tolist() == [expected]


IOUS = {
    "same": ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
    "half": ([0, 0, 10, 10], [0, 0, 5, 10], 0.5),
    "shifted": ([0, 0, 10, 10], [5, 5, 15, 15], 25 / 175),
    "touching": ([0, 0, 10, 10], [10, 0, 20, 10], 0.0),
    "apart": ([0, 0, 10, 10], [20, 20, 30, 30], 0.0),
    "both empty": ([3, 3, 3, 3], [3, 3, 3, 3], 0.0),
    "inverted": ([10, 10, 0, 0], [0, 0, 10, 10], 0.0),
}


@pytest.mark.parametrize("a, b, expected", IOUS.values(), ids=IOUS.keys())
def test_iou(a, b, expected):
    assert B.iou_matrix(B.as_boxes([a]), B.as_boxes([b]))[0, 0] == pytest.approx(expected)
    assert B.iou_matrix(B.as_boxes([b]), B.as_boxes([a]))[0, 0] == pytest.approx(expected)


def test_clip_boxes():
    clipped = B.clip_boxes(B.as_boxes([[-5, -5, 300, 300], [190, 100, 210, 110], [250, 10, 260, 20]]), SIZE)
    assert clipped.tolist() == [[0, 0, 200, 120], [190, 100, 200, 110], [200, 10, 200, 20]]


INVALID = {
    "good": ([[0, 0, 200, 120]], SIZE, None),
    "none": ([], SIZE, None),
    "nan": ([[0, 0, 10, 10], [0, np.nan, 5, 5]], SIZE, (1, "is not finite")),
    "no width": ([[5, 0, 5, 10]], SIZE, (0, "has x2 <= x1 or y2 <= y1")),
    "negative": ([[-1, 0, 5, 5]], SIZE, (0, "leaves the image")),
    "too wide": ([[0, 0, 201, 5]], SIZE, (0, "leaves the image")),
    "too high": ([[0, 0, 5, 121]], SIZE, (0, "leaves the image")),
    "size unknown": ([[0, 0, 5000, 5000]], None, None),
}


@pytest.mark.parametrize("boxes, size, expected", INVALID.values(), ids=INVALID.keys())
def test_first_invalid(boxes, size, expected):
    assert B.find_invalid_box(B.as_boxes(boxes), size) == expected

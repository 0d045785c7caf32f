from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_train.data.structures import ClassNames, Detections, LabeledImage, LabelIssue, Labels
from ssd_train.errors import DataError


def record(boxes=((10, 20, 30, 40),), class_ids=(0,), size_wh=(100, 80), name="a/b/c.jpg", where="m:3"):
    return LabeledImage(name, boxes, class_ids, size_wh, where)


BAD_NAMES = {
    "twice": (["cat", "dog", "cat"], "found 'cat' twice"),
    "blank": (["cat", " "], "found ' ', expected a name that is not blank"),
    "number": (["cat", 3], "found 3, expected a name"),
}


@pytest.mark.parametrize("names, message", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_class_names_refuse(names, message):
    with pytest.raises(DataError, match=message):
        ClassNames(tuple(names))


def test_class_names_look_up():
    names = ClassNames(["cat", "dog"])
    assert (len(names), list(names), names[1], names.index("dog")) == (2, ["cat", "dog"], "dog", 1)
    with pytest.raises(DataError, match="class 'cow' is unknown, expected one of 'cat', 'dog'"):
        names.index("cow")


BAD_RECORDS = {
    "more ids than boxes": ({"class_ids": [0, 1]}, "^m:3: found 1 boxes and 2 class ids"),
    "negative id": ({"class_ids": [-1]}, "^m:3: found class id -1, expected 0 or more"),
    "inverted": ({"boxes": [[30, 20, 10, 40]]}, r"^m:3: box 0 has x2 <= x1 or y2 <= y1 of 100x80: \[30.0, 20.0, 10.0"),
    "outside": ({"boxes": [[10, 20, 101, 40]]}, "^m:3: box 0 leaves the image of 100x80"),
    "nan": ({"boxes": [[10, np.nan, 30, 40]]}, "^m:3: box 0 is not finite"),
    "no place": ({"where": "", "class_ids": []}, "^a/b/c.jpg: found 1 boxes and 0 class ids"),
}


@pytest.mark.parametrize("change, message", BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
def test_records_refuse(change, message):
    with pytest.raises(DataError, match=message):
        record(**change)


def test_a_record_without_boxes_is_a_background_image():
    empty = record(boxes=[], class_ids=[])
    assert empty.boxes.shape == (0, 4) and empty.boxes.dtype == np.float32
    assert empty.class_ids.shape == (0,) and empty.class_ids.dtype == np.int64
    assert empty.basename == "c.jpg"


BAD_DETECTIONS = {
    "lengths": ([[0, 0, 1, 1]], [0.5, 0.4], [0], "found 1 boxes, 2 scores, 1 class ids"),
    "nan box": ([[0, 0, np.nan, 1]], [0.5], [0], "NaN or infinity"),
    "nan score": ([[0, 0, 1, 1]], [np.nan], [0], "NaN or infinity"),
    "infinite score": ([[0, 0, 1, 1]], [np.inf], [0], "NaN or infinity"),
}


@pytest.mark.parametrize("boxes, scores, ids, message", BAD_DETECTIONS.values(), ids=BAD_DETECTIONS.keys())
def test_detections_refuse(boxes, scores, ids, message):
    with pytest.raises(DataError, match=message):
        Detections(boxes, scores, ids, (10, 10))


def test_detections_above():
    detections = Detections([[0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3]], [0.9, 0.5, 0.1], [0, 1, 2], (10, 10))
    kept = detections.above(0.5)
    assert (len(kept), kept.class_ids.tolist(), kept.boxes.tolist()) == (2, [0, 1], [[0, 0, 1, 1], [1, 1, 2, 2]])


def test_rows_are_sorted_and_clipped():
    detections = Detections.from_rows([[1, 0.2, 0, 0, 0.5, 0.5], [0, 0.8, -0.1, 0.25, 1.2, 0.75]], (200, 100))
    assert detections.scores.tolist() == pytest.approx([0.8, 0.2])
    assert detections.boxes.tolist() == [[0, 25, 200, 75], [0, 0, 100, 50]]
    assert Detections.from_rows([], (200, 100)).boxes.shape == (0, 4)


fraction = st.floats(0, 1, width=32)
row = st.tuples(st.integers(0, 90), fraction, fraction, fraction, fraction, fraction)


@given(st.lists(row, max_size=5))
def test_rows_round_trip(rows):
    once = Detections.from_rows(rows, (640, 480))
    again = Detections.from_rows(once.to_rows(), (640, 480))
    np.testing.assert_allclose(again.boxes, once.boxes, atol=1e-3)
    np.testing.assert_array_equal(again.scores, once.scores)
    np.testing.assert_array_equal(again.class_ids, once.class_ids)


def label_set(*records, names=("cat", "dog", "cow")):
    return Labels(records, ClassNames(names), (LabelIssue("m:9", "no label"),), (), "m")


def test_label_sets_refuse_unknown_ids():
    with pytest.raises(DataError, match="m:3: found class id 3, expected less than 3"):
        label_set(record(class_ids=[3]))


def test_with_classes_maps_by_name():
    labels = label_set(record(class_ids=[0]), record(class_ids=[2]), record(boxes=[], class_ids=[]))
    mapped = labels.remap_classes(ClassNames(["cow", "ant", "cat"]))  # nobody needs dog
    assert [r.class_ids.tolist() for r in mapped.records] == [[2], [0], []]
    assert mapped.skipped == labels.skipped
    with pytest.raises(DataError, match=r"^m: found class 'cow' \(1 boxes\), expected only 'cat', 'dog'$"):
        labels.remap_classes(ClassNames(["cat", "dog"]))

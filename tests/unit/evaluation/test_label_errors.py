"""Likely label errors of labels and detections that are made up."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ssd_train.data.structures import ClassNames, Detections, Ignored, LabeledImage
from ssd_train.evaluation.label_errors import KINDS, find_label_errors

NAMES = ClassNames(("cat", "dog"))
SIZE = (200, 200)
A, B, FAR = [10, 10, 60, 60], [100, 100, 160, 160], [120, 10, 180, 50]
CAT, DOG = 0, 1


def image(name, labels, detections, **more):
    """An image with labels (box, class id) and detections (box, class id, score), the best first."""
    record = LabeledImage(name, [box for box, _ in labels], [c for _, c in labels], SIZE, name, **more)
    rows = sorted(detections, key=lambda row: -row[2])
    return record, Detections([r[0] for r in rows], [r[2] for r in rows], [r[1] for r in rows], SIZE)


def sound(count):
    """Images whose labels are detected with a score of 0.9."""
    return [image(f"sound{i}", [(A, CAT), (B, DOG)], [(A, CAT, 0.9), (B, DOG, 0.9)]) for i in range(count)]


def errors_of(*images, names=NAMES):
    return find_label_errors([*sound(20), *images], names)


def moved(box, dx):
    return [box[0] + dx, box[1], box[2] + dx, box[3]]


def test_sound_labels_have_no_error_and_no_images_neither():
    assert errors_of() == [] and find_label_errors([], NAMES) == []
    assert find_label_errors([image("empty", [], [])], NAMES) == []


@pytest.mark.parametrize(
    "kind, labels, detections, label, detection",
    [
        ("missing", [(A, CAT)], [(A, CAT, 0.9), (FAR, DOG, 0.8)], None, 1),
        ("spurious", [(A, CAT), (FAR, CAT)], [(A, CAT, 0.9)], 1, None),
        ("wrong_class", [(A, DOG), (B, DOG)], [(A, CAT, 0.9), (B, DOG, 0.8)], 0, 0),
        ("location", [(B, DOG), (moved(A, 20), CAT)], [(A, CAT, 0.9), (B, DOG, 0.8)], 1, 0),
        ("location", [(B, DOG), ([5, 5, 95, 95], CAT)], [(A, CAT, 0.9), (B, DOG, 0.8)], 1, 0),
        ("duplicate", [(A, CAT), (moved(A, 3), CAT)], [(A, CAT, 0.9)], 1, None),
    ],
)
def test_each_kind_is_the_first_error_with_its_boxes(kind, labels, detections, label, detection):
    first, *others = errors_of(image("doubtful", labels, detections))
    assert (first.kind, first.image, first.label, first.detection) == (kind, 20, label, detection)
    assert 0.5 < first.score <= 1 and first.reason
    assert all(error.score < 0.2 for error in others), others


def test_swapped_labels_of_two_images_name_each_other_and_hide_other_errors():
    first, second = [(A, CAT), (B, DOG)], [(FAR, DOG), ([10, 100, 90, 190], CAT)]
    one = image("one", second, [(*row, 0.9) for row in first])
    two = image("two", first, [(*row, 0.9) for row in second])
    errors = errors_of(one, two)
    assert [(e.kind, e.image, e.other) for e in errors] == [("swapped_images", 20, 21), ("swapped_images", 21, 20)]
    assert min(e.score for e in errors) > 0.9


def test_detection_in_a_crowd_or_of_a_difficult_object_is_not_missing():
    for crowd in (True, False):
        ignored = Ignored([FAR], [DOG], [crowd])
        assert errors_of(image("ignoring", [(A, CAT)], [(A, CAT, 0.9), (FAR, DOG, 0.8)], ignored=ignored)) == []


def test_object_of_several_detections_is_missing_once():
    seen = [(FAR, DOG, 0.8), (moved(FAR, 4), CAT, 0.6), (moved(FAR, -4), DOG, 0.5)]
    assert [(e.kind, e.detection) for e in errors_of(image("twice", [], seen))] == [("missing", 0)]


def test_two_labels_of_two_classes_in_one_box_are_no_swapped_class():
    both = image("both", [(A, CAT), (A, DOG)], [(A, CAT, 0.9), (A, DOG, 0.8)])
    assert not [e for e in errors_of(both) if e.kind == "wrong_class"]


def test_shifted_label_beside_its_detection_is_neither_missing_nor_spurious():
    errors = errors_of(image("shifted", [(moved(A, 24), CAT)], [(A, CAT, 0.9)]))
    assert [e.kind for e in errors if e.score > 0.5] == ["location"]
    assert not [e for e in errors if e.kind == "missing"]


def test_missed_label_counts_less_where_such_objects_are_rarely_detected():
    """Small cats are detected one time in five, large ones always."""
    small = [10, 10, 20, 20]
    images = [image(f"small{i}", [(small, CAT)], [(small, CAT, 0.9)] * (i % 5 == 0)) for i in range(60)]
    images += [image(f"large{i}", [(A, CAT)], [(A, CAT, 0.9)]) for i in range(60)]
    images.append(image("doubtful", [(B, CAT)], []))
    first, second, *_ = find_label_errors(images, NAMES)
    assert first.kind == second.kind == "spurious" and first.image == 120 and first.score > 1.5 * second.score


def test_errors_do_not_depend_on_the_order_of_the_images_or_boxes():
    random = np.random.RandomState(0)

    def any_boxes(count):
        corner, side = random.uniform(0, 120, (count, 2)), random.uniform(10, 80, (count, 2))
        return np.concatenate([corner, corner + side], axis=1).round(1).tolist()

    images = []
    for index in range(12):
        labels = [(box, random.randint(2)) for box in any_boxes(4)]
        seen = [(box, random.randint(2), random.uniform()) for box in any_boxes(6)]
        seen += [(moved(box, 3), c, random.uniform()) for box, c in labels]
        images.append(image(f"{index}", labels, seen))
    errors = find_label_errors(images, NAMES)
    assert {error.kind for error in errors} >= {"missing", "spurious", "location"}
    assert all(0 < error.score <= 1 for error in errors) and {error.kind for error in errors} <= set(KINDS)
    assert [error.score for error in errors] == sorted((error.score for error in errors), reverse=True)

    flipped = []
    for record, detections in images[::-1]:
        flipped.append(
            (dataclasses.replace(record, boxes=record.boxes[::-1], class_ids=record.class_ids[::-1]), detections)
        )
    others = find_label_errors(flipped, NAMES)

    def comparable(error, records):
        record = records[error.image][0]
        box = None if error.label is None else tuple(record.boxes[error.label].tolist())
        return error.kind, round(error.score, 9), record.name, box, error.detection

    # of two equal duplicates, either may be the error
    sides = [(errors, images), (others, flipped)]
    found, again = ({comparable(e, of) for e in side if e.kind != "duplicate"} for side, of in sides)
    assert found == again and len(errors) == len(others)

"""The worst mistakes are ranked and have the right reason."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.visualization.error_analysis import worst_cases
from ssd_train.visualization.report_data import Sample

A, B, C = (10, 10, 50, 50), (100, 10, 140, 50), (100, 60, 140, 100)
NAMES = ClassNames(("apple", "pear"))


def sample(name, truth, detected, image=None) -> Sample:
    record = LabeledImage(name, [box for _, box in truth], [c for c, _ in truth])
    boxes, scores, class_ids = [box for *_, box in detected], [s for _, s, _ in detected], [c for c, *_ in detected]
    detections = Detections(boxes, scores, class_ids, (200, 120))
    return Sample(name, np.full((120, 200, 3), 128, np.uint8) if image is None else image, record, detections)


def test_worst_cases_misses_are_ranked_by_count():
    samples = [
        sample("all found", [(0, A)], [(0, 0.9, A)]),
        sample("one missed", [(0, A), (0, B)], [(0, 0.9, A)]),
        sample("three missed", [(0, A), (0, B), (1, C)], []),
        sample("one missed too", [(1, C)], []),
    ]
    misses, false_positives = worst_cases(samples, NAMES, 0.3, limit=10)
    assert [case.name for case in misses] == ["three missed", "one missed", "one missed too"]
    assert misses[0].caption == "3 of 3 missed: 2 x apple not detected, pear not detected"
    assert false_positives == []


def test_worst_cases_false_positives_are_ranked_by_score():
    samples = [
        sample("right", [(0, A)], [(0, 0.99, A)]),
        sample("low", [], [(0, 0.4, A)]),
        sample("below", [], [(0, 0.29, A)]),
        # the correct detection scores higher, but only the incorrect one counts
        sample("high", [(0, A)], [(0, 0.95, A), (1, 0.8, B)]),
    ]
    misses, false_positives = worst_cases(samples, NAMES, 0.3, limit=10)
    assert [(case.name, case.caption) for case in false_positives] == [
        ("high", "pear 0.80: no label here"),
        ("low", "apple 0.40: no label here"),
    ]


@pytest.mark.parametrize(
    "detected, expected",
    [
        pytest.param([], "apple not detected", id="no detections"),
        pytest.param([(0, 0.12, A)], "apple scored too low (0.12)", id="score too low"),
        pytest.param([(1, 0.9, A)], "apple detected as pear", id="other class"),
        pytest.param([(0, 0.9, (30, 10, 70, 50))], "apple box too far off", id="loose box"),
        pytest.param([(0, 0.9, B)], "apple not detected", id="elsewhere"),
    ],
)
def test_worst_cases_miss_has_its_reason(detected, expected):
    misses, false_positives = worst_cases([sample("a", [(0, A)], detected)], NAMES, 0.3, 5)
    assert misses[0].caption == f"1 of 1 missed: {expected}"


@pytest.mark.parametrize(
    "detected, expected",
    [
        pytest.param([(0, 0.9, B)], "apple 0.90: no label here", id="background"),
        pytest.param([(1, 0.9, A)], "pear 0.90: labelled apple", id="other class"),
        pytest.param([(0, 0.9, (30, 10, 70, 50))], "apple 0.90: IoU with apple is only 0.33", id="loose box"),
        pytest.param([(0, 0.9, A), (0, 0.5, A)], "apple 0.50: second box on one object", id="twice"),
        pytest.param([(5, 0.9, B)], "#5 0.90: no label here", id="unknown class"),
    ],
)
def test_worst_cases_false_positive_has_its_reason(detected, expected):
    misses, false_positives = worst_cases([sample("a", [(0, A)], detected)], NAMES, 0.3, 5)
    assert false_positives[0].caption == expected


def test_worst_cases_read_only_returned_images():
    read = []

    def reader(name):
        def image():
            read.append(name)
            return np.full((120, 200, 3), 128, np.uint8)

        return image

    truth = {"none": [], "one": [(0, A)], "two": [(0, A), (0, B)]}
    samples = [sample(name, boxes, [], reader(name)) for name, boxes in truth.items()]
    misses, false_positives = worst_cases(samples, NAMES, 0.3, limit=1)
    assert [case.name for case in misses] == ["two"] and read == ["two"]

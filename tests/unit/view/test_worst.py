"""The worst pictures come first, each with the right reason."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train.data.records import ClassNames, Detections, Record
from ssd_train.view.report_data import Sample
from ssd_train.view.worst import worst_cases

A, B, C = (10, 10, 50, 50), (100, 10, 140, 50), (100, 60, 140, 100)
NAMES = ClassNames(("apple", "pear"))


def sample(name, truth, said, image=None) -> Sample:
    record = Record(name, [box for _, box in truth], [c for c, _ in truth])
    detections = Detections([box for *_, box in said], [s for _, s, _ in said], [c for c, *_ in said], (200, 120))
    return Sample(name, np.full((120, 200, 3), 128, np.uint8) if image is None else image, record, detections)


def test_pictures_are_ranked_by_missed_objects():
    samples = [
        sample("all found", [(0, A)], [(0, 0.9, A)]),
        sample("one missed", [(0, A), (0, B)], [(0, 0.9, A)]),
        sample("three missed", [(0, A), (0, B), (1, C)], []),
        sample("one missed too", [(1, C)], []),
    ]
    worst = worst_cases(samples, NAMES, 0.3, limit=10)
    assert [case.name for case in worst.misses] == ["three missed", "one missed", "one missed too"]
    assert worst.misses[0].caption == "3 of 3 missed: 2 x apple not seen, pear not seen"
    assert worst.false_alarms == ()


def test_false_alarms_are_ranked_by_score():
    samples = [
        sample("right", [(0, A)], [(0, 0.99, A)]),
        sample("low", [], [(0, 0.4, A)]),
        sample("below", [], [(0, 0.29, A)]),
        # the hit scores more, but only the false one counts
        sample("high", [(0, A)], [(0, 0.95, A), (1, 0.8, B)]),
    ]
    worst = worst_cases(samples, NAMES, 0.3, limit=10)
    assert [(case.name, case.caption) for case in worst.false_alarms] == [
        ("high", "pear 0.80: nothing is there"),
        ("low", "apple 0.40: nothing is there"),
    ]


@pytest.mark.parametrize(
    "said, expected",
    [
        pytest.param([], "apple not seen", id="silent"),
        pytest.param([(0, 0.12, A)], "apple scored too low (0.12)", id="score too low"),
        pytest.param([(1, 0.9, A)], "apple seen as pear", id="other class"),
        pytest.param([(0, 0.9, (30, 10, 70, 50))], "apple box too far off", id="loose box"),
        pytest.param([(0, 0.9, B)], "apple not seen", id="elsewhere"),
    ],
)
def test_why_an_object_was_missed(said, expected):
    worst = worst_cases([sample("a", [(0, A)], said)], NAMES, 0.3, 5)
    assert worst.misses[0].caption == f"1 of 1 missed: {expected}"


@pytest.mark.parametrize(
    "said, expected",
    [
        pytest.param([(0, 0.9, B)], "apple 0.90: nothing is there", id="nothing"),
        pytest.param([(1, 0.9, A)], "pear 0.90: is truly apple", id="other class"),
        pytest.param([(0, 0.9, (30, 10, 70, 50))], "apple 0.90: overlaps apple by only 0.33", id="loose box"),
        pytest.param([(0, 0.9, A), (0, 0.5, A)], "apple 0.50: second box on one object", id="twice"),
        pytest.param([(5, 0.9, B)], "#5 0.90: nothing is there", id="unknown class"),
    ],
)
def test_why_a_detection_is_false(said, expected):
    worst = worst_cases([sample("a", [(0, A)], said)], NAMES, 0.3, 5)
    assert worst.false_alarms[0].caption == expected


def test_two_objects_in_one_box_and_equal_reasons_counted_together():
    near = (10, 12, 50, 52)
    both = sample("a", [(0, A), (0, near), (1, B), (1, C)], [(0, 0.9, A), (1, 0.1, B), (1, 0.2, C)])
    worst = worst_cases([both], NAMES, 0.3, 5)
    assert worst.misses[0].caption == "3 of 4 missed: 2 x pear scored too low, apple shares a box with another"


def test_only_the_pictures_that_are_shown_are_read():
    read = []

    def reader(name):
        def image():
            read.append(name)
            return np.full((120, 200, 3), 128, np.uint8)

        return image

    truth = {"none": [], "one": [(0, A)], "two": [(0, A), (0, B)]}
    samples = [sample(name, boxes, [], reader(name)) for name, boxes in truth.items()]
    worst = worst_cases(samples, NAMES, 0.3, limit=1)
    assert [case.name for case in worst.misses] == ["two"] and read == ["two"]


def test_no_samples_no_cases():
    worst = worst_cases([], NAMES, 0.3, 5)
    assert worst.misses == () and worst.false_alarms == ()

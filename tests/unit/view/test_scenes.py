"""Truth and detections matched on cases made by hand, and crops around a place."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train.data.records import ClassNames, Detections, Ignored, Record
from ssd_train.view.palette import CLASS_COLOURS
from ssd_train.view.report_data import Sample
from ssd_train.view.scenes import crop_around, draw_scene, match

A, B = (10, 10, 50, 50), (100, 10, 140, 50)
NAMES = ClassNames(("apple", "pear"))


def sample(truth, said, size_wh=(200, 120)) -> Sample:
    """`truth` rows (class, box), `said` rows (class, score, box)."""
    record = Record("a", [box for _, box in truth], [c for c, _ in truth])
    detections = Detections([box for *_, box in said], [s for _, s, _ in said], [c for c, *_ in said], size_wh)
    return Sample("a", np.full((size_wh[1], size_wh[0], 3), 128, np.uint8), record, detections)


@pytest.mark.parametrize(
    "truth, said, found, correct",
    [
        pytest.param([(0, A)], [(0, 0.9, A)], [True], [True], id="hit"),
        pytest.param([(0, A)], [(1, 0.9, A)], [False], [False], id="other class"),
        pytest.param([(0, A)], [(0, 0.2, A)], [False], [], id="below the threshold"),
        pytest.param([(0, A)], [(0, 0.9, A), (0, 0.8, A)], [True], [True, False], id="the second is a false alarm"),
        pytest.param(
            [(0, A), (0, (10, 12, 50, 52))], [(0, 0.9, A), (0, 0.8, A)], [True, True], [True, True], id="two objects"
        ),
        pytest.param([(0, A)], [(0, 0.9, (30, 10, 70, 50))], [False], [False], id="overlap of a third"),
        pytest.param([(0, A)], [(0, 0.9, (10, 10, 50, 30))], [True], [True], id="overlap of exactly a half"),
        pytest.param([(0, A), (1, B)], [], [False, False], [], id="silent"),
        pytest.param([], [(0, 0.9, A)], [], [False], id="background"),
        pytest.param([], [], [], [], id="nothing at all"),
    ],
)
def test_match(truth, said, found, correct):
    answer = match(sample(truth, said), 0.3)
    assert answer.found.tolist() == found and answer.correct.tolist() == correct


def test_match_scales_labels_of_another_size():
    record = Record("a", [[20, 20, 100, 100]], [0], (400, 240))
    spoken = Detections([A], [0.9], [0], (200, 120))
    assert match(Sample("a", np.zeros((120, 200, 3), np.uint8), record, spoken), 0.3).found.all()


@pytest.mark.parametrize(
    "box, expected",
    [
        pytest.param((90, 50, 110, 70), (75, 35, 125, 85), id="in the middle"),
        pytest.param((0, 0, 20, 20), (0, 0, 50, 50), id="corner"),
        pytest.param((180, 100, 200, 120), (150, 70, 200, 120), id="other corner"),
        pytest.param((0, 0, 200, 120), (0, 0, 200, 120), id="whole picture"),
        pytest.param((90, 59, 110, 61), (75, 35, 125, 85), id="a flat box gets a square crop"),
    ],
)
def test_crop_around(box, expected):
    assert crop_around(np.array([box], np.float32), (200, 120)) == expected


def test_crop_around_holds_all_boxes():
    x1, y1, x2, y2 = crop_around(np.array([A, (150, 80, 170, 100)], np.float32), (200, 120))
    assert x1 <= 10 and y1 <= 10 and x2 >= 170 and y2 >= 100


def test_a_crop_shows_the_box_enlarged_at_its_place():
    case = sample([], [(0, 0.9, (90, 50, 110, 70))])
    drawn = draw_scene(case, match(case, 0.3), NAMES, (400, 400), np.array([[90, 50, 110, 70]], np.float32))
    # a crop of 50 pixels, four times as large: the box begins 15 pixels into it
    assert drawn.shape == (200, 200, 3)
    assert tuple(drawn[100, 60]) == CLASS_COLOURS[0] and tuple(drawn[100, 100]) == (128, 128, 128)


def test_a_function_may_read_the_picture():
    case = sample([(0, A)], [(0, 0.9, A)])
    lazy = Sample(case.name, lambda: case.image, case.truth, case.detections)
    whole = [draw_scene(one, match(one, 0.3), NAMES, (300, 300)) for one in (case, lazy)]
    assert (whole[0] == whole[1]).all() and whole[0].shape == (180, 300, 3)


def test_match_detection_in_an_ignored_region_is_not_wrong():
    ignored = Ignored([[100, 20, 180, 100]], [0], [True])
    record = Record("a", [[10, 20, 60, 70]], [0], (200, 120), "", ignored)
    said = Detections(
        [[110, 30, 130, 50], [110, 30, 130, 50], [150, 90, 190, 118]], [0.9, 0.8, 0.7], [0, 1, 0], (200, 120)
    )
    answer = match(Sample("a", np.zeros((120, 200, 3), np.uint8), record, said), 0.3)
    assert answer.correct.tolist() == [True, False, False] and not answer.found.any()

"""The title, the verdict and the next steps follow from the figures of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssd_train.data.structures import ClassNames
from ssd_train.visualization.report import render
from ssd_train.visualization.report_data import (
    ReportData,
    SubsetSummary,
    duration_text,
    next_steps,
    report_title,
    verdict,
)

NAMES = ClassNames(("RBC", "WBC", "Platelets"))


def subset(name="train", boxes=(400, 300, 200), deciles=tuple(0.1 + 0.05 * i for i in range(11))):
    return SubsetSummary(name, 300, 0, boxes, size_deciles=deciles)


def run(recall=0.8, precision=6 / 7, classes=(0.9, 0.95, 0.7), boxes=(100, 60, 40), images=60, **more) -> ReportData:
    """Return a report of a run without a weakness."""
    per_class = {name: {"AP@0.5": ap, "boxes": count} for name, ap, count in zip(NAMES, classes, boxes)}
    scores = {
        "mAP@0.5": 0.85, "images": images, "boxes": sum(boxes), "per_class": per_class,
        "best_f1": {"recall": recall, "precision": precision, "threshold": 0.4},
        "intervals": {"mAP": [0.4, 0.6], "mAP@0.5": [0.79, 0.9]},
    }  # fmt: skip
    given = {
        "scores": scores,
        "settings": {"image_shape": 512},
        "history": [{"epoch": epoch} for epoch in range(1, 11)],
        "best_epoch": 8,
        "data": (subset(), subset("validation", boxes)),
    }
    return ReportData("t", NAMES, **{**given, **more})


@pytest.mark.parametrize(
    "names, path, expected",
    [
        (("logo",), "demo/train/images", "Detector of logo, trained on demo"),
        (("a", "b"), "/data/fruit", "Detector of a and b, trained on fruit"),
        (("a", "b", "c"), "bccd/images/train", "Detector of a, b and c, trained on bccd"),
        (tuple("abcdefg"), "/opt/ml/input/data/train", "Detector of a, b, c, d and 3 more classes"),
        (("a",), "sets/cars.rec", "Detector of a, trained on cars"),
    ],
)
def test_report_title_names_classes_and_data(names, path, expected):
    assert report_title(ClassNames(names), Path(path)) == expected


@pytest.mark.parametrize(
    "figures, expected",
    [
        ({}, "Finds 8 of 10 objects, 1 in 7 detections is false; weakest: Platelets."),
        ({"recall": 1.0, "precision": 1.0}, "Finds all objects, no detection is false; weakest: Platelets."),
        (
            {"recall": 0.97, "precision": 0.5},
            "Finds 97 of 100 objects, 1 in 2 detections is false; weakest: Platelets.",
        ),
        (
            {"recall": 0.02, "precision": 0.04},
            "Finds 2 of 100 objects, 96 of 100 detections are false; weakest: Platelets.",
        ),
        ({"recall": 0.999}, "Finds 99 of 100 objects, 1 in 7 detections is false; weakest: Platelets."),
        ({"classes": (0.2, None, None)}, "Finds 8 of 10 objects, 1 in 7 detections is false."),
        ({"recall": 0.0, "precision": None}, "Finds no object: not one detection matches a label."),
        ({"recall": float("nan")}, "Finds no object: not one detection matches a label."),
        ({"scores": None}, "The model was not scored: there are no validation images with objects."),
    ],
)
def test_verdict_states_recall_precision_and_the_weakest_class(figures, expected):
    assert verdict(run(**figures)) == expected


def test_next_steps_of_a_good_run_are_none():
    assert next_steps(run()) == []
    assert "No rule found" in render(run())


@pytest.mark.parametrize(
    "change, words",
    [
        pytest.param({"best_epoch": 10}, ["--epochs 20"], id="best epoch is the last"),
        pytest.param({"random_weights": True}, ["random weights", "--pretrained"], id="random weights"),
        pytest.param(
            {"data": (subset(boxes=(400, 30, 12)),)}, ["Platelets (12) and WBC (30)", "50"], id="a class with few boxes"
        ),
        pytest.param({"data": (subset(boxes=(400, 300, 0)),)}, ["Platelets", "train"], id="a class that is missing"),
        pytest.param(
            {"data": (subset(deciles=tuple(0.01 * i for i in range(11))),), "settings": {"image_shape": 300}},
            ["6 px", "--image_shape 512", "predict --tile"],
            id="small boxes",
        ),
        pytest.param({"images": 20}, ["0.79 to 0.90", "20 validation images", "200 boxes"], id="few validation images"),
        pytest.param({"boxes": (100, 60, 4)}, ["fewer than 10 of Platelets"], id="few validation boxes of a class"),
    ],
)
def test_next_steps_name_each_weakness(change, words):
    (step,) = next_steps(run(**change))
    assert all(word in step for word in words), step


def rising(*scores):
    """Return the history of a run with these values of mAP, one an epoch; None: not measured."""
    return [{"epoch": epoch, "mAP": score} for epoch, score in enumerate(scores, 1)]


@pytest.mark.parametrize(
    "history, ap50, advised",
    [
        (rising(0.3, 0.4, 0.5, 0.6), 0.85, True),
        (rising(0.3, 0.4, 0.5, 0.6), 0.9, False),  # little is left to gain
        (rising(0.3, 0.6, 0.6, 0.605), 0.85, False),  # no more than chance in half of the run
        (rising(None, 0.4, None, 0.6), 0.85, True),
        (rising(None, None, None, 0.6), 0.85, True),
        (rising(None, float("nan"), None, 0.6), 0.85, True),
    ],
)
def test_next_steps_more_epochs_are_advised_while_the_score_rises(history, ap50, advised):
    scores = {**run().scores, "mAP@0.5": ap50}
    steps = next_steps(run(history=history, best_epoch=4, scores=scores))
    assert [("--epochs 8" in step) for step in steps] == ([True] if advised else [])


def test_next_steps_small_boxes_in_the_largest_input_are_for_tiles():
    (step,) = next_steps(run(data=(subset(deciles=tuple(0.01 * i for i in range(11))),)))
    assert "--image_shape" not in step and "predict --tile" in step


def test_next_steps_of_a_failed_run_begin_with_the_labels():
    failed = run(recall=0.0, precision=None, random_weights=True)
    failed = ReportData("t", NAMES, scores={**failed.scores, "mAP@0.5": 0.0}, random_weights=True)
    first, second, *_ = next_steps(failed)
    assert "ssd-train check" in first and "random weights" in second


def test_next_steps_backquotes_become_code():
    page = render(run(best_epoch=10))
    assert "<code>--epochs 20</code>" in page


@pytest.mark.parametrize(
    "seconds, expected", [(4.4, "4 s"), (59.4, "59 s"), (720, "12 min"), (3600, "1 h 0 min"), (11_100, "3 h 5 min")]
)
def test_duration_text_is_rounded(seconds, expected):
    assert duration_text(seconds) == expected

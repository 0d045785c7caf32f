"""Tests of the log lines of an epoch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.data import HeardProgress, small_config

from ssd_train.environment import Environment
from ssd_train.training.checkpoint import TrainState
from ssd_train.training.schedule import BestTracker
from ssd_train.training.trainer import log_epoch

ROW = {
    "epoch": 1, "CrossEntropy": 2.0, "SmoothL1": 1.0, "images_per_second": 9.0, "mAP": 0.25, "VOC07": 0.75,
    "val_SmoothL1": 1.5, "steps": 5, "clipped_steps": 0,
}  # fmt: skip


def line_of(best_epoch=1, hosted=False, **row):
    progress = HeardProgress()
    environment = Environment(Path("t"), Path("l"), None, None, Path("m"), Path("o"), on_sagemaker=hosted)
    state = TrainState(2, best=BestTracker(0.8, best_epoch), history=[{"epoch": 0}, {**ROW, **row}])
    log_epoch(small_config(), 5, state, environment, progress)
    return progress.lines


@pytest.mark.parametrize("clipped, expected", [(0, False), (3, True)])
def test_log_epoch_clipped_steps_logs_their_number(clipped, expected):
    (line,) = line_of(clipped_steps=clipped)
    assert bool(re.search(r"clipped .* 3 of 5 ", line)) == expected


@pytest.mark.parametrize("best_epoch, expected", [(1, "best so far"), (0, "best in epoch 1")])
def test_log_epoch_logs_both_scores_and_the_best_epoch(best_epoch, expected):
    (line,) = line_of(best_epoch)
    assert "COCO mAP 0.250" in line and "VOC07 mAP 0.750" in line and line.endswith(f"({expected})")


def test_log_epoch_in_sagemaker_logs_voc07_as_validation_map():
    lines = line_of(best_epoch=0, hosted=True)
    assert [line for line in lines if line.endswith("validation mAP <score>=(0.75)")]

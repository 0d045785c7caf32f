"""metrics.csv is read back by csv and pandas, event files by TensorBoard's own reader."""

from __future__ import annotations

import csv
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssd_train.errors import DependencyError
from ssd_train.visualization.training_log import COLUMNS, TensorBoardLog, write_metrics

HISTORY = [
    {"epoch": 0, "CrossEntropy": 5.5, "SmoothL1": 2.25, "learning_rate": 0.001, "steps": 13, "clipped_steps": 2},
    {
        "epoch": 1,
        "CrossEntropy": 4.5,
        "SmoothL1": 2.0,
        "learning_rate": 0.0005,
        "steps": 13,
        "clipped_steps": 0,
        "VOC07": 0.25,
        "mAP": 0.125,
        "mAP@0.5": 0.375,
        "val_CrossEntropy": 4.75,
        "val_SmoothL1": None,
    },
]


def test_write_metrics_has_a_row_per_epoch_from_1(tmp_path):
    write_metrics(tmp_path / "out" / "metrics.csv", HISTORY[:1])
    write_metrics(tmp_path / "out" / "metrics.csv", HISTORY)
    with (tmp_path / "out" / "metrics.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == list(COLUMNS)
    assert (first["epoch"], float(first["CrossEntropy"]), first["mAP"]) == ("1", 5.5, "")
    assert (second["epoch"], float(second["mAP@0.5"]), second["val_SmoothL1"]) == ("2", 0.375, "")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["metrics.csv"], "no temporary file is left"


def test_tensorboard_reads_the_logged_epochs(tmp_path):
    with TensorBoardLog(tmp_path / "events") as log:
        log.log(HISTORY[:1])
        log.log(HISTORY)
    reader = EventAccumulator(str(tmp_path / "events"))
    reader.Reload()

    def values(tag):
        return [(event.step, event.value) for event in reader.Scalars(tag)]

    assert values("train/CrossEntropy") == [(1, 5.5), (2, 4.5)]
    assert values("validation/mAP@0.5") == [(2, 0.375)]
    assert values("validation/CrossEntropy") == [(2, 4.75)]
    assert "validation/SmoothL1" not in reader.Tags()["scalars"], "a missing value is no zero"
    assert values("train/clipped_steps") == [(1, 2), (2, 0)]
    assert "tensorflow" not in sys.modules and "torch" not in sys.modules


@pytest.mark.parametrize("epochs, expected", [(1, [1]), (2, [1, 2])], ids=["new run", "resumed run"])
def test_tensorboard_log_keeps_the_epochs_of_a_resumed_run_only(tmp_path, epochs, expected):
    for history in (HISTORY[:1], HISTORY[:epochs]):
        with TensorBoardLog(tmp_path) as log:
            log.log(history)
    reader = EventAccumulator(str(tmp_path))
    reader.Reload()
    assert [event.step for event in reader.Scalars("train/CrossEntropy")] == expected


def test_tensorboard_log_without_an_epoch_writes_nothing(tmp_path):
    with TensorBoardLog(tmp_path / "events"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_log_without_the_package_raises(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(DependencyError, match="ssd-train\\[tensorboard\\]"):
        TensorBoardLog(tmp_path)

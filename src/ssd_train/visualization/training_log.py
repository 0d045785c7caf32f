"""Metrics of a run per epoch, as metrics.csv and as TensorBoard event files. Epochs count from 1."""

from __future__ import annotations

import csv
import importlib
import io
import time
from pathlib import Path
from typing import Any, Mapping, Sequence

from ssd_train.errors import require_extra
from ssd_train.storage.atomic import write_text_atomic
from ssd_train.visualization.html import finite

METRICS = "metrics.csv"
EVENTS = "tensorboard"  # the folder of event files
# column of metrics.csv and key of the history -> TensorBoard's tag
COLUMNS = {
    "epoch": "",
    "CrossEntropy": "train/CrossEntropy",
    "SmoothL1": "train/SmoothL1",
    "val_CrossEntropy": "validation/CrossEntropy",
    "val_SmoothL1": "validation/SmoothL1",
    "mAP": "validation/mAP",
    "mAP@0.5": "validation/mAP@0.5",
    "VOC07": "validation/VOC07",
    "learning_rate": "train/learning_rate",
    "steps": "",
    "clipped_steps": "train/clipped_steps",
    "images_per_second": "train/images_per_second",
    "seconds": "",
    "data_seconds": "",
}

History = Sequence[Mapping[str, Any]]


def write_metrics(path: Path, history: History) -> None:
    """Write metrics.csv: a header, then a row per epoch; cells of epochs that were not evaluated are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in history:
        writer.writerow([row["epoch"] + 1, *["" if row.get(name) is None else row[name] for name in [*COLUMNS][1:]]])
    write_text_atomic(path, text.getvalue())


class TensorBoardLog:
    """Writes the newest epoch of a history to event files in `folder`, with TensorBoard's own writer.

    Raises:
        DependencyError: tensorboard cannot be imported.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None  # opened with the first epoch
        self._events, self._summaries = (_tensorboard(f"compat.proto.{name}_pb2") for name in ("event", "summary"))
        self._make_writer = _tensorboard("summary.writer.event_file_writer").EventFileWriter

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def log(self, history: History) -> None:
        """Write the last row of `history`."""
        row = history[-1]
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            if len(history) == 1:  # a new run: its curves would be mixed with those of the run before
                for path in self._folder.glob("events.out.tfevents.*"):
                    path.unlink()
            self._writer = self._make_writer(str(self._folder))
        values = [(tag, finite(row.get(name))) for name, tag in COLUMNS.items() if tag]
        known = [self._summaries.Summary.Value(tag=tag, simple_value=v) for tag, v in values if v is not None]
        summary = self._summaries.Summary(value=known)
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=row["epoch"] + 1, summary=summary))
        self._writer.flush()


def _tensorboard(part: str) -> Any:
    """Import a module of tensorboard, which works without TensorFlow and PyTorch."""
    with require_extra("tensorboard"):
        return importlib.import_module(f"tensorboard.{part}")

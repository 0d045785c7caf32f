"""Labels of any format, by looking: what `--labels` names becomes a LabelSet."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from ssd_train.data.formats.ground_truth import read_ground_truth
from ssd_train.data.records import LabelSet
from ssd_train.errors import DataError


def read_labels(path: "str | Path", label_attribute: Optional[str] = None, on_bad: str = "error") -> LabelSet:
    """The labels in the file or folder `path`; a DataError says what was found where nothing usable is."""
    if not Path(path).exists():
        raise DataError(f"{path}: not found, expected labels: a Ground Truth output manifest, or a folder with one")
    labels = read_ground_truth(path, label_attribute or None, on_bad)
    if not len(labels.class_names):
        raise DataError(f"{labels.source}: found no labelled object in {len(labels)} images, expected at least one box")
    return labels

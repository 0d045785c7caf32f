"""What a resumed run must share with the one before, and what is told where it does not."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict

from ssd_train.config import SETTING_ALIASES, TrainConfig, resumable_settings, settings_by_data
from ssd_train.data.records import LabelSet
from ssd_train.errors import CheckpointError


def fingerprint(config: TrainConfig, train: LabelSet, validation: LabelSet, processes: int = 1) -> Dict[str, Any]:
    """By name: settings that shape the weights, classes and data."""
    found = of_settings(config, processes)
    found["classes"] = list(train.class_names)
    found["training labels"] = _digest(train)
    found["validation labels"] = _digest(validation)
    return found


def of_settings(config: TrainConfig, processes: int = 1) -> Dict[str, Any]:
    """The part of a fingerprint that is known without the data; some of it the data will complete."""
    free = set(resumable_settings())
    found = {f"setting {name}": value for name, value in config.to_json().items() if name not in free}
    if processes > 1:  # which decides what a step is
        found["processes"] = processes
    return found


def whatever_the_data(marks: Dict[str, Any]) -> Dict[str, Any]:
    """As much of a fingerprint as no data changes."""
    by_data = {"classes", "training labels", "validation labels", *(f"setting {name}" for name in settings_by_data())}
    return {name: value for name, value in marks.items() if name not in by_data}


def refuse_changes(folder: Path, old: Dict[str, Any], new: Dict[str, Any]) -> None:
    """A CheckpointError that names every part of the fingerprint that differs."""
    # settings may have been renamed since the checkpoint was written
    renamed = {f"setting {name}": f"setting {current}" for name, current in SETTING_ALIASES.items()}
    old = {renamed.get(name, name): value for name, value in old.items()}
    # a setting that came after the checkpoint was written did then what its default does
    defaults = {f"setting {item.name}": item.default for item in fields(TrainConfig)}
    old = {**{name: defaults[name] for name in new if name in defaults}, **old}
    old = {name: value for name, value in old.items() if name in new or not _may_change(name)}
    differing = [_change(key, old, new) for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if differing:
        raise CheckpointError(
            f"{folder}: cannot go on with other settings: {'; '.join(differing)}; "
            "use another checkpoint_dir to start anew"
        )


def _digest(labels: LabelSet) -> str:
    digest = hashlib.sha256()
    for record in labels.records:
        digest.update(f"{record.name}\0{record.size_wh}\0".encode("utf-8", "surrogateescape"))
        digest.update(record.boxes.tobytes() + record.class_ids.tobytes())
    return digest.hexdigest()


def _may_change(key: str) -> bool:
    """Whether a part of an older checkpoint's fingerprint is a setting that a run may change by now."""
    return key in {f"setting {name}" for name in resumable_settings()}


def _change(key: str, old: Dict[str, Any], new: Dict[str, Any]) -> str:
    if key.endswith(" labels") and key in old and key in new:  # digests, which tell a reader nothing
        return f"the {key} are not those of the checkpoint"
    if key.startswith("setting ") and key not in new:
        return f"{key}: the checkpoint has {old[key]!r}, this ssd_train does not know it: use a newer one"
    return f"{key}: found {new.get(key)!r}, the checkpoint has {old.get(key)!r}"

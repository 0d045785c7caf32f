"""Settings and data that a resumed run must share with its checkpoint."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict

from ssd_train.config import SETTING_ALIASES, TrainConfig, resumable_settings, settings_by_data
from ssd_train.data.records import LabelSet
from ssd_train.errors import CheckpointError


def fingerprint(config: TrainConfig, train: LabelSet, validation: LabelSet, processes: int = 1) -> Dict[str, Any]:
    """Return the settings that affect the weights, the classes and digests of the labels, by name."""
    return {
        **of_settings(config, processes),
        "classes": list(train.class_names),
        "training labels": _digest(train),
        "validation labels": _digest(validation),
    }


def of_settings(config: TrainConfig, processes: int = 1) -> Dict[str, Any]:
    """Return the part of the fingerprint that is known before the data is read."""
    resumable = set(resumable_settings())
    marks = {f"setting {name}": value for name, value in config.to_json().items() if name not in resumable}
    if processes > 1:  # it determines the global batch
        marks["processes"] = processes
    return marks


def whatever_the_data(marks: Dict[str, Any]) -> Dict[str, Any]:
    """Return the fingerprint without the fields that the data determines."""
    by_data = {"classes", "training labels", "validation labels", *(f"setting {name}" for name in settings_by_data())}
    return {name: value for name, value in marks.items() if name not in by_data}


def refuse_changes(folder: Path, old: Dict[str, Any], new: Dict[str, Any]) -> None:
    """Raise CheckpointError, naming every part of the fingerprint that differs."""
    # settings may have been renamed since the checkpoint was written
    renamed = {f"setting {name}": f"setting {current}" for name, current in SETTING_ALIASES.items()}
    old = {renamed.get(name, name): value for name, value in old.items()}
    # a setting added after the checkpoint was written counts as its default
    defaults = {f"setting {item.name}": item.default for item in fields(TrainConfig)}
    old = {**{name: defaults[name] for name in new if name in defaults}, **old}
    old = {name: value for name, value in old.items() if name in new or not _may_change(name)}
    differing = [_change(key, old, new) for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if differing:
        raise CheckpointError(
            f"{folder}: cannot resume with other settings: {'; '.join(differing)}; "
            "use another checkpoint_dir to start a new run"
        )


def _digest(labels: LabelSet) -> str:
    digest = hashlib.sha256()
    for record in labels.records:
        digest.update(f"{record.name}\0{record.size_wh}\0".encode("utf-8", "surrogateescape"))
        digest.update(record.boxes.tobytes() + record.class_ids.tobytes())
    return digest.hexdigest()


def _may_change(key: str) -> bool:
    """Return whether a part of an old checkpoint's fingerprint is a setting that may now change on resume."""
    return key in {f"setting {name}" for name in resumable_settings()}


def _change(key: str, old: Dict[str, Any], new: Dict[str, Any]) -> str:
    if key.endswith(" labels") and key in old and key in new:  # digests mean nothing to a person
        return f"the {key} are not those of the checkpoint"
    if key.startswith("setting ") and key not in new:
        return f"{key}: the checkpoint has {old[key]!r}, this ssd_train does not know it: use a newer one"
    return f"{key}: found {new.get(key)!r}, the checkpoint has {old.get(key)!r}"

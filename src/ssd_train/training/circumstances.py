"""What a run may change when it goes on and yet is told, because the weights then differ from those of an unbroken run:
the number of threads and devices, versions, and how many epochs there will be."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence

from ssd_train import __version__, framework
from ssd_train.config import TrainConfig

_BITS = "the weights may differ from an unbroken run's in their last bits"


def circumstances(config: TrainConfig, devices: Sequence[Any]) -> Dict[str, Any]:
    """Those of this run, by name, as a checkpoint keeps them."""
    return {
        "epochs": config.epochs,
        "schedule": config.schedule,
        "CPU threads": framework.cpu_threads(),
        "devices": ", ".join(map(str, devices)),
        "versions": {"ssd_train": __version__, **framework.versions()},
    }


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> List[str]:
    """What is to be told of circumstances that are `new`, where a checkpoint has the `old` ones (none: it is older than
    this record)."""
    told = [
        f"{name}: found {new[name]}, the checkpoint was made with {old[name]}: {_BITS}"
        for name in ("CPU threads", "devices")
        if name in old and old[name] != new[name]
    ]
    before, now = old.get("versions", {}), new["versions"]
    others = [f"{name} {now.get(name)} (was {before[name]})" for name in before if before[name] != now.get(name)]
    if others:
        told.append(f"versions: found {', '.join(others)}: {_BITS}")
    if old.get("epochs", new["epochs"]) != new["epochs"]:
        course = (
            "; the learning rate follows the course of the new number from here" if new["schedule"] == "cosine" else ""
        )
        told.append(f"epochs: found {new['epochs']}, the checkpoint was made on the way to {old['epochs']}{course}")
    return told

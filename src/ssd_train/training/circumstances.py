"""Runtime properties that may differ on resume: threads, devices, library versions, epochs.

A difference is logged, because the weights then differ from those of an uninterrupted run.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence

from ssd_train import __version__, framework
from ssd_train.config import TrainConfig

_BITS = "the weights may differ from those of an uninterrupted run in the last bits"


def circumstances(config: TrainConfig, devices: Sequence[Any]) -> Dict[str, Any]:
    """Return the runtime properties to store in a checkpoint."""
    return {
        "epochs": config.epochs,
        "schedule": config.schedule,
        "CPU threads": framework.cpu_threads(),
        "devices": ", ".join(map(str, devices)),
        "versions": {"ssd_train": __version__, **framework.versions()},
    }


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> List[str]:
    """Return a line to log for each property that differs. An old checkpoint may lack some."""
    lines = [
        f"{name}: found {new[name]}, the checkpoint was made with {old[name]}: {_BITS}"
        for name in ("CPU threads", "devices")
        if name in old and old[name] != new[name]
    ]
    before, now = old.get("versions", {}), new["versions"]
    others = [f"{name} {now.get(name)} (was {before[name]})" for name in before if before[name] != now.get(name)]
    if others:
        lines.append(f"versions: found {', '.join(others)}: {_BITS}")
    if old.get("epochs", new["epochs"]) != new["epochs"]:
        course = "; from here the learning rate follows the new schedule" if new["schedule"] == "cosine" else ""
        lines.append(f"epochs: found {new['epochs']}, the checkpoint was made for {old['epochs']}{course}")
    return lines

"""The machine that figures were taken on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, Dict

PACKAGES = (
    "mxnet",
    "gluoncv",
    "numpy",
    "opencv-python-headless",
    "Pillow",
    "pycocotools",
    "onnxruntime",
    "torchvision",
)


def describe() -> Dict[str, Any]:
    """Processor, cores, memory, load before anything was started, versions, commit and day."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory, GB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load before": round(os.getloadavg()[0], 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES for version in [installed(name)] if version},
        "commit": commit(),
        "day": datetime.date.today().isoformat(),
    }


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    family = f"family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}"
    return f"{fields.get('model name', platform.machine())} ({family})"


def installed(package: str) -> str:
    """Return the version of a package, or "" if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def commit() -> str:
    """Return the commit of the working tree, with a + if the tree has changes."""
    root = Path(__file__).resolve().parents[1]
    found = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=root, stdout=subprocess.PIPE, text=True)
    return found.stdout.strip()

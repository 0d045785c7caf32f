"""Train, evaluate, export and serve SSD object detectors on MXNet, on a laptop or on SageMaker.

    from ssd_train import Detector, train, evaluate, load_labels

docs/python.md describes these names; they are loaded when they are first used. docs/architecture.md describes the
packages and which may import which.
"""

import importlib
from typing import Any, List

__version__ = "0.1.0"
__all__ = ["Detector", "__version__", "evaluate", "load_labels", "train"]

# name -> its module
_MODULES = {
    "Detector": "ssd_train.deploy.detector",
    "evaluate": "ssd_train.api",
    "load_labels": "ssd_train.api",
    "train": "ssd_train.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> List[str]:
    return sorted({*globals(), *_MODULES})

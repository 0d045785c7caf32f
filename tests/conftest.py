"""What all tests share: where the real data sets are, and how many threads a test may take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before a test loads NumPy, OpenCV or MXNet: sums are the same on every machine, and two runs do not starve each
# other. A test of the choice itself starts a process of its own.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "2")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with `data/` and `weights/`: real data sets that no repository can hold. Skips where there is none."""
    folder = os.environ.get("SSD_TRAIN_DATA")
    if not folder:
        pytest.skip("SSD_TRAIN_DATA is not set: it names the folder that holds the real data sets")
    if not (Path(folder) / "data").is_dir():
        pytest.fail(f"SSD_TRAIN_DATA is {folder!r}, which holds no data/")
    return Path(folder)

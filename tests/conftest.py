"""What all tests share: where the real data sets are, and how many threads a test may take."""

from __future__ import annotations

import itertools
import os
import traceback
from pathlib import Path
from typing import Callable

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


@pytest.fixture(scope="session")
def killed_at() -> Callable[[int, Callable[[], None]], bool]:
    """`killed_at(step, action)` does `action` in a child that leaves without a word, as at kill -9, before its call
    number `step` that changes the disk. True when it died there, False when it came to its end before that."""
    return _killed_at


def _killed_at(step: int, action: Callable[[], None]) -> bool:
    child = os.fork()
    if child == 0:
        steps = itertools.count(1)

        def deadly(real):
            return lambda *args, **kwargs: os._exit(9) if next(steps) == step else real(*args, **kwargs)

        for name in ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir"):
            setattr(os, name, deadly(getattr(os, name)))
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.WEXITSTATUS(os.waitpid(child, 0)[1])
    assert code in (0, 9), "the action failed by itself"
    return code == 9

"""The environments that the Makefile sets up for one tool each."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def own_venv(name: str, version: str, target: str = "test-integration") -> Path:
    """Return the environment `name`, of Python `version`.

    The test is skipped where that interpreter is not on this machine; where it is, the environment has to be there.
    """
    folder = ROOT / name
    if (folder / ".done").exists():
        return folder
    if not has_python(version):
        pytest.skip(f"python{version} is not on this machine: {name} cannot be made")
    pytest.fail(f"{name} is not there although python{version} is: make {target} sets it up")


def has_python(version: str) -> bool:
    """Whether an interpreter runs that the Makefile would find: on the PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    of_pyenv = (pyenv / "versions").glob(f"{version}.*/bin/python{version}")
    for program in itertools.chain(filter(None, [shutil.which(f"python{version}")]), of_pyenv):
        # a shim of pyenv is on the PATH whether it leads to an interpreter or not
        if subprocess.run([str(program), "-c", ""], stderr=subprocess.DEVNULL).returncode == 0:
            return True
    return False

"""AWS's serving stack as examples/serving_stack.py starts it, for tests."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from types import ModuleType

import pytest
from own_venvs import ROOT, own_venv


def _example() -> ModuleType:
    spec = util.spec_from_file_location("serving_stack", ROOT / "examples" / "serving_stack.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stack = _example()


def stack_venv() -> Path:
    """Return the stack's environment; the test is skipped without Python 3.8, without Java, and without the right to
    make a network namespace."""
    venv = own_venv(".venv-serving", "3.8")
    problem = stack.missing(venv)
    if problem:
        pytest.skip(problem)
    return venv

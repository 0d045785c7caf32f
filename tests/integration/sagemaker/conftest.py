"""Data to train on, and the toolkits to train with."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.data import DrawnSet, shapes_set
from helpers.environments import ROOT, Toolkit, copy_package, make_toolkit, pack


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> DrawnSet:
    """Drawn pictures to train on."""
    return shapes_set(tmp_path_factory.mktemp("shapes"), 24, seed=1)


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Path:
    """sourcedir.tar.gz as the SDK packs it: entry_point/ at the top, and the package as a dependency beside it."""
    folder = tmp_path_factory.mktemp("program")
    return pack(folder / "sourcedir.tar.gz", [ROOT / "entry_point", copy_package(folder)])


@pytest.fixture(scope="session", params=["3.8", "3.11"])
def toolkit(request, program) -> Toolkit:
    """Python 3.8: AWS's MXNet 1.9.0 container. 3.11: the newest toolkit."""
    return make_toolkit(request.param, program)


@pytest.fixture(scope="session")
def container(program) -> Toolkit:
    """AWS's MXNet 1.9.0 container alone, where the toolkit's version cannot matter."""
    return make_toolkit("3.8", program)

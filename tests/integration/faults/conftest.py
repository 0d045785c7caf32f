"""What the tests of faults share: a tiny data set, and the run on it that nothing disturbed."""

from __future__ import annotations

import time

import pytest
from helpers.data import shapes_set
from helpers.jobs import SAVING, finish, flags, outcome


class Unbroken:
    """How long the run of `settings` takes, and what comes of it."""

    def __init__(self, data, folder, settings):
        began = time.monotonic()
        finish(flags(data, folder, **settings))
        self.seconds, self.outcome = time.monotonic() - began, outcome(folder)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return shapes_set(folder / "train", 8, seed=1), shapes_set(folder / "validation", 4, seed=2)


@pytest.fixture(scope="session")
def unbroken(data, tmp_path_factory):
    return Unbroken(data, tmp_path_factory.mktemp("unbroken"), SAVING)


@pytest.fixture
def command(data, tmp_path):
    """The flags of the run that `unbroken` made, with folders of its own."""
    return flags(data, tmp_path, **SAVING)

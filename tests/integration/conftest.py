"""What several tests of whole jobs train on."""

from __future__ import annotations

import pytest
from helpers.data import shapes_set


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Drawn pictures: twelve to train on, four to score with."""
    folder = tmp_path_factory.mktemp("data")
    return shapes_set(folder / "train", 12, seed=1), shapes_set(folder / "validation", 4, seed=2)

"""Drawn images for the training tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def samples():
    """Return eight drawn images with their targets; the last two have no objects."""
    from learners import drawn_samples  # which needs MXNet, as not all tests here do

    return drawn_samples()

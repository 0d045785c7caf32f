"""Drawn images for the training tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def samples():
    """Return eight drawn images with their targets; the last two have no objects."""
    from helpers.models import drawn_samples

    return drawn_samples()

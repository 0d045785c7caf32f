"""Drawn pictures for what learns."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def samples():
    """Eight drawn pictures with their targets; the last two show nothing."""
    from learners import drawn_samples  # which needs MXNet, as not all tests here do

    return drawn_samples()

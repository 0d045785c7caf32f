"""While data is taken in, Python's collector of cycles rests, and only then."""

from __future__ import annotations

import gc

import pytest

from ssd_train.config import TrainConfig
from ssd_train.environment import Environment
from ssd_train.errors import DataError
from ssd_train.progress import Progress
from ssd_train.training import intake


@pytest.mark.parametrize("at_work", [True, False], ids=["at-work", "switched-off-by-the-caller"])
def test_the_collector_rests_while_data_is_read_and_then_does_as_before(monkeypatch, tmp_path, at_work):
    seen = []

    def read_sides(*_):
        seen.append(gc.isenabled())
        raise DataError("m:1: found nothing")

    monkeypatch.setattr(intake, "read_sides", read_sides)
    (gc.enable if at_work else gc.disable)()
    try:
        with pytest.raises(DataError, match="m:1"):
            intake.take_in(TrainConfig(), Environment(train=tmp_path), Progress())
        assert seen == [False] and gc.isenabled() == at_work
    finally:
        gc.enable()

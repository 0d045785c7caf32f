"""While data is taken in, Python's collector of cycles rests, and only then."""

from __future__ import annotations

import gc

import pytest
from builders import HeardProgress, picture

from ssd_train.config import TrainConfig
from ssd_train.data.images import encode_png
from ssd_train.data.labels import LabelledImages
from ssd_train.data.records import ClassNames, LabelSet, Record
from ssd_train.data.sources import FolderImages
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


def test_checked_pictures_without_labels_are_named_but_those_of_other_sets_are_not(tmp_path):
    for seed, name in enumerate(("a.png", "b.png", "other.png", "forgotten.png")):
        (tmp_path / name).write_bytes(encode_png(picture((40, 30), seed)))
    records = [Record(name, [[2, 2, 20, 20]], [0], (40, 30), name) for name in ("a.png", "b.png", "other.png")]
    source, names, progress = FolderImages(tmp_path), ClassNames(("x",)), HeardProgress()
    train = LabelledImages(LabelSet(tuple(records[:1]), names, others=tuple(records[2:])), source)
    validation = LabelledImages(LabelSet(tuple(records[1:2]), names), source)
    intake.checked((train, validation), TrainConfig(), progress)
    (warning,) = progress.warnings
    assert "forgotten.png" in warning and "other.png" not in warning and "1 pictures" in warning

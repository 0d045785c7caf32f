"""Tests of the settings that the data determines."""

from __future__ import annotations

import dataclasses

from builders import HeardProgress, label_set, small_config

from ssd_train.config import TrainConfig, settings_by_data
from ssd_train.data.labels import LabelledImages
from ssd_train.data.sources import MemoryImages
from ssd_train.training.anchor_choice import with_anchors
from ssd_train.training.fingerprint import of_settings, whatever_the_data
from ssd_train.training.intake import completed


def test_settings_by_data_are_exactly_those_the_data_completes(monkeypatch):
    replaced, replace = set(), dataclasses.replace

    def recorded(instance, **changes):
        if isinstance(instance, TrainConfig):
            replaced.update(changes)
        return replace(instance, **changes)

    monkeypatch.setattr(dataclasses, "replace", recorded)
    labels = label_set([[[0, 0, 20, 20]], [[5, 5, 30, 25]]])
    before = small_config(auto_anchors=True)
    after = completed(before, LabelledImages(labels, MemoryImages({})), HeardProgress())
    after = with_anchors(after, None, labels, HeardProgress())
    assert replaced == set(settings_by_data())
    assert of_settings(before) != of_settings(after)
    assert whatever_the_data(of_settings(before)) == whatever_the_data(of_settings(after))

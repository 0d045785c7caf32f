"""Tests of the settings that the data determines."""

from __future__ import annotations

import dataclasses

from helpers.data import HeardProgress, label_set, small_config

from ssd_train.config import TrainConfig, settings_by_data
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.labels import LabeledDataset
from ssd_train.training.autoanchor import resolve_anchors, resolve_strides
from ssd_train.training.checkpoint import config_fingerprint, without_data_fields
from ssd_train.training.data_setup import resolve_config_from_data


def test_settings_by_data_are_exactly_those_the_data_completes(monkeypatch):
    replaced, replace = set(), dataclasses.replace

    def recorded(instance, **changes):
        if isinstance(instance, TrainConfig):
            replaced.update(changes)
        return replace(instance, **changes)

    monkeypatch.setattr(dataclasses, "replace", recorded)
    labels = label_set([[[0, 0, 20, 20]], [[5, 5, 30, 25]]])
    before = small_config(auto_anchors=True, feature_strides="auto")
    after = resolve_config_from_data(before, LabeledDataset(labels, MemoryImages({})), HeardProgress())
    after = resolve_strides(after, None, labels, HeardProgress())
    after = resolve_anchors(after, None, labels, HeardProgress())
    assert replaced == set(settings_by_data())
    assert config_fingerprint(before) != config_fingerprint(after)
    assert without_data_fields(config_fingerprint(before)) == without_data_fields(config_fingerprint(after))

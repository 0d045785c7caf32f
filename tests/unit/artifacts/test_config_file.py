"""Tests of reading a model folder's config.json."""

from __future__ import annotations

import json

import pytest

from ssd_train.artifacts.model_config import MODEL_FORMAT, weights_digest
from ssd_train.errors import WeightsError
from ssd_train.storage.atomic import with_sum

GOOD = {"format": MODEL_FORMAT, "class_names": ["cat"], "weights": {"file": "weights-a.params", "sha256": "abc"}}


@pytest.mark.parametrize(
    "text, expected",
    [
        pytest.param(None, None, id="no-file"),
        pytest.param(json.dumps(with_sum(GOOD)), "abc", id="ours"),
        pytest.param(json.dumps(GOOD), "abc", id="without-a-sum"),
        pytest.param("[1]", None, id="a-list"),
        pytest.param('{"format": 1, "weights": "a"}', None, id="another-program's"),
    ],
)
def test_weights_in_returns_the_digest(tmp_path, text, expected):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    assert weights_digest(tmp_path) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        pytest.param("{", "", id="cut-off"),
        pytest.param(json.dumps({**GOOD, "format": 99}), "found format 99 .*1 ", id="newer"),
        pytest.param(json.dumps({**with_sum(GOOD), "epoch": 1}), "found SHA-256 ", id="sum"),
        pytest.param(json.dumps({**GOOD, "weights": 7}), ".*Error", id="no-weights"),
        pytest.param(json.dumps({**GOOD, "weights": {}}), ".*Error", id="no-digest"),
    ],
)
def test_weights_in_damaged_description_raises(tmp_path, text, expected):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=f"config.json: {expected}"):
        weights_digest(tmp_path)

"""Description: round trips through JSON and strings, invalid values, and the inputs made by as_input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.data import small_config

from ssd_train.artifacts.metadata import ExportMetadata, as_input
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.data.structures import ClassNames
from ssd_train.errors import WeightsError

NAMES = ClassNames(("cat", 'the "big" dog', "牛", "7"))


def exported(config=small_config(), names=NAMES, threshold=None):  # noqa: B008 a constant
    """Return the metadata of a saved model's export."""
    model = SavedModel(config, names, post_nms=100, epoch=0, sha256="ab" * 32, score_threshold=threshold)
    return model.describe("onnx", "pixels")


WHOLE = exported(small_config(grayscale=True))


@pytest.mark.parametrize(
    "names", [NAMES, ClassNames(("1", "2")), ClassNames(("null",))], ids=["mixed", "digits", "null"]
)
def test_from_texts_of_to_texts_returns_the_same(names):
    whole = exported(names=names)
    texts = whole.to_texts()
    assert all(isinstance(text, str) for text in texts.values())
    assert json.loads(texts["class_names"]) == list(names) and texts["side"] == "128" and texts["grayscale"] == "false"
    assert ExportMetadata.from_texts(texts, "a") == whole


@pytest.mark.parametrize("threshold", [None, 0.0, 0.4375, 1.0])
def test_score_threshold_survives_json_and_texts(threshold):
    whole = exported(threshold=threshold)
    assert ExportMetadata.from_texts(whole.to_texts(), "a").score_threshold == threshold
    assert ExportMetadata.from_json(json.loads(json.dumps(whole.to_json())), "a").score_threshold == threshold


def test_score_threshold_of_an_older_export_is_none():
    older = {name: value for name, value in WHOLE.to_json().items() if name != "score_threshold"}
    assert ExportMetadata.from_json(older, "a").score_threshold is None


@pytest.mark.parametrize(
    "change, value",
    [
        pytest.param({"class_names": None}, "None", id="no-classes"),
        pytest.param({"class_names": ["a", "a"]}, "'a'", id="class-twice"),
        pytest.param({"side": "wide"}, "'wide'", id="side"),
        pytest.param({"input": "bgr"}, "'bgr'", id="input"),
        pytest.param({"coordinates": "cm"}, "'cm'", id="coordinates"),
        pytest.param({"format": 99}, "99", id="newer"),
        pytest.param({"score_threshold": 2}, "2", id="threshold"),
        pytest.param({"score_threshold": "high"}, "high", id="threshold-text"),
    ],
)
def test_from_json_invalid_value_raises_with_place_and_value(change, value):
    with pytest.raises(WeightsError, match=f"^a.onnx: .*{value}"):
        ExportMetadata.from_json({**WHOLE.to_json(), **change}, "a.onnx")


def test_as_input_each_kind_holds_the_same_pixels():
    images = np.random.RandomState(0).randint(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    assert as_input(images, "pixels") is images
    data, normalised = as_input(images, "data"), as_input(images, "normalised")
    assert data.dtype == normalised.dtype == np.float32
    np.testing.assert_array_equal(data, images.transpose(0, 3, 1, 2))
    expected = (images[1, 2, 3] / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalised[1, :, 2, 3], expected, atol=1e-5)

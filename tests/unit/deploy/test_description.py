"""Description: nothing is lost on the way through JSON or texts, and what is wrong is told; what an input is made
of."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import small_config

from ssd_train.data.records import ClassNames
from ssd_train.deploy.description import Description, as_input
from ssd_train.errors import WeightsError

NAMES = ClassNames(("cat", 'the "big" dog', "牛", "7"))
WHOLE = Description.of(small_config(grayscale=True), NAMES, "ab" * 32, "onnx", "pixels")


def test_json_and_back():
    document = json.loads(json.dumps(WHOLE.to_json()))
    assert Description.from_json(document, "a") == WHOLE
    assert WHOLE.grayscale and WHOLE.side == 128 and WHOLE.settings["base_network"] == "mobilenet0.25"


@pytest.mark.parametrize(
    "names", [NAMES, ClassNames(("1", "2")), ClassNames(("null",))], ids=["mixed", "digits", "null"]
)
def test_texts_and_back(names):
    whole = Description.of(small_config(), names, "12" * 32, "onnx", "pixels")
    texts = whole.to_texts()
    assert all(isinstance(text, str) for text in texts.values())
    assert json.loads(texts["class_names"]) == list(names) and texts["side"] == "128" and texts["grayscale"] == "false"
    assert Description.from_texts(texts, "a") == whole


@pytest.mark.parametrize(
    "change, expected",
    [
        pytest.param({"class_names": None}, "a.onnx: found no description", id="no-classes"),
        pytest.param({"class_names": ["a", "a"]}, "a.onnx: found no description", id="class-twice"),
        pytest.param({"side": "wide"}, "a.onnx: found no description", id="side"),
        pytest.param({"input": "bgr"}, "a.onnx: found input 'bgr', expected one of pixels", id="input"),
        pytest.param({"format": 99}, "a.onnx: found format 99 .* use a newer ssd_train", id="newer"),
    ],
)
def test_what_is_wrong_is_told(change, expected):
    with pytest.raises(WeightsError, match=expected):
        Description.from_json({**WHOLE.to_json(), **change}, "a.onnx")


def test_a_strangers_file_is_told():
    with pytest.raises(WeightsError, match="m.onnx: found no description .* written by `python -m ssd_train export`"):
        Description.from_texts({"producer": "somebody"}, "m.onnx")


def test_inputs_are_the_same_pixels():
    pictures = np.random.RandomState(0).randint(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    assert as_input(pictures, "pixels") is pictures
    data, normalised = as_input(pictures, "data"), as_input(pictures, "normalised")
    assert data.dtype == normalised.dtype == np.float32
    np.testing.assert_array_equal(data, pictures.transpose(0, 3, 1, 2))
    expected = (pictures[1, 2, 3] / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalised[1, :, 2, 3], expected, atol=1e-5)

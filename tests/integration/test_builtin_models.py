"""A converted model of the built-in algorithm is used as any other: predict, evaluate, serve, and every export."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.builtin_nets import write_artifact
from helpers.data import HeardProgress, memory_images
from helpers.models import drawn_inputs

from ssd_train import mxnet_compat
from ssd_train.artifacts.metadata import as_input
from ssd_train.cli.main import main
from ssd_train.data.image_io import encode_png
from ssd_train.data.labels import LabeledDataset
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.data.synthetic import draw_shapes_set
from ssd_train.deploy.builtin import heads
from ssd_train.deploy.detector import Detector, ImageRef
from ssd_train.deploy.evaluate import score_images
from ssd_train.deploy.export.export import VerificationOptions, export
from ssd_train.deploy.handlers import model_fn, transform_fn
from ssd_train.deploy.onnx_backends import run_raw
from ssd_train.deploy.parity import compare

mx = mxnet_compat.mxnet()
pytestmark = pytest.mark.integration
SIDES = {"resnet-50": 128, "vgg-16": 300}
NAMES = ("cat", "dog", "cow")
MODELS = [("resnet-50", "class-agnostic"), ("resnet-50", "per-class"), ("vgg-16", "class-agnostic")]
SHOWN = [
    ImageRef(str(index), lambda sample=sample: encode_png(sample.image), str(index))
    for index, sample in enumerate(draw_shapes_set(3, seed=1))
]


@pytest.fixture(
    scope="module",
    params=[MODELS[0], *(pytest.param(model, marks=pytest.mark.slow) for model in MODELS[1:])],
    ids="-".join,
)
def model(request, tmp_path_factory):
    """A converted model's folder."""
    base_network, way = request.param
    folder = tmp_path_factory.mktemp("builtin")
    write_artifact(folder / "job", base_network, SIDES[base_network], nms_topk=150)
    flags = ["--output", str(folder / "model"), "--nms", way, "--class_names", ",".join(NAMES)]
    assert main(["convert", "--model", str(folder / "job"), *flags]) == 0
    return folder / "model"


@pytest.fixture(scope="module")
def labelled(model):
    """Pictures labelled with what the model finds in them."""
    detector, images, records = Detector.load(model), [s.image for s in draw_shapes_set(3, seed=5)], []
    for index, image in enumerate(images):
        found = detector(image)
        large = np.flatnonzero((found.boxes[:, 2:] - found.boxes[:, :2]).min(axis=1) > 4)[:5]
        boxes, ids = found.boxes[large], found.class_ids[large]
        records.append(LabeledImage(f"{index}.png", boxes, ids, found.size_wh, f"labels:{index + 1}"))
    labels = Labels(tuple(records), ClassNames(NAMES), source="labels")
    return LabeledDataset(labels, memory_images(labels, images))


def engine_of(path, name="auto"):
    return Detector.load(path, "cpu", name).engine


@pytest.mark.parametrize("input", ["pixels", "normalised"])
def test_export_converted_model_to_onnx_agrees(model, tmp_path, input):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime", exc_type=ImportError)
    progress = HeardProgress()
    export(model, "onnx", tmp_path / "m.onnx", input, VerificationOptions(SHOWN), progress)
    assert progress.lines[0].startswith("compared on 3 images: ")
    pictures = drawn_inputs(3, engine_of(model).side)
    expected = engine_of(model).run(pictures)
    for count in (3, 2):  # any number of pictures
        found = engine_of(tmp_path / "m.onnx", "onnxruntime")
        agreement = compare(expected[:count], found.run(pictures[:count]))
        assert agreement.rows > 50 and agreement.unmatched <= 0.01 * agreement.rows, str(agreement)
        assert found.description.input == ("pixels" if input == "pixels" else "data")
        assert found.class_names.names == NAMES


@pytest.mark.parametrize("input", ["pixels", "normalised"])
def test_export_converted_model_without_nms_gives_what_mxnets_operator_keeps_without_suppression(
    model, tmp_path, input
):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime", exc_type=ImportError)
    progress = HeardProgress()
    export(model, "onnx-raw", tmp_path / "m.onnx", input, VerificationOptions(SHOWN), progress)
    assert progress.lines[0].startswith("compared on 3 images: ")
    engine = engine_of(model)
    pictures = drawn_inputs(3, engine.side)
    scores, boxes = run_raw(tmp_path / "m.onnx", pictures)
    assert scores.shape == (3, boxes.shape[1], len(NAMES)) and boxes.shape == (3, scores.shape[1], 4)
    symbol, weights, states = engine.parts
    everything = mx.sym.contrib.MultiBoxDetection(
        mx.sym.SoftmaxActivation(heads(symbol)[0], mode="channel"), *heads(symbol)[1:], nms_threshold=-1, threshold=0
    )
    arguments = {**weights, "data": mx.nd.array(as_input(pictures, "data"))}
    rows = everything.bind(mx.cpu(), arguments, aux_states=states).forward()[0].asnumpy()
    for of_image, image_scores, image_boxes in zip(rows, scores, boxes):
        found = np.concatenate([image_scores.argmax(1)[:, None], image_scores.max(1)[:, None], image_boxes], axis=1)
        of_image = np.concatenate([of_image[:, :2], of_image[:, 2:] * engine.side], axis=1)
        # the operator sorts by score; `export` has compared anchor by anchor
        np.testing.assert_allclose(np.sort(found, axis=0), np.sort(of_image, axis=0), atol=0.02)


def test_export_converted_model_to_symbol_is_equal(model, tmp_path):
    export(model, "symbol", tmp_path / "again", "pixels", VerificationOptions(SHOWN), HeardProgress())
    pictures = drawn_inputs(2, engine_of(model).side)
    np.testing.assert_array_equal(engine_of(tmp_path / "again").run(pictures), engine_of(model).run(pictures))
    export(tmp_path / "again", "symbol", tmp_path / "third", "pixels", VerificationOptions(SHOWN), HeardProgress())


@pytest.mark.parametrize("format", ["int8", "onnx-int8"])
def test_export_converted_model_to_8_bits_detects(model, labelled, tmp_path, format):
    if format == "onnx-int8":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime", exc_type=ImportError)
    output, progress = tmp_path / ("m.onnx" if format == "onnx-int8" else "q"), HeardProgress()
    export(model, format, output, "pixels", VerificationOptions(validation=labelled, max_map_drop=1.0), progress)
    assert [line.split(":")[0] for line in progress.lines] == ["32 bits", "8 bits"]
    assert score_images(Detector.load(output), labelled).ap50 > 0.1, "quantised, not broken"


def test_converted_model_evaluate_predict_and_serve_agree(model, labelled, tmp_path):
    assert score_images(Detector.load(model), labelled).ap50 > 0.3
    body = encode_png(draw_shapes_set(1, seed=9)[0].image)
    (tmp_path / "a.png").write_bytes(body)
    flags = ["--model", str(model), "--output", str(tmp_path / "a.jsonl")]
    assert main(["predict", str(tmp_path / "a.png"), *flags]) == 0
    predicted = json.loads((tmp_path / "a.jsonl").read_text())["prediction"]
    served = json.loads(transform_fn(model_fn(str(model)), body, "image/png", "application/json")[0])["prediction"]
    assert len(served) > 10
    np.testing.assert_allclose(served, predicted, atol=1e-6)
    assert {row[0] for row in served} <= {0.0, 1.0, 2.0} and np.array(served)[:, 2:].max() <= 1

"""`export --nms 0`: raw scores and boxes, the same by OpenCV's DNN module, ONNX Runtime and Gluon."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from helpers.data import HeardProgress
from helpers.models import CLASSES, talking_model

from ssd_train.artifacts.metadata import ExportMetadata, as_input
from ssd_train.cli.main import main
from ssd_train.data.synthetic import draw_shapes_set
from ssd_train.data.transforms import preprocess
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.export import export as module
from ssd_train.deploy.export.export import VerificationOptions, export
from ssd_train.deploy.gluon_backend import GluonEngine
from ssd_train.deploy.onnx_backends import run_raw
from ssd_train.errors import SsdTrainError, WeightsError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime", exc_type=ImportError)
SIDE = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    talking_model(folder)
    return folder


@pytest.fixture(scope="module", params=["uint8", "float"])
def raw(request, folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("raw") / "raw.onnx"
    command = ["export", "--model", str(folder), "--format", "onnx", "--nms", "0", "--input", request.param]
    assert main([*command, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def images():
    return np.stack([preprocess(sample.image, SIDE) for sample in draw_shapes_set(3, seed=7)])


def test_raw_outputs_equal_those_of_gluon(raw, folder, images):
    scores, boxes = run_raw(raw, images)
    expected = [GluonEngine(folder, "cpu").candidates(image) for image in images]
    assert scores.shape[2] == len(CLASSES) > 1 and scores.max() > 0.1
    np.testing.assert_allclose(scores, [image.scores for image in expected], atol=1e-4)
    np.testing.assert_allclose(boxes, [image.boxes for image in expected], rtol=1e-3, atol=0.05)


def test_raw_file_has_no_suppression_and_describes_its_outputs(raw):
    model = onnx.load(str(raw))
    assert not {"NonMaxSuppression", "TopK", "ScatterND", "GatherND"} & {node.op_type for node in model.graph.node}
    assert [output.name for output in model.graph.output] == ["scores", "boxes"]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert "scores" in metadata["output"] and "boxes" in metadata["output"]
    assert ExportMetadata.from_texts(metadata, raw).kind == "onnx-raw"


@pytest.mark.parametrize("raw", ["float"], indirect=True)
def test_opencv_reads_the_file_and_gives_the_same_outputs(raw, images):
    expected = run_raw(raw, images)
    network = cv2.dnn.readNetFromONNX(str(raw))
    for index in range(len(images)):
        network.setInput(as_input(images[index : index + 1], "normalised"))
        found = network.forward(["scores", "boxes"])
        for ours, theirs in zip(expected, found):
            np.testing.assert_allclose(theirs[0], ours[index], rtol=1e-3, atol=0.01)


@pytest.mark.parametrize("raw", ["float"], indirect=True)
def test_opencv_with_its_own_suppression_finds_the_objects_of_the_model(raw, folder, images):
    """The example of docs/export.md: blobFromImage, forward, NMSBoxes."""
    image = images[0]
    network = cv2.dnn.readNetFromONNX(str(raw))
    blob = cv2.dnn.blobFromImage(image[:, :, ::-1], 1 / 255, (SIDE, SIDE), swapRB=True)
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    network.setInput((blob - mean) / std)
    scores, boxes = (output[0] for output in network.forward(["scores", "boxes"]))
    expected = Detector.load(folder, engine="mxnet")(image)
    for class_id in range(len(CLASSES)):
        corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        kept = cv2.dnn.NMSBoxes(corners.tolist(), scores[:, class_id].tolist(), 0.1, 0.45)
        best = expected.scores[expected.class_ids == class_id]
        assert abs(scores[kept, class_id].max(initial=0) - best.max(initial=0)) < 0.01 or best.max(initial=0) < 0.1


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_detector_refuses_a_raw_file(raw, engine):
    with pytest.raises(WeightsError, match="--nms 0"):
        Detector.load(raw, engine=engine)


@pytest.mark.parametrize("format", ["symbol", "int8", "onnx-int8"])
def test_nms_0_with_another_format_is_refused(folder, tmp_path, format, capsys):
    command = ["export", "--model", str(folder), "--format", format, "--nms", "0", "--output", str(tmp_path / "x")]
    assert main(command) == 2 and "nms" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_raw_export_mismatch_publishes_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "run_raw", lambda path, images: [output * 1.5 for output in run_raw(path, images)])
    with pytest.raises(SsdTrainError, match=r"raw\.onnx"):
        export(folder, "onnx-raw", tmp_path / "raw.onnx", "pixels", VerificationOptions(), HeardProgress())
    assert list(tmp_path.iterdir()) == []

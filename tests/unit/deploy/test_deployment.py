"""Tests of exporting the best model during training."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.data import HeardProgress, label_set, memory_images, small_config
from helpers.models import talking_model

from ssd_train import mxnet_compat
from ssd_train.artifacts.model_config import weights_digest
from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.loaders import EvalLoader
from ssd_train.data.synthetic import draw_shapes_set
from ssd_train.data.transforms import EvalTransform, preprocess
from ssd_train.deploy import deployment, symbol
from ssd_train.deploy.deployment import export_best_model
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.symbol import is_up_to_date, make_symbol
from ssd_train.errors import DataError

mx = mxnet_compat.mxnet()
SIDE, BOX = 128, [20, 20, 60, 60]
IMAGES = [sample.image for sample in draw_shapes_set(8, seed=3)]


def no_targets(boxes, class_ids):
    return np.zeros(1, np.float32), np.zeros((1, 4), np.float32)


def validation(boxes, images=IMAGES):
    labels = label_set(boxes, size_wh=(160, 120))
    dataset = DetectionDataset(labels, memory_images(labels, images[: len(boxes)]), SIDE)
    return EvalLoader(dataset, EvalTransform(SIDE, no_targets), 4)


@pytest.fixture
def folder(tmp_path):
    talking_model(tmp_path / "model", ("cat", "dog"))
    return tmp_path / "model"


def test_export_is_compared_on_validation_images_with_objects(folder, monkeypatch):
    asked = []

    class Asked(symbol.GluonEngine):
        def run(self, pictures):
            asked.append(pictures)
            return super().run(pictures)

    monkeypatch.setattr(symbol, "GluonEngine", Asked)
    progress = HeardProgress()
    export_best_model(folder, validation([[], [BOX], [], [BOX], [BOX], [BOX], [BOX]]), small_config(), progress)
    expected = np.stack([preprocess(IMAGES[index], SIDE) for index in (1, 3, 4, 5)])
    assert len(asked) == 1 and progress.warnings == []
    np.testing.assert_array_equal(asked[0], expected)
    assert is_up_to_date(folder) and (folder / "code" / "inference.py").is_file()


def test_export_mismatch_warns_and_publishes_nothing(folder, monkeypatch):
    def wrong(model):
        symbol, weights, states = make_symbol(model)
        return symbol, {name: array * 1.5 for name, array in weights.items()}, states

    monkeypatch.setattr(symbol, "make_symbol", wrong)
    before, progress = sorted(path.name for path in folder.iterdir()), HeardProgress()
    export_best_model(folder, validation([[BOX]] * 4), small_config(), progress)
    (warning,) = progress.warnings
    assert f"{folder}: " in warning
    assert sorted(path.name for path in folder.iterdir()) == before


def test_export_without_readable_images_raises(folder):
    with pytest.raises(DataError):
        export_best_model(folder, validation([[], []]), small_config(), HeardProgress())
    assert not is_up_to_date(folder) and deployment.PICTURES > 1


def test_export_with_onnx_puts_the_same_network_beside_the_model(folder):
    progress = HeardProgress()
    export_best_model(folder, validation([[BOX]] * 4), small_config(), progress, with_onnx=True)
    pytest.importorskip("onnxruntime", exc_type=ImportError)
    detector = Detector.load(folder, engine="onnxruntime")
    expected, found = (Detector.load(folder, engine=engine)(IMAGES[1]) for engine in ("mxnet", "onnxruntime"))
    assert progress.warnings == [] and detector.engine.description.weights == weights_digest(folder)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


@pytest.mark.parametrize("hosted", [True, False])
def test_export_without_onnx_leaves_no_file_of_older_weights(folder, hosted, monkeypatch):
    (folder / "model.onnx").write_bytes(b"of older weights")
    if not hosted:
        monkeypatch.setattr(deployment, "find_spec", lambda name: None)
    export_best_model(folder, validation([[BOX]] * 4), small_config(), HeardProgress(), with_onnx=not hosted)
    assert not (folder / "model.onnx").exists() and is_up_to_date(folder)


def test_export_onnx_mismatch_warns_and_publishes_nothing(folder, monkeypatch):
    from ssd_train.deploy.export import export

    class Wrong(export.OnnxEngine):
        def run(self, images):
            return super().run(images) * 1.5

    monkeypatch.setattr(export, "OnnxEngine", Wrong)
    progress = HeardProgress()
    export_best_model(folder, validation([[BOX]] * 4), small_config(), progress, with_onnx=True)
    assert len(progress.warnings) == 1 and not list(folder.glob("*.onnx")) and is_up_to_date(folder)


def test_export_artifact_names_builtin_runs_with_plain_mxnet_as_the_builtin(folder):
    """As walk-throughs of the built-in algorithm load its deployable files, and read their rows."""
    data = validation([[BOX]] * 2)
    export_best_model(folder, data, small_config(artifact_names="builtin"), HeardProgress())
    assert {"image_shape", "nms_threshold", "base_network"} <= set(
        json.loads((folder / "hyperparams.json").read_text())
    )
    network, weights, states = mx.model.load_checkpoint(str(folder / "model_algo_1"), 0)
    module = mx.mod.Module(network, label_names=[], context=mx.cpu())
    module.bind(for_training=False, data_shapes=[("data", (1, 3, SIDE, SIDE))])
    module.set_params(weights, states)
    pixels = preprocess(IMAGES[0], SIDE)
    module.forward(mx.io.DataBatch([mx.nd.array(pixels.transpose(2, 0, 1)[None])]), is_train=False)
    (rows,) = (output.asnumpy() for output in module.get_outputs())
    expected = Detector.load(folder, "cpu", "symbol").engine.run(pixels[None])
    used = expected[0, :, 0] >= 0
    assert rows.shape == expected.shape and used.any()
    np.testing.assert_array_equal(rows[0, :, 0], expected[0, :, 0])
    np.testing.assert_allclose(rows[0, used, 1], expected[0, used, 1], rtol=1e-6)
    np.testing.assert_allclose(rows[0, used, 2:] * SIDE, expected[0, used, 2:], rtol=1e-5)
    assert not {"model_algo_1-symbol.json", "model_algo_1-0000.params"} - {file.name for file in folder.iterdir()}
    assert Detector.load(folder, "cpu").engine.name == "mxnet", "the model is still a folder of ssd_train"


def test_export_without_artifact_names_removes_those_of_an_earlier_run(folder):
    export_best_model(folder, validation([[BOX]]), small_config(artifact_names="builtin"), HeardProgress())
    export_best_model(folder, validation([[BOX]]), small_config(), HeardProgress())
    assert not list(folder.glob("model_algo_1-*"))

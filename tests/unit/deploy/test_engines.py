"""Choice of the engine, errors where none can run a model, and ONNX files without MXNet."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.models import CLASSES, drawn_inputs, flip_a_bit, talking_model

from ssd_train import mxnet_compat
from ssd_train.artifacts.symbol_format import INPUT
from ssd_train.cli.main import main
from ssd_train.data.image_io import encode_png
from ssd_train.deploy import detector
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.parity import compare
from ssd_train.errors import ConfigError, DependencyError, WeightsError
from ssd_train.resources import computes_bfloat16

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime", exc_type=ImportError)

SOURCE = Path(detector.__file__).resolve().parents[2]
WITHOUT_MXNET = """
import sys
sys.modules.update(mxnet=None, gluoncv=None, onnx=None)
from ssd_train.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder `both` with a model and its deployment files, `symbol` with these alone, and file.onnx."""
    from ssd_train.deploy.export.onnx import write_onnx
    from ssd_train.deploy.symbol import make_symbol, publish_symbol, staged_files

    folder = tmp_path_factory.mktemp("engines")
    saved = talking_model(folder / "both")
    for target in ("both", "symbol"):
        publish_symbol(folder / "both", folder / target, drawn_inputs(2))
    write_onnx(saved, folder / "file.onnx")
    with staged_files(saved.describe("int8", INPUT), folder / "int8", make_symbol(saved)):
        pass  # not quantized: these tests need only its metadata
    return folder


@pytest.mark.parametrize(
    "place, engine, expected",
    [
        pytest.param("both", "auto", "GluonEngine", id="model-folder"),
        pytest.param("both", "mxnet", "GluonEngine", id="gluon"),
        pytest.param("both", "symbol", "SymbolEngine", id="symbol-of-a-model-folder"),
        pytest.param("symbol", "auto", "SymbolEngine", id="exported-symbol"),
        pytest.param("file.onnx", "auto", "OnnxEngine", id="onnx"),
        pytest.param("file.onnx", "onnxruntime", "OnnxEngine", id="onnxruntime"),
        pytest.param("file.onnx", "openvino", "OpenVinoEngine", id="openvino"),
    ],
)
def test_load_each_engine_agrees_with_mxnet(model, place, engine, expected):
    if engine == "openvino":
        pytest.importorskip("openvino")
    loaded = Detector.load(model / place, "cpu", engine)
    assert type(loaded.engine).__name__ == expected and loaded.class_names.names == CLASSES
    assert (loaded.engine.description is None) == (expected == "GluonEngine"), "of exports only"
    images = drawn_inputs(3)
    agreement = compare(Detector.load(model / "both", engine="mxnet").engine.run(images), loaded.engine.run(images))
    assert agreement.rows > 50 and agreement.unmatched == 0


@pytest.mark.skipif(not computes_bfloat16(), reason="this CPU has no instructions for bfloat16")
def test_openvino_bf16_is_close_to_openvino_and_not_equal(model):
    images = drawn_inputs(3)
    exact, rounded = (
        Detector.load(model / "file.onnx", engine=name).engine.run(images) for name in ("openvino", "openvino_bf16")
    )
    assert rounded.shape == exact.shape and not np.array_equal(exact, rounded)
    np.testing.assert_allclose(rounded[:, :5, 1], exact[:, :5, 1], atol=0.05)


def test_openvino_bf16_without_instructions_is_refused(model, monkeypatch):
    monkeypatch.setattr("ssd_train.resources.cpu_flags", lambda root: frozenset({"avx512f"}))
    with pytest.raises(ConfigError, match="^engine: .*openvino_bf16"):
        Detector.load(model / "file.onnx", engine="openvino_bf16")


@pytest.mark.parametrize(
    "place, engine, kind, expected",
    [
        ("both", "tensorrt", ConfigError, "^engine: .*'tensorrt'.*auto, mxnet"),
        ("both", "openvino", WeightsError, "both: .* mxnet or symbol.* openvino"),
        ("symbol", "mxnet", WeightsError, "symbol: .* symbol.* mxnet"),
        ("file.onnx", "mxnet", WeightsError, "file.onnx: .* onnxruntime or openvino.* mxnet"),
        ("nowhere", "auto", WeightsError, "nowhere: "),
        ("nowhere.onnx", "auto", WeightsError, "nowhere.onnx: "),
    ],
    ids=["unknown", "no-onnx-file", "no-config", "file-for-mxnet", "nowhere", "no-such-file"],
)
def test_load_unsuitable_engine_raises(model, place, engine, kind, expected):
    with pytest.raises(kind, match=expected):
        Detector.load(model / place, engine=engine)


@pytest.mark.parametrize(
    "place, engine, devices",
    [
        ("both", "mxnet", "gpu:0"),
        ("both", "mxnet", "cpu:1,cpu:2"),
        ("symbol", "symbol", "cpu:1,cpu:2"),
        ("file.onnx", "onnxruntime", "gpu:0"),
        ("file.onnx", "onnxruntime", "tpu"),
        ("int8", "symbol", "gpu"),
    ],
)
def test_load_for_devices_that_the_engine_does_not_use_is_refused(model, place, engine, devices):
    if devices == "gpu:0" and engine == "mxnet" and mxnet_compat.mxnet().context.num_gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=f"^devices: found .*{devices}" if place != "both" else "^devices: found "):
        Detector.load(model / place, devices, engine)


@pytest.mark.parametrize("place, engine", [("both", "mxnet"), ("symbol", "symbol")])
def test_load_on_another_cpu_runs_there_and_exports_from_the_first(model, place, engine):
    mx = mxnet_compat.mxnet()
    pictures = drawn_inputs(3)
    found, expected = (Detector.load(model / place, devices, engine).engine for devices in ("cpu:1", "cpu"))
    agreement = compare(expected.run(pictures), found.run(pictures))
    assert agreement.rows > 50 and agreement.unmatched == 0
    if engine == "symbol":
        _, weights, states = found.parts
        assert {array.context for array in [*weights.values(), *states.values()]} == {mx.cpu(0)}


def test_load_cpu_only_models_on_a_gpu_machine_uses_the_cpu(model, monkeypatch, tmp_path):
    """This MXNet is built without CUDA, so anything put on a GPU fails."""
    mx = mxnet_compat.mxnet()
    if mx.context.num_gpus():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 1)
    with pytest.raises(mx.MXNetError):
        Detector.load(model / "both")
    assert Detector.load(model / "int8").engine.run(drawn_inputs(1)).shape[0] == 1
    for format, name in (("symbol", "symbol"), ("onnx", "model.onnx")):
        flags = ["--model", str(model / "both"), "--format", format, "--output", str(tmp_path / name)]
        assert main(["export", *flags]) == 0


@pytest.mark.parametrize(
    "installed, place, expected",
    [
        pytest.param({"mxnet", "gluoncv", "onnxruntime"}, "all", "mxnet", id="all"),
        pytest.param({"mxnet", "onnxruntime"}, "all", "symbol", id="no-gluoncv"),
        pytest.param({"onnxruntime", "openvino"}, "all", "onnxruntime", id="no-mxnet"),
        pytest.param({"openvino"}, "all", "openvino", id="openvino-only"),
        pytest.param({"openvino"}, "m.onnx", "openvino", id="openvino-only-file"),
        pytest.param(set(), "m.onnx", "onnxruntime", id="nothing-says-what-to-install"),
        pytest.param(set(), "all", "mxnet", id="nothing-says-what-to-install-for-a-folder"),
    ],
)
def test_choose_engine_auto_returns_an_installed_one(tmp_path, monkeypatch, installed, place, expected):
    (tmp_path / "all").mkdir()
    for name in ("all/config.json", "all/model-export.json", "all/m.onnx", "m.onnx"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setattr(detector, "find_spec", lambda package: package in installed or None)
    assert detector._choose_engine(tmp_path / place, "auto", "shown") == expected


@pytest.mark.parametrize("text", ['{"model_type": "bert"}', '{"weights": {}}', "[]"])
def test_load_onnx_next_to_a_config_of_another_program_works(model, tmp_path, text):
    shutil.copy(model / "file.onnx", tmp_path)
    (tmp_path / "config.json").write_text(text)
    assert Detector.load(tmp_path, engine="onnxruntime").class_names.names == CLASSES


def test_load_onnx_next_to_a_damaged_model_raises(model, tmp_path):
    shutil.copy(model / "file.onnx", tmp_path)
    shutil.copy(model / "both" / "config.json", tmp_path)
    assert Detector.load(tmp_path, engine="onnxruntime").class_names.names == CLASSES, "its own"
    flip_a_bit(tmp_path / "config.json")
    with pytest.raises(WeightsError, match="config.json: "):
        Detector.load(tmp_path, engine="onnxruntime")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1000], lambda data: b"GIF89a" * 99])
def test_load_damaged_onnx_raises_one_line(model, tmp_path, engine, damage):
    pytest.importorskip(engine)
    path = tmp_path / "m.onnx"
    path.write_bytes(damage((model / "file.onnx").read_bytes()))
    with pytest.raises(WeightsError, match=f"^{path}: ") as error:
        Detector.load(path, engine=engine)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module, engine", [("onnxruntime", "onnxruntime"), ("openvino", "openvino")])
def test_load_missing_runtime_raises_dependency_error(model, monkeypatch, module, engine):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DependencyError, match=f"{module} cannot be imported .* pip install"):
        Detector.load(model / "file.onnx", engine=engine)


def test_predict_onnx_without_mxnet_equals_with_mxnet(model, tmp_path):
    """Run in a process that cannot import MXNet, GluonCV or onnx."""
    (tmp_path / "pictures").mkdir()
    for index, picture in enumerate(drawn_inputs(3)):
        (tmp_path / "pictures" / f"{index}.png").write_bytes(encode_png(picture))
    outputs = []
    for name, program in (("without", ["-c", WITHOUT_MXNET]), ("with", ["-m", "ssd_train"])):
        outputs.append(tmp_path / f"{name}.jsonl")
        command = [
            "predict",
            str(tmp_path / "pictures"),
            "--model",
            str(model / "file.onnx"),
            "--output",
            str(outputs[-1]),
        ]
        run = subprocess.run(
            [sys.executable, *program, *command], env={"PYTHONPATH": str(SOURCE)}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, universal_newlines=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout
    without, with_all = (path.read_text() for path in outputs)
    assert without == with_all and without.count("\n") == 3 and len(without) > 1000

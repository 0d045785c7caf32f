"""serve: choice of the engine and warnings; the server itself: tests/unit/deploy/server/test_app.py."""

from __future__ import annotations

import pytest
from helpers.models import talking_model

from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.artifacts.symbol_format import INPUT
from ssd_train.cli import serve
from ssd_train.cli.main import main
from ssd_train.cli.train import next_steps
from ssd_train.deploy.server import app
from ssd_train.deploy.symbol import make_symbol, staged_files


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    talking_model(folder)
    return folder


@pytest.fixture
def served(monkeypatch, capsys):
    """Return a function that starts and stops a server and returns the printed lines."""
    monkeypatch.setattr(app, "keep_memory_flat", lambda: None)
    monkeypatch.setattr(app, "run", lambda server, listener, queue: listener.close())

    def lines(model, *flags):
        assert main(["serve", "--model", str(model), "--port", "0", *flags]) == 0
        return capsys.readouterr().out.splitlines()

    return lines


@pytest.mark.parametrize(
    "lacking, flags, missing",
    [
        pytest.param(("onnxruntime",), (), ["onnxruntime"], id="neither asked for nor there"),
        pytest.param(("onnxruntime", "onnx"), (), ["onnxruntime", "onnx"], id="both"),
        pytest.param(("onnx",), (), ["onnx"], id="no exporter"),
        pytest.param(("onnxruntime", "onnx"), ("--engine", "mxnet"), [], id="asked for"),
    ],
)
def test_serve_without_onnx_runtime_warns_and_names_the_packages(model, monkeypatch, served, lacking, flags, missing):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name in lacking else True)
    lines = served(model, *flags)
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert len(warnings) == bool(missing)
    assert not missing or f" {' and '.join(missing)} not installed: pip install 'ssd-train[onnx]'" in warnings[0]
    assert any(line.startswith(f"serving {model} with mxnet at http://127.0.0.1:") for line in lines)


@pytest.mark.parametrize(
    "kind, flags, warned",
    [
        pytest.param("symbol", (), True, id="in 32 bits"),
        pytest.param("int8", (), False, id="in 8 bits, which is faster"),
        pytest.param("symbol", ("--engine", "symbol"), False, id="asked for"),
    ],
)
def test_serve_float_symbol_warns_and_names_faster_files(model, tmp_path, monkeypatch, served, kind, flags, warned):
    """It cannot be exported any further."""
    monkeypatch.setattr(serve, "find_spec", lambda name: True)
    saved = SavedModel.load(model)
    with staged_files(saved.describe(kind, INPUT), tmp_path, make_symbol(saved)):
        pass
    lines = served(tmp_path, *flags)
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert len(warnings) == warned and all("symbol" in line and "ONNX" in line for line in warnings)
    assert any(line.startswith(f"serving {tmp_path} with symbol at ") for line in lines)


@pytest.mark.parametrize("devices", ["auto", "cpu"])
def test_serve_on_the_cpu_takes_onnx_runtime(model, served, devices):
    assert any("with onnxruntime" in line for line in served(model, "--devices", devices))


@pytest.mark.parametrize("installed", [True, False])
def test_next_steps_name_the_extras_that_are_missing(monkeypatch, tmp_path, installed):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    extras = [line.partition("pip install ")[2] for line in next_steps(tmp_path)]
    assert extras == (["", "", "", ""] if installed else ["", "", "'ssd-train[serve]'", "'ssd-train[onnx]'"])

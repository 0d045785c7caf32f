"""serve: which engine runs the model, and what is said of it; the server itself: tests/unit/deploy/test_server.py."""

from __future__ import annotations

import pytest
from nets import talking_model

from ssd_train.cli import serve
from ssd_train.cli.main import main
from ssd_train.deploy.artifact import describe, prepared_files
from ssd_train.deploy.symbol_file import make_symbol
from ssd_train.training.saved_model import SavedModel


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    talking_model(folder)
    return folder


@pytest.fixture
def served(monkeypatch, capsys):
    """A function that serves a model for no time at all; it returns the lines that were printed."""
    monkeypatch.setattr(serve, "keep_memory_flat", lambda: None)
    monkeypatch.setattr(serve, "run_server", lambda server, listener, queue: listener.close())

    def lines(model, *flags):
        assert main(["serve", "--model", str(model), "--port", "0", *flags]) == 0
        return capsys.readouterr().out.splitlines()

    return lines


@pytest.mark.parametrize(
    "lacking, flags, warning",
    [
        pytest.param(("onnxruntime",), (), "onnxruntime not found", id="neither asked for nor there"),
        pytest.param(("onnxruntime", "onnx"), (), "onnxruntime and onnx not found", id="both"),
        pytest.param(("onnx",), (), "onnx not found", id="no exporter"),
        pytest.param(("onnxruntime", "onnx"), ("--engine", "mxnet"), "", id="asked for"),
    ],
)
def test_a_slower_engine_is_told_with_what_to_install(model, monkeypatch, served, lacking, flags, warning):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name in lacking else True)
    lines = served(model, *flags)
    expected = f"warning: mxnet runs the model, which is slower than onnxruntime; {warning}: "
    assert [line for line in lines if line.startswith("warning")] == (
        [f"{expected}pip install 'ssd-train[onnx]'"] if warning else []
    )
    assert any(line.startswith(f"serving {model} by mxnet at http://127.0.0.1:") for line in lines)


@pytest.mark.parametrize(
    "kind, flags, warned",
    [
        pytest.param("symbol", (), True, id="in 32 bits"),
        pytest.param("int8", (), False, id="in 8 bits, which is faster"),
        pytest.param("symbol", ("--engine", "symbol"), False, id="asked for"),
    ],
)
def test_a_symbol_alone_is_told_what_to_serve_instead(model, tmp_path, monkeypatch, served, kind, flags, warned):
    """It cannot be exported any further."""
    monkeypatch.setattr(serve, "find_spec", lambda name: True)
    saved = SavedModel.load(model)
    with prepared_files(describe(saved, kind), tmp_path, make_symbol(saved)):
        pass
    lines = served(tmp_path, *flags)
    assert [line for line in lines if line.startswith("warning")] == warned * [
        "warning: symbol runs the model, which is slower than onnxruntime: serve the model folder that it was exported "
        "from, or an ONNX file of that"
    ]
    assert any(line.startswith(f"serving {tmp_path} by symbol at ") for line in lines)

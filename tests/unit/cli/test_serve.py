"""serve: which engine runs the model, and what is said of it; the server itself: tests/unit/deploy/test_server.py."""

from __future__ import annotations

import pytest
from nets import talking_model

from ssd_train.cli import serve
from ssd_train.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    talking_model(folder)
    return folder


@pytest.mark.parametrize(
    "lacking, flags, warning",
    [
        pytest.param(("onnxruntime",), (), "onnxruntime not found", id="neither asked for nor there"),
        pytest.param(("onnxruntime", "onnx"), (), "onnxruntime and onnx not found", id="both"),
        pytest.param(("onnx",), (), "onnx not found", id="no exporter"),
        pytest.param(("onnxruntime", "onnx"), ("--engine", "mxnet"), "", id="asked for"),
    ],
)
def test_a_slower_engine_is_told_with_what_to_install(model, monkeypatch, capsys, lacking, flags, warning):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name in lacking else True)
    monkeypatch.setattr(serve, "keep_memory_flat", lambda: None)
    monkeypatch.setattr(serve, "run_server", lambda server, listener, queue: listener.close())
    assert main(["serve", "--model", str(model), "--port", "0", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = f"warning: mxnet runs the model, which is slower than onnxruntime; {warning}: "
    assert [line for line in lines if line.startswith("warning")] == (
        [f"{expected}pip install 'ssd-train[onnx]'"] if warning else []
    )
    assert any(line.startswith(f"serving {model} by mxnet at http://127.0.0.1:") for line in lines)

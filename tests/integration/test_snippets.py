"""What the documents show of Python runs as it is, letter by letter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nets import CLASSES, talking_model

from ssd_train.data.drawn import draw_shapes_set
from ssd_train.data.images import encode_jpeg

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
WITHOUT_MXNET = "import sys\nsys.modules.update(mxnet=None, gluoncv=None, onnx=None)\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the snippets find where they are run: model, model.onnx, picture.jpg."""
    folder = tmp_path_factory.mktemp("here")
    talking_model(folder / "model")
    (folder / "picture.jpg").write_bytes(encode_jpeg(draw_shapes_set(1, seed=1)[0].image))
    return folder


@pytest.mark.parametrize(
    "document, before", [("README.md", ""), ("docs/exports.md", WITHOUT_MXNET)], ids=["readme", "exports-without-mxnet"]
)
def test_python_of_the_documents(folder, document, before):
    if before:
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime", exc_type=ImportError)
        from ssd_train.deploy.onnx_file import write_onnx
        from ssd_train.training.saved_model import SavedModel

        write_onnx(SavedModel.load(folder / "model"), folder / "model.onnx")
    (snippet,) = (ROOT / document).read_text("utf-8").split("```python\n")[1:]
    run = subprocess.run(
        [sys.executable, "-c", before + snippet.split("```")[0]],
        cwd=str(folder),
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    lines = run.stdout.splitlines()
    assert run.returncode == 0 and lines, run.stdout
    assert all(line.split()[0] in CLASSES and 0.01 < float(line.split()[1]) <= 1 for line in lines), run.stdout

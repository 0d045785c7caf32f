"""What the documents show of Python. That of README.md and docs/exports.md runs as it is, letter by letter, and that of
docs/python.md with a smaller training; that of docs/launch.md, docs/sagemaker.md and docs/migrate, which asks AWS, is
looked through: it lacks nothing."""

from __future__ import annotations

import ast
import builtins
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.data import SMALL, shapes_set
from helpers.models import CLASSES, talking_model
from PIL import Image

from ssd_train.cli.main import main
from ssd_train.data.image_io import encode_jpeg
from ssd_train.data.synthetic import draw_shapes_set
from ssd_train.deploy.detector import Detector

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
OF_TORCH = "docs/guide/weights.md"  # a snippet of PyTorch alone: tests/integration/test_torch_weights.py has its like
DOCUMENTS = (
    "README.md",
    "docs/exports.md",
    "docs/launch.md",
    "docs/migrate/builtin-algorithm.md",
    "docs/python.md",
    "docs/sagemaker.md",
)
OPENCV = "cv2.dnn"  # the example that runs a raw export
WITHOUT_MXNET = "import sys\nsys.modules.update(mxnet=None, gluoncv=None, onnx=None)\n"


def snippets_of(document):
    return [text.split("```")[0] for text in document.read_text("utf-8").split("```python\n")[1:]]


def test_documents_with_python_are_all_tested():
    found = [path for path in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("*/*/*.md")] if snippets_of(path)]
    assert sorted(path.relative_to(ROOT).as_posix() for path in found) == sorted([*DOCUMENTS, OF_TORCH])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_snippets_names_are_defined(document):
    """Every name comes from somewhere, and what comes from us is there."""
    snippet = "\n".join(snippets_of(ROOT / document))
    nodes = list(ast.walk(ast.parse(snippet)))
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    aliases = [alias for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names]
    names = [node for node in nodes if isinstance(node, ast.Name)]
    known = {node.id for node in names if isinstance(node.ctx, ast.Store)} | set(dir(builtins))
    known |= {alias.asname or alias.name.split(".")[0] for alias in aliases}
    assert {node.id for node in names} - known == set()
    ours = [(node.module, alias.name) for node in froms if node.module.startswith("ssd_train") for alias in node.names]
    assert ours and all(hasattr(importlib.import_module(module), name) for module, name in ours)


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
def test_snippets_run_as_they_are(folder, document, before):
    if before:
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime", exc_type=ImportError)
        from ssd_train.artifacts.saved_model import SavedModel
        from ssd_train.deploy.export.onnx import write_onnx

        write_onnx(SavedModel.load(folder / "model"), folder / "model.onnx")
    snippets = [text for text in snippets_of(ROOT / document) if OPENCV not in text]
    assert len(snippets) == (2 if before else 1)
    for snippet in snippets:
        lines = printed(before + snippet, folder)
        assert lines and all(line.split()[0] in CLASSES and 0.01 < float(line.split()[1]) <= 1 for line in lines), lines


def test_snippet_of_opencv_finds_the_objects_of_the_model(folder):
    """The raw export by OpenCV's network and suppression, with the input size of the test's model."""
    pytest.importorskip("onnxruntime", exc_type=ImportError)
    command = ["export", "--model", str(folder / "model"), "--format", "onnx", "--nms", "0", "--input", "float"]
    assert main([*command, "--output", str(folder / "raw.onnx")]) == 0
    (snippet,) = [text for text in snippets_of(ROOT / "docs" / "exports.md") if OPENCV in text]
    (found,) = printed(snippet.replace("300", "128") + "\nprint(scores[kept, 0].max())\n", folder)
    image = np.asarray(Image.open(folder / "picture.jpg").convert("RGB"))
    detections = Detector.load(folder / "model", engine="mxnet")(image)
    assert float(found) == pytest.approx(detections.scores[detections.class_ids == 0].max(), abs=0.02)


def printed(program, folder):
    """Run a program in a folder; return the lines that it prints."""
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=str(folder),
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    assert run.returncode == 0, run.stdout
    return run.stdout.splitlines()


def test_python_of_the_python_page(tmp_path):
    """Its blocks run one after another, with a smaller network and fewer epochs than the page has."""
    drawn = shapes_set(tmp_path, 24)
    drawn.images.rename(tmp_path / "images")
    for name in ("output.manifest", "test.manifest"):
        (tmp_path / name).write_bytes(drawn.manifest.read_bytes())
    (tmp_path / "picture.jpg").write_bytes(encode_jpeg(draw_shapes_set(1, seed=1)[0].image))
    program = "".join(snippets_of(ROOT / "docs/python.md"))
    assert program.count("epochs=30") == 1
    settings = {**SMALL, "learning_rate": 0.004, "augmentation": "none"}
    lines = printed(program.replace("epochs=30", ", ".join(f"{k}={v!r}" for k, v in settings.items())), tmp_path)
    shown = "\n".join(lines)
    assert (tmp_path / "model" / "config.json").is_file() and (tmp_path / "output" / "report.html").is_file()
    assert "24 images, disc, square, triangle: [" in shown
    for pattern in (
        r"^mAP@0.5 0\.\d{3} after epoch [12]: model, output/report.html$",
        r"^\d+ candidates, of which \d+ are",
    ):
        assert re.search(pattern, shown, re.M), (pattern, shown)
    (mean,) = re.findall(r"^COCO mAP \d\.\d{3}, mAP@0.5 (\d\.\d{3}), ", shown, re.M)
    assert (
        0 <= float(mean) <= 1 and Image.open(tmp_path / "drawn.png").size == Image.open(tmp_path / "picture.jpg").size
    )

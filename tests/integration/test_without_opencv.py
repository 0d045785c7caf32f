"""A whole job, and what is done with its model, where OpenCV cannot be imported, as in AWS's inference image."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.jobs import SOURCE, assert_loads_as_what_it_is, finish, flags, run_here
from helpers.models import drawn_inputs, talking_model

from ssd_train.deploy.symbol import publish_symbol


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """The PYTHONPATH of a process that finds no OpenCV."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "cv2.py").write_text("raise ImportError(\"No module named 'cv2'\")")
    return f"{folder}:{SOURCE}"


def test_train_without_opencv_model_detects_equally_with_it(without, data, tmp_path):
    printed = finish(flags(data, tmp_path, epochs=2, augmentation="strong"), PYTHONPATH=without)
    assert printed.count("OpenCV cannot be imported") == 1 and "training is complete" in printed
    assert_loads_as_what_it_is(tmp_path)
    where = ["predict", str(data[1].images), "--model", str(tmp_path / "model"), "--output"]
    finish([*where, str(tmp_path / "without.jsonl")], PYTHONPATH=without)
    run_here([*where, str(tmp_path / "with.jsonl")])
    found = []
    for name in ("without", "with"):
        lines = map(json.loads, (tmp_path / f"{name}.jsonl").read_text().splitlines())
        found.append(np.array([[row[1] for row in line["prediction"][:5]] for line in lines]))
    np.testing.assert_allclose(*found, atol=0.01)


def test_symbol_engine_needs_neither_opencv_nor_gluoncv(without, data, tmp_path):
    """AWS's inference image has GluonCV, which an image of one's own may leave out."""
    model = tmp_path / "model"
    talking_model(model)
    publish_symbol(model, model, drawn_inputs(4))
    (tmp_path / "gluoncv.py").write_text("raise ImportError(\"No module named 'gluoncv'\")")
    where = ["predict", str(data[1].images), "--model", str(model), "--engine", "symbol", "--output"]
    finish([*where, str(tmp_path / "without.jsonl")], PYTHONPATH=f"{tmp_path}:{without}")
    run_here([*where, str(tmp_path / "with.jsonl")])
    found, expected = (
        [[row[1] for row in json.loads(line)["prediction"][:3]] for line in path.read_text().splitlines()]
        for path in (tmp_path / "without.jsonl", tmp_path / "with.jsonl")
    )
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_check_without_opencv_finds_nothing_else(without, data):
    arguments = ["check", "--images", str(data[0].images), "--labels", str(data[0].manifest)]
    expected, found = run_here(arguments).splitlines(), finish(arguments, PYTHONPATH=without).splitlines()
    assert "OpenCV cannot be imported" in found[0] and found[1:] == expected

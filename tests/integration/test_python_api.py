"""The Python API against the commands: the same model, the same scores, the same detections."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import jobs
from helpers.data import SMALL, shapes_set

import ssd_train
from ssd_train import Detector, evaluate, load_labels, train
from ssd_train.cli.main import main
from ssd_train.data.synthetic import draw_shapes_set
from ssd_train.errors import ConfigError, DataError

pytestmark = pytest.mark.integration
SOURCE = Path(ssd_train.__file__).resolve().parents[1]
SETTINGS = {**SMALL, "epochs": 6, "mini_batch_size": 8, "learning_rate": 0.002, "augmentation": "flip"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Training and validation pictures."""
    folder = tmp_path_factory.mktemp("data")
    return shapes_set(folder / "train", 40, seed=1), shapes_set(folder / "validation", 14, seed=2)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The result of `train`."""
    folder = tmp_path_factory.mktemp("api")
    training, validation = data
    return train(
        training.images,
        training.manifest,
        validation=str(validation.images),
        validation_labels=validation.manifest,
        model_dir=folder / "model",
        output_dir=folder / "output",
        verbose=False,
        **SETTINGS,
    )


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_train_makes_the_model_of_the_command(trained, data, tmp_path):
    assert main(["train", *jobs.flags(data, tmp_path, checkpoint_dir=None, **SETTINGS)]) == 0
    mine, theirs = config_of(trained.model_dir), config_of(tmp_path / "model")
    assert mine["weights"] == theirs["weights"], "SHA-256 of the weights"
    names = {path.name for path in trained.model_dir.iterdir()}
    assert names == {path.name for path in (tmp_path / "model").iterdir()}, "exported, too"
    assert trained.report == trained.model_dir.parent / "output" / "report.html" and trained.report.is_file()
    assert (trained.best_epoch, trained.epochs) == (mine["epoch"] + 1, 6)
    assert trained.scores.coco == pytest.approx(mine["scores"]["mAP"])


def test_model_states_the_threshold_of_its_best_f1(trained, tmp_path):
    onnx = pytest.importorskip("onnx")
    expected = trained.scores.best_f1.threshold
    assert 0 < expected < 1
    stated = config_of(trained.model_dir)["score_threshold"]
    assert stated == pytest.approx(expected, abs=1e-6)
    exported = json.loads((trained.model_dir / "model-export.json").read_text())
    assert exported["score_threshold"] == stated
    target = tmp_path / "model.onnx"
    assert main(["export", "--model", str(trained.model_dir), "--format", "onnx", "--output", str(target)]) == 0
    properties = {entry.key: entry.value for entry in onnx.load(str(target)).metadata_props}
    assert json.loads(properties["score_threshold"]) == stated
    for model, engine in ((trained.model_dir, "mxnet"), (trained.model_dir, "symbol"), (target, "onnxruntime")):
        assert Detector(model, engine=engine).score_threshold == stated


def test_result_loads_its_detector_once(trained, data):
    detector = trained.detector
    assert detector is trained.detector and tuple(detector.class_names) == ("disc", "square", "triangle")
    path = sorted(data[1].images.iterdir())[0]
    np.testing.assert_array_equal(detector(path).boxes, Detector(trained.model_dir)(path).boxes)


def test_evaluate_gives_the_scores_of_the_command(trained, data, tmp_path):
    images, manifest = data[1]
    flags = ["--model", trained.model_dir, "--images", images, "--labels", manifest, "--json", tmp_path / "a.json"]
    assert main(["evaluate", *map(str, flags)]) == 0
    expected = json.loads((tmp_path / "a.json").read_text())
    for model in (trained.model_dir, trained.detector):
        assert json.loads(json.dumps(evaluate(model, manifest, images, verbose=False).to_json())) == expected
    answers = tmp_path / "a.jsonl"
    assert main(["predict", str(images), "--model", str(trained.model_dir), "--output", str(answers)]) == 0
    scores = evaluate(predictions=answers, labels=manifest, images=images, verbose=False)
    assert scores.coco == pytest.approx(expected["mAP"], abs=1e-6)


def test_results_are_the_predictions_of_the_command(trained, data, tmp_path):
    answers = tmp_path / "a.jsonl"
    assert main(["predict", str(data[1].images), "--model", str(trained.model_dir), "--output", str(answers)]) == 0
    lines = {line["image"]: line for line in map(json.loads, answers.read_text().splitlines())}
    paths = sorted(data[1].images.iterdir())
    for path, result in zip(paths, trained.detector(paths)):
        np.testing.assert_allclose(result.to_rows(), lines[path.name]["prediction"], atol=1e-6)
        assert result.to_dict()["image"] == str(path)


def test_detector_tiled_equals_each_tile_alone(trained):
    """Nine pictures side by side; each tile is one of them."""
    samples = draw_shapes_set(9, seed=1, size_wh=(160, 160), empty_fraction=0)
    places = [(160 * (index % 3), 160 * (index // 3)) for index in range(9)]
    image = np.zeros((480, 480, 3), np.uint8)
    for sample, (x, y) in zip(samples, places):
        image[y : y + 160, x : x + 160] = sample.image
    detector = trained.detector
    tiled = detector(image, tile=160, tile_overlap=0)
    for sample, place in zip(samples, places):
        # a box at an inner edge of its tile counts half
        best = next(found for found in detector(sample.image) if min(found.box) > 2 and max(found.box) < 158)
        corners = np.array(best.box) + [*place, *place]
        same = (np.abs(tiled.boxes - corners).max(axis=1) < 0.01) & (tiled.class_ids == best.class_id)
        assert same.any(), "the best of each tile, in pixels of the whole image"
    whole = detector(image)
    assert len(tiled) > 3 * len(whole) and (np.diff(tiled.scores) <= 0).all()


def test_load_labels_gives_records_and_names(data):
    labels = load_labels(data[0].manifest)
    assert len(labels) == 40 and set(labels.class_names) == {"disc", "square", "triangle"}
    assert labels.boxes_per_class().sum() == sum(len(record.boxes) for record in labels.records) > 40
    with pytest.raises(ConfigError, match="^labels_format: found 'xml'"):
        load_labels(data[0].manifest, labels_format="xml")
    with pytest.raises(DataError, match="none.manifest"):
        load_labels("none.manifest")


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"epoch": 3}, "epoch: unknown setting"),
        ({"epochs": 0}, "epochs: "),
        ({"model_dir": "s3://bucket/model"}, "found s3://bucket/model, expected a local folder"),
        ({"devices": "tpu"}, "devices: found 'tpu'"),
        ({"weights_dir": "none", "use_pretrained_model": 1}, "weights_dir: found no folder none"),
    ],
)
def test_train_arguments_that_cannot_be_used(data, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        train(data[0].images, data[0].manifest, verbose=False, **{**SMALL, **arguments})
    assert str(error.value).startswith(expected) and not list(tmp_path.iterdir())


def test_train_of_several_processes_is_refused(data, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="^train: found 2 processes of mpi"):
        train(data[0].images, data[0].manifest, **SMALL)


def test_evaluate_without_labels_or_model_raises(data):
    for arguments in ({}, {"labels": data[1].manifest}, {"model": "model"}):
        with pytest.raises(ConfigError, match="^evaluate: "):
            evaluate(**arguments)


def run_python(program):
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_import_loads_nothing_until_a_name_is_used():
    program = """
import sys
before = set(sys.modules)
import ssd_train
assert ssd_train.__version__ and {"Detector", "train", "evaluate", "load_labels"} <= set(dir(ssd_train))
heavy = {"numpy", "PIL", "cv2", "mxnet", "gluoncv", "boto3", "argparse"} & (set(sys.modules) - before)
assert not heavy, heavy
assert [name for name in sys.modules if name.startswith("ssd_train")] == ["ssd_train"]
from ssd_train import *
assert Detector is ssd_train.Detector and "mxnet" not in vars(ssd_train)
"""
    run_python(program)


def test_unknown_name_raises_as_any_module():
    with pytest.raises(AttributeError, match="has no attribute 'predict'"):
        getattr(ssd_train, "predict")  # noqa: B009
    with pytest.raises(ImportError):
        exec("from ssd_train import predict")


def test_stub_has_the_exports_of_the_package():
    """Type checkers read __init__.pyi; it must name the same."""
    import ast

    stub = ast.parse((SOURCE / "ssd_train" / "__init__.pyi").read_text())
    imported = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported | {"__version__"} == set(ssd_train.__all__)
    modules = {
        alias.name: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert modules == ssd_train._MODULES

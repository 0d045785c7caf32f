"""The main job by its commands, on drawn shapes: trained, scored, shown, and its answers scored again."""

from __future__ import annotations

import csv
import json
import re
import sys

import numpy as np
import pytest
from helpers import jobs
from helpers.data import SMALL, HeardProgress, flags_of, shapes_set, small_config
from PIL import Image

from ssd_train import sagemaker_metrics
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.cli.main import main
from ssd_train.cli.train import train
from ssd_train.deploy.detector import Detector
from ssd_train.environment import Environment

pytestmark = pytest.mark.integration

EPOCHS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Training and validation pictures."""
    folder = tmp_path_factory.mktemp("data")
    return shapes_set(folder / "train", 40, seed=1), shapes_set(folder / "validation", 14, seed=2)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a finished run of the command."""
    folder = tmp_path_factory.mktemp("run")
    settings = {"epochs": EPOCHS, "mini_batch_size": 8, "learning_rate": 0.002, "augmentation": "flip"}
    assert main(["train", *jobs.flags(data, folder, checkpoint_dir=None, **settings)]) == 0
    return folder


def config_of(folder):
    return json.loads((folder / "model" / "config.json").read_text())


def rows_of(folder):
    return [json.loads(line) for line in (folder / "model" / "history.jsonl").read_text().splitlines()]


def scores_of(path):
    """Every number in a file of scores, by its path."""

    def walk(value, name):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(inner, f"{name}/{key}")
        else:
            yield name, value

    return dict(walk(json.loads(path.read_text()), ""))


def assert_same_scores(found, expected, tolerance):
    assert found.keys() == expected.keys() and len(found) > 20
    for name, value in expected.items():
        if isinstance(value, float):
            assert found[name] == pytest.approx(value, abs=tolerance), name
        else:
            assert found[name] == value, name


def test_train_leaves_a_complete_model_folder(trained):
    names = sorted(path.name for path in (trained / "model").iterdir())
    config = config_of(trained)
    model = ["config.json", "history.jsonl", config["weights"]["file"]]
    deployment = [
        "code",
        "hyperparams.json",
        "model-0000.params",
        "model-export.json",
        "model-shapes.json",
        "model-symbol.json",
        "model.onnx",
    ]
    assert names == sorted(model + deployment)
    assert config["class_names"] == ["disc", "square", "triangle"] and config["image_shape"] == 128
    settings = config["settings"]
    assert (settings["num_classes"], settings["num_training_samples"], settings["epochs"]) == (3, 40, EPOCHS)
    assert config["versions"]["mxnet"] and config["versions"]["numpy"] == np.__version__


def test_train_lowers_the_loss_and_keeps_the_best_epoch(trained):
    rows = rows_of(trained)
    assert [row["epoch"] for row in rows] == list(range(EPOCHS))
    assert rows[-1]["CrossEntropy"] < 0.8 * rows[0]["CrossEntropy"]
    scores = [row["mAP"] for row in rows]
    assert max(scores) > 0 and max(scores) == scores[config_of(trained)["epoch"]], "the best epoch's model is kept"
    assert all(row["images_per_second"] > 0 and row["val_SmoothL1"] > 0 for row in rows)


def test_evaluate_model_equals_the_scores_of_training(trained, data, tmp_path, capsys):
    _, validation = data
    flags = {"model": trained / "model", "images": validation.images, "labels": validation.manifest}
    assert main(["evaluate", *flags_of({**flags, "json": tmp_path / "scores.json"})]) == 0
    found = scores_of(tmp_path / "scores.json")
    details = {
        name: value for name, value in found.items() if name.split("/")[1] in ("intervals", "by_size", "confusion")
    }
    assert len(details) > 6
    found = {name: value for name, value in found.items() if name not in details}
    (tmp_path / "training.json").write_text(json.dumps(config_of(trained)["scores"]))
    assert_same_scores(found, scores_of(tmp_path / "training.json"), 1e-9)
    assert re.search(r"^mAP@0.5 0\.\d{3}$", capsys.readouterr().out, re.MULTILINE)


@pytest.fixture(scope="module")
def answers(trained, data, tmp_path_factory):
    """A file of answers to the validation pictures."""
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    assert main(["predict", str(data[1].images), *flags_of({"model": trained / "model", "output": path})]) == 0
    return path


def test_evaluate_predictions_file_equals_the_model(trained, data, answers, tmp_path):
    for name, flags in {
        "model": {"model": trained / "model", "images": data[1].images},
        "file": {"predictions": answers},
        "file-with-model": {"predictions": answers, "model": trained / "model"},
    }.items():
        out = tmp_path / f"{name}.json"
        assert main(["evaluate", *flags_of({**flags, "labels": data[1].manifest, "json": out})]) == 0
    expected = scores_of(tmp_path / "model.json")
    for name in ("file", "file-with-model"):
        assert_same_scores(scores_of(tmp_path / f"{name}.json"), expected, 1e-6)


def test_predict_writes_the_format_of_the_builtin_algorithm(data, answers):
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [line["image"] for line in lines] == sorted(path.name for path in data[1].images.iterdir())
    rows = np.array([row for line in lines for row in line["prediction"]])
    assert set(rows[:, 0]) <= {0, 1, 2} and (rows[:, 1] > 0).all() and (rows[:, 1] < 1).all()
    assert (rows[:, 2:] >= 0).all() and (rows[:, 2:] <= 1).all() and (rows[:, 2:4] <= rows[:, 4:]).all()
    for line in lines:
        scores = [row[1] for row in line["prediction"]]
        assert scores == sorted(scores, reverse=True) and len(scores) == 100, "all candidates, best first"


def test_train_from_a_model_keeps_the_rows_of_known_classes(trained, data, tmp_path, capsys):
    lines = data[0].manifest.read_text().replace('"triangle"', '"pyramid"')
    (tmp_path / "renamed.manifest").write_text(lines)
    flags = {
        "train": data[0].images,
        "labels": tmp_path / "renamed.manifest",
        "pretrained": trained / "model",
        "model_dir": tmp_path / "model",
        "output_dir": tmp_path / "output",
    }
    settings = {**SMALL, "epochs": 1, "learning_rate": 1e-6}
    assert main(["train", *flags_of({**flags, **settings})]) == 0
    said = capsys.readouterr().out
    found = re.search(r"model: detector, (\d+) of (\d+) tensors loaded, (\d+) in part; class rows kept: (.*)", said)
    loaded, total, partly = map(int, found.groups()[:3])
    assert partly and loaded + partly == total and found.group(4) == "disc, square; new: pyramid"
    assert SavedModel.load(tmp_path / "model").class_names.names == ("disc", "square", "pyramid")


def test_train_without_validation_holds_a_fraction_out(data, tmp_path, capsys):
    split = {"validation": None, "validation_labels": None, "validation_fraction": 0.3}
    arguments = jobs.flags(data, tmp_path, **split, epochs=1, grayscale=1, augmentation="geometry")
    assert main(arguments) == 0, "no command means train"
    found = re.findall(r"^(?:train|validation): (\d+) images, (\d+) without", capsys.readouterr().out, re.MULTILINE)
    (training, empty), (held_out, empty_too) = (map(int, pair) for pair in found)
    assert training + held_out == 40 and 4 <= held_out <= 20
    assert empty + empty_too == 4, "images without objects are trained on and scored, too"


def test_train_on_sagemaker_prints_lines_that_metric_definitions_read(data, tmp_path):
    training, validation = data
    progress = HeardProgress()
    environment = Environment(*training, *validation, tmp_path / "m", tmp_path / "o", on_sagemaker=True, host="algo-7")
    train(small_config(epochs=2), environment, progress)
    log = "\n".join(progress.lines)
    found = {d["Name"]: [float(v) for v in re.findall(d["Regex"], log)] for d in sagemaker_metrics.METRIC_DEFINITIONS}
    rows = [json.loads(line) for line in (tmp_path / "m" / "history.jsonl").read_text().splitlines()]
    expected = {
        "train:cross_entropy": [row["CrossEntropy"] for row in rows],
        "train:smooth_l1": [row["SmoothL1"] for row in rows],
        "train:throughput": [row["images_per_second"] for row in rows],
        "train:progress": [50, 100],
        "validation:mAP": [row["VOC07"] for row in rows],
        "validation:smooth_l1": [row["val_SmoothL1"] for row in rows],
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)
    assert "host=algo-7, epoch=0, batch=9 train" in log


def test_train_epoch_without_evaluation_prints_no_map(data, tmp_path):
    training, validation = data
    progress = HeardProgress()
    environment = Environment(*training, *validation, tmp_path / "m", tmp_path / "o", on_sagemaker=True)
    train(small_config(epochs=3, validation_interval=2), environment, progress)
    rows = [json.loads(line) for line in (tmp_path / "m" / "history.jsonl").read_text().splitlines()]
    assert ["VOC07" in row for row in rows] == [False, True, True], "the last epoch is always scored"
    lines = [line for line in progress.lines if "validation mAP" in line]
    assert [re.search(r"epoch=(\d)", line).group(1) for line in lines] == ["1", "2"]


def test_train_wrong_counts_warn(data, tmp_path):
    training, validation = data
    progress = HeardProgress()
    environment = Environment(*training, *validation, tmp_path / "m", tmp_path / "o")
    found = train(small_config(epochs=1, num_training_samples=7, label_width=3, num_classes=3), environment, progress)
    assert found.epochs == 1
    assert "num_training_samples: found 7, the data has 40, which is used" in progress.warnings
    assert any(re.fullmatch(r"label_width: found 3, the data needs 17, which is used", w) for w in progress.warnings)


def test_train_early_stopping_ends_the_run(data, tmp_path):
    training, validation = data
    settings = {
        "early_stopping": True,
        "early_stopping_min_epochs": 2,
        "early_stopping_patience": 1,
        "early_stopping_tolerance": 1.0,
    }
    environment = Environment(*training, *validation, tmp_path / "m", tmp_path / "o")
    assert train(small_config(epochs=30, learning_rate=1e-6, **settings), environment).epochs < 10


def test_metrics_csv_has_the_history_of_the_run(trained):
    with (trained / "output" / "metrics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    rows = rows_of(trained)
    assert [int(row["epoch"]) for row in found] == [row["epoch"] + 1 for row in rows]
    for name in ("CrossEntropy", "mAP", "val_CrossEntropy", "val_SmoothL1", "learning_rate"):
        assert [float(row[name]) for row in found] == [row[name] for row in rows], name


def test_onnx_beside_the_model_is_the_model(trained, data):
    image = np.asarray(Image.open(sorted(data[1].images.iterdir())[0]).convert("RGB"))
    expected, found = (Detector.load(trained / "model", engine=engine)(image) for engine in ("mxnet", "onnxruntime"))
    np.testing.assert_allclose(found.scores[:10], expected.scores[:10], atol=1e-3)


def test_the_report_begins_with_title_verdict_command_and_duration(trained, data):
    text = " ".join(re.sub("<[^>]*>", " ", (trained / "output" / "report.html").read_text("utf-8")).split())
    head = text[: text.index("Scores Training")]
    assert "Detector of disc, square and triangle" in head and "ssd-train train --train" in head
    assert str(data[0].images) in head and "Next steps" in head and "random weights" in head
    assert re.search(r"Finds .+ objects?[,:].*\.", head)
    assert "95 % interval" in text and "Confusion matrix" in text and "AP by box size" in text


def test_tensorboard_reads_the_run_and_a_resumed_one_has_each_epoch_once(data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for epochs in (2, 3):
        flags = jobs.flags(data, tmp_path, epochs=epochs, mini_batch_size=8, lr_scheduler_step="9", log="tensorboard")
        assert main(["train", *flags]) == 0
    reader = EventAccumulator(str(tmp_path / "output" / "tensorboard"))
    reader.Reload()
    rows = rows_of(tmp_path)
    for tag, name in (("train/CrossEntropy", "CrossEntropy"), ("validation/mAP", "mAP")):
        assert [event.step for event in reader.Scalars(tag)] == [1, 2, 3]
        np.testing.assert_allclose(
            [event.value for event in reader.Scalars(tag)], [row[name] for row in rows], rtol=1e-6
        )


def test_train_missing_tensorboard_is_an_error_before_data_is_read(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    assert main(["train", *jobs.flags(data, tmp_path, log="tensorboard")]) == 2
    assert "ssd-train[tensorboard]" in capsys.readouterr().err and not (tmp_path / "model" / "config.json").exists()

"""Labels and sets that are odd, or cannot be trained on, and settings that do not fit them."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers.data import HeardProgress, small_config
from helpers.jobs import annotations, command, lines_of, refused, with_box, written

from ssd_train.cli.main import main
from ssd_train.cli.train import train
from ssd_train.environment import Environment

pytestmark = pytest.mark.integration


def test_train_images_without_objects_have_a_falling_loss(data, tmp_path):
    """Batches of nothing else have a loss, and it falls."""
    training, validation = data
    lines = lines_of(training.manifest)
    for line in lines[1:]:
        annotations(line).clear()
    manifest = written(tmp_path / "t.manifest", lines)
    environment = Environment(training.images, manifest, *validation, tmp_path / "model", tmp_path / "output")
    train(small_config(epochs=3, mini_batch_size=1), environment)
    rows = [json.loads(line) for line in (tmp_path / "model" / "history.jsonl").read_text().splitlines()]
    assert all(0 < row["CrossEntropy"] < 1e4 for row in rows) and rows[-1]["CrossEntropy"] < rows[0]["CrossEntropy"]


@pytest.mark.parametrize(
    "side, change, expected",
    [
        pytest.param(
            0,
            lambda lines: [annotations(line).clear() or line for line in lines],
            ".*t.manifest: found no box in the training images",
            id="no-box-to-train-on",
        ),
        pytest.param(
            1,
            lambda lines: [annotations(line).clear() or line for line in lines],
            r".*v.manifest: found no ",
            id="no-box-to-score-with",
        ),
        pytest.param(
            0,
            lambda lines: lines[:4] + [with_box(lines[4], left="10")] + lines[5:],
            r".*t.manifest:5: .*left: found '10'",
            id="a-string-for-a-number",
        ),
        pytest.param(
            1,
            lambda lines: [renamed(line, "disc", "emu") for line in lines],
            r".*v.manifest.*'emu'.*expected only 'disc', 'square', 'triangle'",
            id="a-class-only-in-validation",
        ),
    ],
)
def test_train_invalid_labels_are_an_error_with_their_line(data, tmp_path, capsys, side, change, expected):
    manifest = written(tmp_path / f"{'tv'[side]}.manifest", change(lines_of(data[side].manifest)))
    sides = list(data)
    sides[side] = sides[side]._replace(manifest=manifest)
    refused(capsys, command(sides, tmp_path), expected)
    assert not (tmp_path / "model").exists()


def renamed(line, old, new):
    return json.loads(json.dumps(line).replace(f'"{old}"', f'"{new}"'))


def test_train_class_without_boxes_warns(data, tmp_path):
    training, validation = data
    lines = lines_of(training.manifest)
    for line in lines:
        names = line["shapes-metadata"]["class-map"]
        kept = [a for a in annotations(line) if names[str(a["class_id"])] != "disc"]
        line["shapes"]["annotations"] = kept
        line["shapes-metadata"]["objects"] = [{"confidence": 0.5}] * len(kept)
        line["shapes-metadata"]["class-map"] = {"0": "disc", "1": "square", "2": "triangle"}
    manifest = written(tmp_path / "t.manifest", lines)
    progress = HeardProgress()
    environment = Environment(training.images, manifest, *validation, tmp_path / "model", tmp_path / "output")
    train(small_config(epochs=1), environment, progress)
    assert "class 'disc' has boxes in validation but none in training, so it cannot be learned" in progress.warnings


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"num_classes": 2}, r"num_classes: found 2, expected 3: .* has 'disc', 'square', 'triangle'"),
        ({"pretrained": "nowhere.params"}, "pretrained: nowhere.params not found"),
        (
            {"freeze_layer_pattern": "xyzzy"},
            "freeze_layer_pattern: found 'xyzzy' that matches no parameter, .*features",
        ),
        ({"freeze_layer_pattern": "."}, "freeze_layer_pattern: found '.' that matches every parameter"),
        ({"label_attribute": "boxes"}, ".*boxes.*shapes"),
        ({"train": "nowhere"}, "nowhere: "),
        ({"labels": "nowhere"}, "nowhere: "),
        ({"validation_labels": "nowhere"}, "nowhere: "),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_train_settings_that_do_not_fit_the_data_are_an_error(data, tmp_path, capsys, settings, expected):
    refused(capsys, command(data, tmp_path, **settings), expected)
    assert not (tmp_path / "model").exists()


def small_set(data, folder, count):
    training, validation = data
    lines = lines_of(training.manifest)[:count]
    for line in lines:
        line["shapes-metadata"]["class-map"] = {"0": "disc", "1": "square", "2": "triangle"}
    manifest = written(folder / "t.manifest", lines)
    return training._replace(manifest=manifest), validation


def test_train_one_image_completes_and_cannot_be_split(data, tmp_path, capsys):
    one = small_set(data, tmp_path, 1)
    assert main(command(one, tmp_path, mini_batch_size=8)) == 0
    arguments = command(one, tmp_path / "alone", validation=None, validation_labels=None)
    capsys.readouterr()
    refused(capsys, arguments, ".*found 1 images that are all the same or of one group, expected at least two")


def test_train_more_than_100_objects_raises_post_nms(data, tmp_path):
    training, validation = data
    lines = lines_of(training.manifest)
    for index in range(130):
        with_box(lines[0], left=index % 13 * 10, top=index // 13 * 9, width=9, height=8)
    lines[0]["shapes-metadata"]["class-map"]["0"] = "disc"
    lines[0]["shapes-metadata"]["objects"] = [{"confidence": 0.5}] * len(annotations(lines[0]))
    manifest = written(tmp_path / "t.manifest", lines)
    environment = Environment(training.images, manifest, *validation, tmp_path / "model", tmp_path / "output")
    train(small_config(epochs=1), environment)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["post_nms"] == len(annotations(lines[0]))


def test_train_same_images_in_both_splits_are_an_error(data, tmp_path, capsys):
    training, _ = data
    arguments = command((training, training), tmp_path)
    refused(capsys, arguments, r"12 errors in the data: .*output\.manifest:1: .*same-image-in-train-and-validation")


def test_train_errors_of_both_splits_are_one_message(data, tmp_path, capsys):
    for name, side in zip(("train", "validation"), data):
        shutil.copytree(side.images, tmp_path / name)
        next((tmp_path / name).iterdir()).unlink()
    broken = [side._replace(images=tmp_path / name) for name, side in zip(("train", "validation"), data)]
    refused(capsys, command(broken, tmp_path), "2 errors in the data: ")

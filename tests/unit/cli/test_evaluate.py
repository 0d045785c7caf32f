"""evaluate: answers of a file scored against labels; no network runs here."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.data import HeardProgress, shapes_set, small_config, write_files

from ssd_train.boxes import xyxy_to_cxcywh
from ssd_train.cli.evaluate import warn_of_training_images
from ssd_train.cli.main import main
from ssd_train.data.image_io import encode_png
from ssd_train.data.labels import load_labels
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set
from ssd_train.environment import Environment
from ssd_train.progress import Progress
from ssd_train.training.setup import build_setup


@pytest.fixture
def drawn(tmp_path):
    return shapes_set(tmp_path / "set", 6, empty_fraction=0.2)


def perfect(drawn, path, keep=lambda index: True):
    """Answers that are right, of the images that are kept."""
    lines = []
    for index, line in enumerate(map(json.loads, drawn.manifest.read_text().splitlines())):
        label = line["shapes"]
        (size,) = label["image_size"]
        rows = [
            [
                a["class_id"],
                0.9,
                a["left"] / size["width"],
                a["top"] / size["height"],
                (a["left"] + a["width"]) / size["width"],
                (a["top"] + a["height"]) / size["height"],
            ]
            for a in label["annotations"]
        ]
        if keep(index):
            lines.append({"image": line["source-ref"].rsplit("/", 1)[-1], "prediction": rows})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(drawn, *arguments):
    return main(["evaluate", "--labels", str(drawn.manifest), *map(str, arguments)])


def test_evaluate_correct_predictions_score_one(drawn, tmp_path, capsys):
    answers = perfect(drawn, tmp_path / "a.jsonl")
    assert run(drawn, "--predictions", answers, "--json", tmp_path / "s.json") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "mAP 1.000" and "mAP@0.5 1.000" in printed and f"written: {tmp_path / 's.json'}" in printed
    assert json.loads((tmp_path / "s.json").read_text())["mAP"] == 1.0


def test_evaluate_json_to_standard_output_is_json_alone(drawn, tmp_path, capfd):
    assert run(drawn, "--predictions", perfect(drawn, tmp_path / "a.jsonl"), "--json", "-") == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["mAP"] == 1.0 and captured.err.startswith("mAP 1.000\n")


def test_evaluate_images_without_predictions_count_as_missed(drawn, tmp_path, capsys):
    assert run(drawn, "--predictions", perfect(drawn, tmp_path / "a.jsonl", lambda index: index < 3)) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("mAP 0.") and first != "mAP 0.000"


def without_sizes(drawn):
    lines = [json.loads(line) for line in drawn.manifest.read_text().splitlines()]
    for line in lines:
        del line["shapes"]["image_size"]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_sizes_are_read_from_the_images_where_labels_do_not_tell(drawn, tmp_path, capsys):
    answers = perfect(drawn, tmp_path / "a.jsonl")
    drawn.manifest.write_text(without_sizes(drawn))
    assert run(drawn, "--predictions", answers, "--images", drawn.images) == 0
    assert capsys.readouterr().out.startswith("mAP 1.000\n")


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "evaluate: expected --model FOLDER or --predictions FILE.jsonl"),
        (["--predictions", "none.jsonl"], "none.jsonl"),
        (["--model", "none"], "none: found no model"),
        (["--predictions", "{bad}"], "bad.jsonl:1: "),
        (["--predictions", "{other}"], "other.jsonl: found no prediction"),
    ],
)
def test_evaluate_mismatched_input_is_an_error(drawn, tmp_path, capsys, arguments, expected):
    (tmp_path / "bad.jsonl").write_text('{"image": "a.png", "prediction": [[0, 2, 0, 0, 1, 1]]}\n')
    (tmp_path / "other.jsonl").write_text('{"image": "elsewhere.png", "prediction": []}\n')
    named = [a.format(bad=tmp_path / "bad.jsonl", other=tmp_path / "other.jsonl") for a in arguments]
    assert run(drawn, *named) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and expected in error and error.count("\n") == 1


@pytest.mark.parametrize("threshold", ["0", "-1", "1.5", "nan"])
def test_an_overlap_that_is_none_is_refused(drawn, tmp_path, capsys, threshold):
    answers = perfect(drawn, tmp_path / "a.jsonl")
    assert run(drawn, "--predictions", answers, f"--overlap_threshold={threshold}") == 2
    assert "overlap_threshold: found" in capsys.readouterr().err


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two drawn sets, and a YOLO data set with 6 training and 9 validation images."""
    folder = tmp_path_factory.mktemp("world")
    first, second = shapes_set(folder / "first", 6, seed=1), shapes_set(folder / "second", 9, seed=2)
    for name, count, seed in (("train", 6, 3), ("val", 9, 4)):
        images, labels = (folder / "yolo" / part / name for part in ("images", "labels"))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for sample in draw_shapes_set(count, seed):
            (images / f"{sample.name}.png").write_bytes(encode_png(sample.image))
            height, width = sample.image.shape[:2]
            shares = xyxy_to_cxcywh(sample.boxes) / [width, height, width, height]
            rows = [" ".join(map(str, [int(key), *box])) for key, box in zip(sample.class_ids, shares.tolist())]
            (labels / f"{sample.name}.txt").write_text("\n".join(rows))
    names = ", ".join(SHAPE_CLASSES)
    (folder / "yolo" / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: [{names}]\n")
    return SimpleNamespace(first=first, second=second, yolo=folder / "yolo")


@pytest.mark.parametrize(
    "train, validation, scored, expected",
    [
        ("first", "second", "first", (6, 6)),
        ("first", "second", "second", None),
        ("second", "first", "first", None),
        ("second", None, "second", (None, 9)),  # some are held out, by a hash of their bytes: the library writes them
        ("first", None, "second", None),
        ("yolo", None, "yolo", (6, 15)),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_evaluate_on_images_of_the_training_warns_once(
    world, tmp_path, capsys, train, validation, scored, expected, packed
):
    def places(name):
        return (world.yolo, None) if name == "yolo" else (getattr(world, name) if name else (None, None))

    environment = Environment(*places(train), *places(validation), tmp_path / "model", tmp_path / "output")
    setup = build_setup(small_config(), environment, Progress())
    model = tmp_path / "model"
    setup.saved_model(0, {}).save(model, setup.net)
    if packed:
        model = Path(shutil.make_archive(str(tmp_path / "model"), "gztar", model))
    images, labels = places(scored)
    flags = ["--labels", str(labels or images), *(["--images", str(images)] if labels else [])]
    capsys.readouterr()
    assert main(["evaluate", "--model", str(model), *flags]) == 0
    warned = re.findall(r"^warning: .*trained on (\d+) of these (\d+) images", capsys.readouterr().out, re.MULTILINE)
    if expected and expected[0] is None:
        ((trained_on, of_all),) = warned
        assert 0 < int(trained_on) < int(of_all) == expected[1]
    else:
        assert warned == ([tuple(map(str, expected))] if expected else [])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"labels_sha256": ["training"]}, id="digests-of-another-type"),
        pytest.param({"labels_sha256": {"training": 1}}, id="digest-of-another-type"),
        pytest.param({"settings": {"a_setting_of_later": 1}}, id="settings-of-a-newer-version"),
        pytest.param({"settings": None}, id="no-settings"),
        pytest.param({"format": 99}, id="newer-format"),
        pytest.param({"weights": None}, id="damaged"),
    ],
)
def test_warn_of_training_images_model_that_does_not_state_them_is_silent(drawn, tmp_path, change):
    data = load_labels(drawn.images, drawn.manifest)
    document = {"format": 1, "class_names": [], "weights": {}, "settings": {}, "labels_sha256": {"training": "0" * 64}}
    (tmp_path / "config.json").write_text(json.dumps({**document, **change}))
    progress = HeardProgress()
    warn_of_training_images(tmp_path, data, progress)
    assert progress.lines == []


@pytest.mark.parametrize("split, said", [([], True), (["--split", "val"], False)], ids=["all", "one"])
def test_evaluate_logs_the_scored_splits(tmp_path, capsys, split, said):
    image = encode_png(np.zeros((40, 80, 3), np.uint8))
    files = {"data.yaml": "names: [cat]\ntrain: images/train\nval: images/val\n"}
    for part in ("train", "val"):
        files.update({f"images/{part}/{part}.png": image, f"labels/{part}/{part}.txt": "0 .5 .5 .4 .4\n"})
    rows = [{"image": f"{part}.png", "prediction": [[0, 0.9, 0.3, 0.3, 0.7, 0.7]]} for part in ("train", "val")]
    write_files(tmp_path / "set", files)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (rows[1:] if split else rows)))
    flags = ["--predictions", str(tmp_path / "p.jsonl"), "--labels", str(tmp_path / "set")]
    assert main(["evaluate", *flags, *split]) == 0
    assert ("train 1, val 1; all are scored, --split NAME" in capsys.readouterr().out) == said


def test_labels_are_those_found_among_the_images(drawn, tmp_path, capsys):
    """As `train` and `check` find them; evaluate, audit and prepare convert alike."""
    answers = perfect(drawn, tmp_path / "a.jsonl")
    assert main(["evaluate", "--images", str(drawn.images.parent), "--predictions", str(answers)]) == 0
    assert "mAP 1.000" in capsys.readouterr().out
    convert = ["prepare", "convert", "--to", "coco", "--output", str(tmp_path / "a.json")]
    assert main([*convert, "--images", str(drawn.images.parent)]) == 0
    assert len(json.loads((tmp_path / "a.json").read_text())["images"]) == 6
    for command in (["evaluate", "--predictions", str(answers)], convert, ["audit", "--output", str(tmp_path / "b")]):
        assert main(command) == 2
        assert "labels" in capsys.readouterr().err

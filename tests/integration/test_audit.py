"""Audits of labels from the command line, with trainings on drawn images, and with a model."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers.data import SMALL, flags_of, shapes_set
from helpers.models import change_config, talking_model

from ssd_train.cli.main import main
from ssd_train.data.labels import read_labels
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set, write_drawn_set

pytestmark = pytest.mark.integration
PICTURES, COPIES = 3, 10
# kind -> picture and copy whose label has this error
PLANTED = {"missing": (0, 0), "wrong_class": (1, 1), "location": (2, 2), "spurious": (0, 5)}
RESULTS = ("audit.html", "label_errors.jsonl", "doubtful.manifest")


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Three pictures, each ten times with other noise, so that few epochs learn what the other folds show."""
    random, samples = np.random.RandomState(0), []
    for sample in draw_shapes_set(PICTURES, 4, (128, 128), max_objects=2, empty_fraction=0, sides=(0.3, 0.5)):
        for copy in range(COPIES):
            noise = random.randint(-6, 7, sample.image.shape)
            pixels = np.clip(sample.image + noise, 0, 255).astype(np.uint8)
            samples.append(sample._replace(name=f"{sample.name}-{copy}", image=pixels))
    folder = tmp_path_factory.mktemp("copies")
    images, manifest = write_drawn_set(folder, samples, SHAPE_CLASSES, "shapes", "png")
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for kind, (picture, copy) in PLANTED.items():
        boxes = lines[picture * COPIES + copy]["shapes"]["annotations"]
        first = boxes[0]
        if kind == "missing":
            boxes.remove(first)
        elif kind == "wrong_class":
            first["class_id"] = 0
        elif kind == "location":
            first["left"] -= first["width"] * 2 // 5
        else:
            boxes.append({"class_id": 0, "left": 72, "top": 72, "width": 45, "height": 45})
    planted = folder / "planted.manifest"
    planted.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return images, planted


def errors_in(folder):
    return [json.loads(line) for line in (folder / "label_errors.jsonl").read_text().splitlines()]


def test_audit_ranks_planted_errors_first_and_repeats_without_training(copies, tmp_path, capsys):
    images, manifest = copies
    output = tmp_path / "audit"
    settings = {**SMALL, "epochs": 30, "learning_rate": 0.002, "augmentation": "none"}
    flags = flags_of({"images": images, "labels": manifest, "output": output, "folds": 2, "threshold": 0.3})
    assert main(["audit", *flags, *flags_of(settings)]) == 0
    assert "fold 2 of 2: training" in capsys.readouterr().out

    errors, lines = errors_in(output), manifest.read_text().splitlines()
    for kind, (picture, copy) in PLANTED.items():
        first = next(error for error in errors if error["kind"] == kind)
        assert first["image"].endswith(f"shapes-{picture:04d}-{copy}.png"), kind
        assert 0.1 < first["score"] <= 1 and first["reason"]
        assert ("detection" in first) == (kind != "spurious") and ("label" in first) == (kind != "missing")
    scores = [error["score"] for error in errors]
    assert scores == sorted(scores, reverse=True)

    doubtful = list(dict.fromkeys(error["image"] for error in errors if error["score"] >= 0.3))
    of_image = {json.loads(line)["source-ref"]: line for line in lines}
    assert (output / "doubtful.manifest").read_text().splitlines() == [of_image[name] for name in doubtful]
    assert len(doubtful) < len(lines) / 2
    page = (output / "audit.html").read_text()
    likely = sum(score >= 0.3 for score in scores)
    assert page.count("<img ") == 3 * likely and f"{likely} likely label errors in {len(lines)} images" in page
    assert sorted(path.name for path in (output / "fold_1").iterdir()) == ["detections.jsonl"]

    before = {name: (output / name).read_bytes() for name in RESULTS}
    assert main(["audit", *flags, *flags_of(settings)]) == 0
    assert "training" not in capsys.readouterr().out
    assert {name: (output / name).read_bytes() for name in RESULTS} == before


def test_interrupted_audit_leaves_no_result_and_resumes(tmp_path):
    drawn, output = shapes_set(tmp_path / "drawn", 12), tmp_path / "audit"
    flags = flags_of({"images": drawn.images, "labels": drawn.manifest, "output": output, "folds": 2})
    command = [sys.executable, "-m", "ssd_train", "audit", *flags, *flags_of({**SMALL, "epochs": 8})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        second = False
        for line in process.stdout:
            second |= line.startswith("fold 2 of 2")
            if second and line.startswith("epoch 1/8"):
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
    assert process.returncode == 128 + signal.SIGINT
    assert (output / "fold_1" / "detections.jsonl").exists() and (output / "fold_2" / "checkpoints").is_dir()
    assert not any((output / name).exists() for name in RESULTS)

    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "fold 1 of 2: detections of an earlier run" in done.stdout and "epoch 8/8" in done.stdout
    assert "epoch 1/8" not in done.stdout
    assert len(errors_in(output)) > 0 and not (output / "fold_2" / "checkpoints").exists()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A drawn set in each format, and a model that detects something in it."""
    folder = tmp_path_factory.mktemp("labelled")
    drawn = shapes_set(folder / "drawn", 8)
    talking_model(folder / "model", SHAPE_CLASSES)
    for format, name in (("coco", "coco.json"), ("voc", "voc"), ("yolo", "yolo"), ("recordio", "drawn.rec")):
        places = {"labels": drawn.manifest, "images": drawn.images, "output": folder / name}
        assert main(["prepare", "convert", "--to", format, *flags_of(places)]) == 0
    return folder


def audit_by_model(folder, labels, output, *more):
    places = {"labels": folder / labels, "model": folder / "model", "output": output, "threshold": 0.1}
    if not labels.endswith(".rec"):
        places["images"] = folder / "drawn" / "images"
    return main(["audit", *flags_of(places), *more])


@pytest.mark.parametrize("labels", ["coco.json", "voc", "yolo", "drawn.rec"])
def test_labels_of_every_format_have_the_same_errors(labelled, tmp_path, labels):
    assert audit_by_model(labelled, "drawn/output.manifest", tmp_path / "expected") == 0
    more = ["--class_names", ",".join(SHAPE_CLASSES)] if labels.endswith(".rec") else []
    assert audit_by_model(labelled, labels, tmp_path / "audit", *more) == 0

    def summary(folder):
        return sorted(
            (re.findall(r"\d{4}", e["image"])[-1], e["kind"], round(e["score"], 2)) for e in errors_in(folder)
        )

    expected, found = summary(tmp_path / "expected"), summary(tmp_path / "audit")
    if labels.endswith(".rec"):  # names its images by their numbers
        expected, found = ([row[1:] for row in rows] for rows in (expected, found))
    assert len(expected) == len(found) > 8
    # YOLO rounds the boxes
    assert len(set(map(str, expected)) & set(map(str, found))) > 0.9 * len(set(map(str, expected)))
    records = read_labels(tmp_path / "audit" / "doubtful.manifest").records
    assert len(records) == len(read_labels(tmp_path / "expected" / "doubtful.manifest").records) > 0
    assert len(set((tmp_path / "audit" / "audit.html").read_text().split("<img "))) > 3


def test_audit_page_states_training_on_the_images(labelled, tmp_path):
    model = shutil.copytree(labelled / "model", tmp_path / "model")
    labels = labelled / "drawn" / "output.manifest"
    flags = ["--labels", str(labels), "--images", str(labelled / "drawn" / "images"), "--output", str(tmp_path / "a")]
    for known, said in (("0" * 64, False), (read_labels(labels).sha256(), True)):
        change_config(model, labels_sha256={"training": known})
        assert main(["audit", *flags, "--model", str(model), "--overwrite"]) == 0
        page = (tmp_path / "a" / "audit.html").read_text()
        assert ("which was trained on 8 of these images" in page) == said and "was not trained" not in page


def test_another_audit_is_replaced_on_request_only(labelled, tmp_path, capsys):
    assert audit_by_model(labelled, "coco.json", tmp_path) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert audit_by_model(labelled, "voc", tmp_path, "--label_attribute", "other") == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert audit_by_model(labelled, "voc", tmp_path, "--label_attribute", "other", "--overwrite") == 0
    # without a doubtful image no manifest of earlier ones stays
    assert audit_by_model(labelled, "coco.json", tmp_path, "--overwrite", "--threshold", "1") == 2  # given twice
    places = {"labels": labelled / "coco.json", "images": labelled / "drawn" / "images", "model": labelled / "model"}
    assert main(["audit", *flags_of({**places, "output": tmp_path, "threshold": 1}), "--overwrite"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "audit.html",
        "audit.json",
        "detections.jsonl",
        "label_errors.jsonl",
    ]


@pytest.mark.parametrize(
    "flags, place",
    [
        ("--folds 1", "folds"),
        ("--folds 9 --use_pretrained_model 0", "output.manifest"),  # of 8 images
        ("--model {folder}/model --folds 3", "folds"),
        ("--model {folder}/model --epochs 3", "epochs"),
        ("--model {folder}/nothing", "nothing"),
        ("--threshold 2", "threshold"),
        ("--epoch 3", "epoch"),
        ("--labels_format png", "png"),
        ("--pretrained {folder}/none.params", "none.params"),
    ],
)
def test_flags_that_cannot_be_used_are_refused(labelled, tmp_path, capsys, flags, place):
    given = flags.format(folder=labelled).split()
    drawn = labelled / "drawn"
    places = {"images": drawn / "images", "labels": drawn / "output.manifest", "output": tmp_path / "audit"}
    assert main(["audit", *flags_of(places), *given]) == 2
    assert place in capsys.readouterr().err
    assert not any((tmp_path / "audit" / name).exists() for name in RESULTS)


def test_unreadable_image_is_an_error_or_left_out(labelled, tmp_path, capsys):
    drawn = shapes_set(tmp_path / "drawn", 6)
    broken = sorted(drawn.images.iterdir())[2]
    broken.write_bytes(broken.read_bytes()[:200])
    flags = flags_of({"images": drawn.images, "labels": drawn.manifest, "model": labelled / "model"})
    assert main(["audit", *flags, "--output", str(tmp_path / "audit")]) == 2
    assert "output.manifest:3" in capsys.readouterr().err and not (tmp_path / "audit" / "audit.html").exists()
    assert main(["audit", *flags, "--output", str(tmp_path / "audit"), "--on_bad_data", "skip"]) == 0
    assert not [error for error in errors_in(tmp_path / "audit") if error["image"].endswith(broken.name)]

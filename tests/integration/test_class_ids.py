"""Class ids of the labels are those of the answers: with gaps, with more classes than seen, on every way out."""

from __future__ import annotations

import json
import re
import types

import numpy as np
import pytest
from helpers import jobs
from helpers.coco import CATEGORY_IDS, generate
from helpers.data import flags_of, shapes_set

from ssd_train import mxnet_compat
from ssd_train.artifacts.metadata import ExportMetadata
from ssd_train.cli.main import main
from ssd_train.data.formats.builder import TOO_SMALL
from ssd_train.data.formats.image_json import OTHER_IDS
from ssd_train.data.labels import read_labels
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.handlers import model_fn, transform_fn

pytestmark = pytest.mark.integration

NAMES = ["disc", "square", "class_2", "class_3", "triangle", "class_5"]
LABELLED, UNUSED = [0, 1, 4], [2, 3, 5]


def with_gap(drawn):
    """The drawn set with ids 0, 1, 4; each line's class-map names the classes of the line only, as a job writes it."""
    lines = [json.loads(line) for line in drawn.manifest.read_text().splitlines()]
    for line in lines:
        for box in line["shapes"]["annotations"]:
            box["class_id"] = LABELLED[box["class_id"]]
        class_map = line["shapes-metadata"]["class-map"]
        line["shapes-metadata"]["class-map"] = {str(LABELLED[int(i)]): name for i, name in class_map.items()}
    drawn.manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return drawn


def train(data, folder, capfd, **settings):
    """Train, and return config.json and what was printed."""
    capfd.readouterr()
    assert main(["train", *jobs.flags(data, folder, checkpoint_dir=None, **settings)]) == 0
    printed = capfd.readouterr()
    return json.loads((folder / "model" / "config.json").read_text()), printed.out + printed.err


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    train, validation = (shapes_set(folder / name, count, seed) for name, count, seed in (("a", 32, 1), ("b", 8, 2)))
    return with_gap(train), with_gap(validation)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run with the right num_classes, of which the labels show less."""
    folder = tmp_path_factory.mktemp("run")
    settings = {"epochs": 6, "mini_batch_size": 8, "learning_rate": 0.002, "augmentation": "flip", "num_classes": 6}
    assert main(["train", *jobs.flags(data, folder, checkpoint_dir=None, **settings)]) == 0
    return folder


def test_train_manifest_with_a_gap_keeps_the_ids_in_scores_and_description(trained):
    config = json.loads((trained / "model" / "config.json").read_text())
    assert config["class_names"] == NAMES and config["settings"]["num_classes"] == 6 and config["category_ids"] == {}
    per_class = config["scores"]["per_class"]
    assert [name for name in NAMES if per_class[name]["AP"] is None] == [NAMES[i] for i in UNUSED]
    found = [per_class[NAMES[i]]["AP"] for i in LABELLED]
    assert config["scores"]["mAP"] == pytest.approx(np.mean(found))


def head_of(model):
    """The rows of the first class head of a model: (anchor shapes, background and classes, inputs)."""
    config = json.loads((model / "config.json").read_text())
    arrays = mxnet_compat.mxnet().nd.load(str(model / config["weights"]["file"]))
    weight = arrays["class_predictors.0.predictor.weight"].asnumpy()
    return weight.reshape(-1, len(config["class_names"]) + 1, weight[0].size)


def best_scores(rows):
    """The highest score of each class in rows of class id, score and box."""
    found = np.zeros(len(NAMES))
    for class_id, score, *_ in rows:
        found[int(class_id)] = max(found[int(class_id)], score)
    return found


def test_predict_export_and_serve_with_a_gap_return_the_ids_of_the_labels(trained, data, tmp_path):
    model, images = trained / "model", data[1].images
    assert main(["predict", str(images), *flags_of({"model": model, "output": tmp_path / "a.jsonl"})]) == 0
    rows = [row for line in (tmp_path / "a.jsonl").read_text().splitlines() for row in json.loads(line)["prediction"]]
    best = best_scores(rows)
    assert best[UNUSED].max() < best[LABELLED].min(), "an id that no label has was learned"

    exported = json.loads((model / "model-export.json").read_text())
    assert exported["class_names"] == NAMES
    assert main(["export", *flags_of({"model": model, "format": "onnx", "output": tmp_path / "a.onnx"})]) == 0
    onnx = pytest.importorskip("onnx").load(str(tmp_path / "a.onnx"))
    texts = {entry.key: entry.value for entry in onnx.metadata_props}
    assert list(ExportMetadata.from_texts(texts, "a.onnx").class_names) == NAMES

    picture = sorted(images.iterdir())[0].read_bytes()
    served = model_fn(str(model))
    builtin, _ = transform_fn(served, picture, "image/png", "application/json")
    symbol = Detector.load(model, engine="symbol")
    assert list(symbol.class_names) == NAMES
    best = best_scores(json.loads(builtin)["prediction"])
    assert best[UNUSED].max() < best[LABELLED].max()
    verbose, _ = transform_fn(served, picture, "image/png", "application/json;verbose=1")
    found = {(one["class_id"], one["class_name"]) for one in json.loads(verbose)["annotations"]}
    assert found and found <= set(enumerate(NAMES))


def test_incremental_training_without_names_keeps_rows_by_id_and_logs_them(trained, data, tmp_path, capfd):
    for name, side in zip(("train", "validation"), data):
        convert = {"labels": side.manifest, "images": side.images, "to": "recordio", "output": tmp_path / f"{name}.rec"}
        assert main(["prepare", "convert", *flags_of(convert)]) == 0
        (tmp_path / f"{name}.names").unlink()
    sides = [types.SimpleNamespace(images=tmp_path / f"{name}.rec", manifest=None) for name in ("train", "validation")]
    given = {"pretrained": trained / "model", "epochs": 1, "learning_rate": 1e-6, "use_pretrained_model": 1}

    config, printed = train(sides, tmp_path / "same", capfd, **given)

    assert config["class_names"] == [f"class_{i}" for i in range(5)]
    total = "171 of 171 tensors loaded"
    assert f"{total}; class rows kept: class_0 (from disc), class_1 (from square)" in printed
    old, new = (head_of(folder / "model") for folder in (trained, tmp_path / "same"))
    np.testing.assert_allclose(new, old[:, :6], atol=1e-4)

    more, printed = train(sides, tmp_path / "more", capfd, **given, num_classes=8)

    assert more["class_names"] == [f"class_{i}" for i in range(8)]
    assert "163 of 171 tensors loaded, 8 in part; class rows kept: class_0 (from disc)" in printed
    assert "; new: class_6, class_7" in printed
    np.testing.assert_allclose(head_of(tmp_path / "more" / "model")[:, :7], old, atol=1e-4)


@pytest.mark.slow
def test_train_files_of_aws_coco_notebook_uses_the_ids_of_the_annotations(tmp_path, capfd):
    category_ids = [CATEGORY_IDS[i] for i in (0, 16, 79)]  # person, dog, toothbrush
    instances = {"categories": [{"id": i, "name": f"category {i}"} for i in CATEGORY_IDS]}
    sides, counts = [], []
    for name, count, seed in (("train", 12, 1), ("validation", 4, 2)):
        drawn = shapes_set(tmp_path / "drawn" / name, count, seed)
        records = read_labels(drawn.manifest).records
        images = [
            {"id": i, "file_name": r.basename, "width": r.size_wh[0], "height": r.size_wh[1]}
            for i, r in enumerate(records)
        ]
        boxes = [
            {"image_id": i, "category_id": category_ids[class_id], "bbox": [x1 + 0.4, y1 + 0.4, x2 - x1, y2 - y1]}
            for i, record in enumerate(records)
            for (x1, y1, x2, y2), class_id in zip(record.boxes.tolist(), record.class_ids.tolist())
        ]
        boxes.append({"image_id": boxes[0]["image_id"], "category_id": 1, "bbox": [3.5, 4.5, 0.9, 12.2]})
        files = generate({**instances, "images": images, "annotations": boxes}, tmp_path / f"{name}_annotation")
        counts.append(str(len(files)))
        sides.append(types.SimpleNamespace(images=drawn.images, manifest=tmp_path / f"{name}_annotation"))
    settings = {"num_classes": 80, "label_width": 600, "labels_format": "image/jpeg", "epochs": 1}

    config, printed = train(sides, tmp_path / "run", capfd, **settings)

    assert config["class_names"] == [f"class_{i}" for i in range(80)]
    labelled = [name for name, scores in config["scores"]["per_class"].items() if scores["AP"] is not None]
    assert set(labelled) <= {"class_0", "class_16", "class_79"} and "class_0" in labelled
    for reason, expected in ((OTHER_IDS, counts), (TOO_SMALL, ["1", "1"])):  # a warning for each side
        told = [line for line in printed.splitlines() if reason in line]
        assert [re.search(r"\d+", line).group() for line in told] == expected, told

    names = [f"name {i}" for i in range(80)]
    config, _ = train(sides, tmp_path / "named", capfd, **{**settings, "class_names": ",".join(names)})

    assert config["class_names"] == names

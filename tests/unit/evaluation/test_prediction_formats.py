"""Answers in the forms of other programs: COCO results, .out files, CSV, names beside ids; written and scored again."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from ssd_train.data.formats.coco import read_coco, write_coco
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.labels import LabeledDataset
from ssd_train.data.structures import ClassNames, Detections, LabeledImage, Labels
from ssd_train.deploy.evaluate import match_names, score_predictions
from ssd_train.errors import DataError
from ssd_train.evaluation.predictions import CocoIds, Writer

NAMES = ClassNames(("cat", "dog"))
SIZE = (200, 160)
BOXES = {"x/000007.jpg": [[20, 20, 100, 90]], "b.jpg": [[10.5, 0, 30, 40.25], [50, 50, 90, 90]], "none.jpg": []}
RECORDS = [LabeledImage(name, boxes, [1, 0][: len(boxes)], SIZE) for name, boxes in BOXES.items()]
LABELS = Labels(tuple(RECORDS), NAMES, source="labels")


def without_images(labels):
    """Labels whose images cannot be read, because their sizes are known."""
    return LabeledDataset(labels, MemoryImages({}))


def detections(record):
    return Detections(record.boxes, np.linspace(0.9, 0.8, len(record.boxes)), record.class_ids, record.size_wh)


def written(format, folder, ids=None, records=RECORDS):
    """All that is true, as answers of a format."""
    folder.mkdir(exist_ok=True)
    if format == "out":
        writer = Writer(format, folder, NAMES)
        [writer.add(record.name, detections(record)) for record in records]
        return folder
    file = io.BytesIO()
    writer = Writer(format, file, NAMES, ids)
    [writer.add(record.name, detections(record)) for record in records]
    writer.close()
    path = folder / f"answers.{format}"
    path.write_bytes(file.getvalue())
    return path


@pytest.mark.parametrize("format", ["jsonl", "coco", "out"])
def test_score_predictions_reads_every_written_format(tmp_path, format):
    scores = score_predictions(written(format, tmp_path / "answers"), without_images(LABELS))
    assert scores.coco == pytest.approx(1) and scores.unlabelled_answers == 0


@pytest.mark.parametrize("format", ["jsonl", "coco"])
def test_score_predictions_classes_go_by_name_not_by_the_order_of_ids(tmp_path, format):
    path = written(format, tmp_path / "answers")
    assert score_predictions(path, without_images(LABELS.remap_classes(ClassNames(("dog", "bird", "cat"))))).coco == 1


def coco_labels(tmp_path, first_id=1):
    """A COCO file with ids of its own; those of its annotations count from `first_id`."""
    write_coco(tmp_path / "gt.json", RECORDS, NAMES)
    value = json.loads((tmp_path / "gt.json").read_text())
    images = {1: 2008000002, 2: "b", 3: 7}
    for image in value["images"]:
        image["id"] = images[image["id"]]
    for annotation in value["annotations"]:
        annotation.update(image_id=images[annotation["image_id"]], category_id=annotation["category_id"] * 10)
        annotation["id"] += first_id - 1
    for category in value["categories"]:
        category["id"] *= 10
    (tmp_path / "gt.json").write_text(json.dumps(value))
    labels = read_coco(tmp_path / "gt.json")
    return Labels(labels.records, labels.class_names, source=labels.source, details={"format": "coco"})


@pytest.mark.parametrize("first_id", [1, 0], ids=["", "annotations from 0, which pycocotools does not match"])
def test_score_predictions_coco_results_have_the_ids_of_the_labels(tmp_path, first_id):
    results = [
        {"image_id": 2008000002, "category_id": 20, "bbox": [20, 20, 80, 70], "score": 0.9},
        {"image_id": "b", "category_id": 20.0, "bbox": [10.5, 0, 19.5, 40.25], "score": 0.8, "area": 3},
        {"image_id": "b", "category_id": 10, "bbox": [50, 50, 40, 40], "score": 0.7, "segmentation": []},
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert score_predictions(tmp_path / "results.json", without_images(coco_labels(tmp_path, first_id))).coco == 1


def test_score_predictions_coco_results_with_names_go_by_them(tmp_path):
    """`predict --format coco` without --labels numbers the classes from 1; the file of the labels has 10 and 20."""
    results = [
        {"image_id": 2008000002, "category_id": 2, "bbox": [20, 20, 80, 70], "score": 0.9},
        {"image_id": "b", "category_id": 2, "bbox": [10.5, 0, 19.5, 40.25], "score": 0.8},
        {"image_id": "b", "category_id": 1, "bbox": [50, 50, 40, 40], "score": 0.7},
    ]
    named = [{**row, "category_name": NAMES[row["category_id"] - 1]} for row in results]
    (tmp_path / "results.json").write_text(json.dumps(named))
    assert score_predictions(tmp_path / "results.json", without_images(coco_labels(tmp_path))).coco == 1


@pytest.mark.parametrize("image_id", [7, "000007", "000007.jpg", "x/000007.jpg", "X\\000007.JPG"])
def test_score_predictions_coco_results_without_coco_labels_go_by_name(tmp_path, image_id):
    result = {"image_id": image_id, "category_id": 2, "bbox": [20, 20, 80, 70], "score": 0.9}
    (tmp_path / "results.json").write_text(json.dumps([result]))
    labels = Labels(tuple(RECORDS[:1]), NAMES, source="labels")
    assert score_predictions(tmp_path / "results.json", without_images(labels)).coco == 1


@pytest.mark.parametrize("ids, expected", [((2, 1), 1), ((1, 0), 1), ((1, 1), 0)])
def test_score_predictions_coco_results_ids_count_from_1_unless_one_is_0(tmp_path, ids, expected):
    """Ultralytics' val and this package write ids from 1 (class_map in ultralytics/models/yolo/detect/val.py)."""
    rows = zip(ids, ((0.9, [20, 20, 80, 70]), (0.1, [0, 0, 9, 9])))
    results = [{"image_id": 7, "category_id": id, "bbox": box, "score": score} for id, (score, box) in rows]
    (tmp_path / "results.json").write_text(json.dumps(results))
    labels = Labels(tuple(RECORDS[:1]), NAMES, source="labels")
    assert score_predictions(tmp_path / "results.json", without_images(labels)).coco == expected


def test_writer_coco_is_read_by_pycocotools(tmp_path):
    from pycocotools import coco, cocoeval

    write_coco(tmp_path / "gt.json", RECORDS, NAMES)
    ids = CocoIds({record.name: number for number, record in enumerate(RECORDS, 1)}, {"cat": 1, "dog": 2})
    truth = coco.COCO(str(tmp_path / "gt.json"))
    evaluation = cocoeval.COCOeval(truth, truth.loadRes(str(written("coco", tmp_path / "answers", ids))), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_writer_coco_ids_without_labels_are_numbers_of_names_or_names(tmp_path):
    rows = json.loads(written("coco", tmp_path / "answers").read_text())
    assert [(row["image_id"], row["category_id"], row["category_name"]) for row in rows] == [
        (7, 2, "dog"),
        ("b.jpg", 2, "dog"),
        ("b.jpg", 1, "cat"),
    ]
    assert rows[0]["bbox"] == [20, 20, 80, 70]


def test_writer_csv_has_a_row_for_each_box_in_pixels(tmp_path):
    (name, first, *_), *rows = list(csv.reader(written("csv", tmp_path / "answers").open(encoding="utf-8")))
    assert (name, first) == ("image", "class_id")
    assert rows[1] == ["b.jpg", "1", "dog", "0.9", "10.5", "0.0", "30.0", "40.25"]


def test_writer_jsonl_has_the_names_of_the_classes_found(tmp_path):
    lines = [json.loads(line) for line in written("jsonl", tmp_path / "answers").read_text().splitlines()]
    assert [line["classes"] for line in lines] == [{"1": "dog"}, {"0": "cat", "1": "dog"}, {}]


OUT = {
    "one file": (
        "b.jpg.out",
        {"prediction": [[1, 0.9, 0.0525, 0, 0.15, 0.25156], [0, 0.8, 0.25, 0.3125, 0.45, 0.5625]]},
    ),
    "names of classes": (
        "b.jpg.out",
        {"prediction": [["dog", 0.9, 0.0525, 0, 0.15, 0.25156], ["cat", 0.8, 0.25, 0.3125, 0.45, 0.5625]]},
    ),
    "annotations in pixels": (
        "b.jpg.out",
        {
            "image_size": [{"width": 200, "height": 160, "depth": 3}],
            "annotations": [
                {"class_id": 1, "score": 0.9, "left": 10.5, "top": 0, "width": 19.5, "height": 40.25},
                {"class_id": 0, "class_name": "cat", "score": 0.8, "left": 50, "top": 50, "width": 40, "height": 40},
            ],
        },
    ),
}


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
@pytest.mark.parametrize("name, value", OUT.values(), ids=OUT.keys())
def test_score_predictions_files_of_a_batch_transform_job(tmp_path, name, value, folder):
    place = tmp_path / "out" / "deep" / name
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(value))
    (place.parent / "._b.jpg.out").write_bytes(b"\0")
    labels = Labels(tuple(RECORDS[1:2]), NAMES, source="labels")
    assert score_predictions(tmp_path / "out" if folder else place, without_images(labels)).ap50 == 1


BAD = {
    "no answer in the folder": (None, None, "out"),
    "an error": ("out/a.jpg.out", b'{"error": "too large"}', "out/a.jpg.out"),
    "results without a score": (
        "out/r.json",
        b'[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]',
        "out/r.json:[0]",
    ),
    "results of segments": ("out/r.json", b'[{"image_id": 1, "category_id": 1, "score": 0.5}]', "out/r.json:[0]"),
    "a class that is not known": (
        "out/a.jsonl",
        b'{"image": "b.jpg", "prediction": [["emu", 0.5, 0, 0, 1, 1]]}',
        "out/a.jsonl:1",
    ),
    "classes that are no names": (
        "out/a.jsonl",
        b'{"image": "b.jpg", "prediction": [], "classes": ["x"]}',
        "out/a.jsonl:1",
    ),
}


@pytest.mark.parametrize("name, data, place", BAD.values(), ids=BAD.keys())
def test_score_predictions_unusable_prediction_is_named(tmp_path, name, data, place):
    (tmp_path / "out").mkdir()
    if name:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as raised:
        score_predictions(tmp_path / (name or "out"), without_images(LABELS))
    assert str(raised.value).startswith(str(tmp_path / place) + ":")


MATCHED = {
    "case": (["a.jpg"], ["A.JPG"]),
    "Unicode form": (["caf\u00e9.jpg"], ["cafe\u0301.jpg"]),
    "Windows path": (["x/a.jpg"], ["C:\\set\\a.jpg"]),
    "address": (["a.jpg"], ["https://host/1/a.jpg?sig=x"]),
    "answer without ending": (["a.jpg"], ["a"]),
}


@pytest.mark.parametrize("names, answers", MATCHED.values(), ids=MATCHED.keys())
def test_match_names_as_other_programs_write_them(names, answers):
    assert match_names(names, answers) == dict(zip(names, answers))


def test_match_names_ambiguous_is_an_error():
    assert match_names(["x.jpg", "a.jpg"], ["x.jpg", "A.JPG", "a.JPG"]) == {"x.jpg": "x.jpg"}
    assert match_names(["x.jpg", "a.jpg"], ["x.jpg", "a.png"]) == {"x.jpg": "x.jpg"}


@pytest.mark.skipif(np.__version__.startswith("1.19."), reason="supervision needs NumPy 1.20")
def test_detections_as_supervision_has_them():
    import supervision

    found = detections(RECORDS[1])
    theirs = supervision.Detections(xyxy=found.boxes, confidence=found.scores, class_id=found.class_ids)
    assert len(theirs) == 2 and theirs.area.tolist() == pytest.approx([19.5 * 40.25, 1600])

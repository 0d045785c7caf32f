"""COCO JSON: what is read, refused and written; read by pycocotools too."""

import contextlib
import io
import json

import numpy as np
import pytest

from ssd_train.data.checks.labels import check_lines
from ssd_train.data.formats.builder import NO_BOX_LEFT
from ssd_train.data.formats.coco import NO_BOX, read_coco, write_coco
from ssd_train.data.structures import ClassNames, Ignored, LabeledImage
from ssd_train.errors import DataError


def image(image_id=1, **changes):
    return {"id": image_id, "file_name": f"{image_id}.jpg", "width": 100, "height": 80, **changes}


def annotation(image_id=1, **changes):
    return {"id": 1, "image_id": image_id, "category_id": 3, "bbox": [10, 20, 30, 40], "iscrowd": 0, **changes}


def write(tmp_path, images=(), annotations=(), categories=({"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}), **more):
    path = tmp_path / "instances.json"
    value = {"images": list(images), "annotations": list(annotations), "categories": list(categories), **more}
    path.write_text(json.dumps(value))
    return path


def test_read_coco_images_boxes_and_background(tmp_path):
    path = write(tmp_path, [image(1), image(2)], [annotation(1), annotation(1, category_id=1, bbox=[0, 0, 99.5, 80])])
    labels = read_coco(path)
    assert labels.class_names.names == ("dog", "cat") and labels.category_ids == {"dog": 1, "cat": 3}
    first, second = labels.records
    assert (first.name, first.size_wh, first.where) == ("1.jpg", (100, 80), f"{path}:images[0]")
    assert first.boxes.tolist() == [[10, 20, 40, 60], [0, 0, 99.5, 80]] and first.class_ids.tolist() == [1, 0]
    assert len(second.boxes) == 0


def test_read_coco_crowds_are_regions_to_ignore(tmp_path):
    images = [image(1), image(2), image(3)]
    crowds = [annotation(1, iscrowd=1, bbox=None), annotation(2, iscrowd=True), annotation(3, iscrowd=1, bbox=None)]
    labels = read_coco(write(tmp_path, images, [annotation(1, iscrowd=False), *crowds]))
    first, second = labels.records
    assert (len(first.boxes), len(first.ignored)) == (1, 0)
    assert (len(second.boxes), second.ignored.boxes.tolist()) == (0, [[10, 20, 40, 60]])
    assert second.ignored.crowds.tolist() == [True] and second.ignored.class_ids.tolist() == [1]
    assert [(line.reason, line.detail) for line in labels.repaired] == [
        (NO_BOX, "annotations[1]"),
        (NO_BOX, "annotations[3]"),
    ]
    # an image of crowds only shows something: it is no background
    assert not second.is_background and [line.reason for line in labels.skipped] == [NO_BOX_LEFT]


IDS = {
    "large": (2008000002, 2008000002, 3, 3),
    "texts": ("2008_000002", "2008_000002", "cat", "cat"),
    "as number and text": (7, "7", "3", 3),
    "with a point": (7.0, 7, 3, 3.0),
    "hash": ("f" * 64, "f" * 64, 10**17, 10**17),
}


@pytest.mark.parametrize("image_id, named, category, wanted", IDS.values(), ids=IDS.keys())
def test_read_coco_ids_are_keys(tmp_path, image_id, named, category, wanted):
    categories = [{"id": category, "name": "cat"}]
    labels = read_coco(write(tmp_path, [image(image_id)], [annotation(named, category_id=wanted)], categories))
    assert labels.records[0].boxes.tolist() == [[10, 20, 40, 60]] and labels.class_names.names == ("cat",)


SPELLINGS = {
    "whole numbers with a point": (image(width=100.0, height=80.0), annotation(), (100, 80)),
    "no size": ({"id": 1, "file_name": "1.jpg"}, annotation(), None),
    "size 0": (image(width=0, height=0), annotation(), None),
    "flag as text": (image(), annotation(iscrowd="0"), (100, 80)),
    "area NaN": (image(), annotation(area=float("nan")), (100, 80)),
    "polygon in place of a box": (
        image(),
        annotation(bbox=None, segmentation=[[10, 20, 40, 20, 40, 50.0], [12, 60, 15, 60]]),
        (100, 80),
    ),
}


@pytest.mark.parametrize("entry, box, size_wh", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_read_coco_spellings_of_other_tools_are_read(tmp_path, entry, box, size_wh):
    (record,) = read_coco(write(tmp_path, [entry], [box])).records
    np.testing.assert_allclose(record.boxes, [[10, 20, 40, 60]], atol=1e-5)
    assert record.size_wh == size_wh and not len(record.ignored)


@pytest.mark.parametrize(
    "entry, boxes, place",
    [
        pytest.param(image(), [[0.1, 0.2, 0.3, 0.4], [10, 20, 30, 40]], "annotations[0]", id="among pixels"),
        pytest.param({"id": 1, "file_name": "1.jpg"}, [[0.1, 0.2, 0.3, 0.4]], "annotations[0]", id="without a size"),
        pytest.param(image(), [[float("nan"), 2, 3, 4]], "annotations[0]", id="NaN that is read"),
    ],
)
def test_read_coco_boxes_that_are_no_pixels_are_named(tmp_path, entry, boxes, place):
    with pytest.raises(DataError) as raised:
        read_coco(write(tmp_path, [entry], [annotation(bbox=box) for box in boxes]))
    assert raised.value.code in ("", "bad-coordinates") and place in str(raised.value)
    assert "normalized" in str(raised.value) or np.isnan(boxes[0][0])


def test_write_coco_crowds_are_written(tmp_path):
    ignored = Ignored([[1, 2, 30, 40], [5, 5, 9, 9]], [1, 0], [True, False])
    write_coco(tmp_path / "out.json", [LabeledImage("a.jpg", [[0, 0, 5, 5]], [0], (50, 60), "", ignored)], NAMES)
    (record,) = read_coco(tmp_path / "out.json").records
    assert record.ignored.boxes.tolist() == [[1, 2, 30, 40]] and record.ignored.class_ids.tolist() == [1]


RECORDS = [
    LabeledImage("s3://b/dir/a.jpg", [[0.1, 0.2, 30.7, 40.9], [1, 2, 3, 4]], [1, 0], (50, 60)),
    LabeledImage("none.png", [], [], (50, 60)),
]
NAMES = ClassNames(("dog", "cat"))


def test_write_coco_reads_back_bit_for_bit(tmp_path):
    write_coco(tmp_path / "out.json", RECORDS, NAMES)
    labels = read_coco(tmp_path / "out.json")
    assert labels.class_names == NAMES and [record.name for record in labels.records] == ["dir/a.jpg", "none.png"]
    for found, record in zip(labels.records, RECORDS):
        assert found.boxes.tobytes() == record.boxes.tobytes() and found.size_wh == record.size_wh
        assert found.class_ids.tolist() == record.class_ids.tolist()


@pytest.mark.parametrize(
    "known, ids", [({"cat": 17, "dog": 90, "cow": 21}, [90, 17]), ({"cat": 17}, [1, 2]), ({}, [1, 2])]
)
def test_write_coco_category_ids_are_kept_where_all_are_known(tmp_path, known, ids):
    write_coco(tmp_path / "out.json", RECORDS, NAMES, known)
    value = json.loads((tmp_path / "out.json").read_text())
    assert value["categories"] == [{"id": ids[0], "name": "dog"}, {"id": ids[1], "name": "cat"}]
    assert [box["category_id"] for box in value["annotations"]] == [ids[1], ids[0]]


def test_write_coco_is_read_by_pycocotools(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    write_coco(tmp_path / "out.json", RECORDS, NAMES)
    with contextlib.redirect_stdout(io.StringIO()):
        read = coco.COCO(str(tmp_path / "out.json"))
    found = read.loadAnns(read.getAnnIds(imgIds=[1]))
    np.testing.assert_allclose([box["bbox"] for box in found], [[0.1, 0.2, 30.6, 40.7], [1, 2, 2, 2]], atol=1e-5)
    np.testing.assert_allclose([box["area"] for box in found], [30.6 * 40.7, 4], rtol=1e-5)
    assert [read.loadCats(box["category_id"])[0]["name"] for box in found] == ["cat", "dog"]


def test_write_coco_record_without_size_is_an_error(tmp_path):
    with pytest.raises(DataError, match="m:1: found no image size"):
        write_coco(tmp_path / "out.json", [LabeledImage("a.jpg", [], [], None, "m:1")], NAMES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "annotation",
    [
        pytest.param({"bbox": [1, 2, 30, 20], "iscrowd": None}, id="null-crowd"),
        pytest.param(
            {"bbox": [0, 0, 0, 0], "segmentation": [[1, 2, 31, 2, 31, 22, 1, 22]]}, id="polygon-of-an-empty-box"
        ),
    ],
)
def test_read_coco_of_other_tools(tmp_path, annotation):
    image = {"id": 1, "file_name": "a.jpg", "width": "80", "height": "60"}
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, **annotation}]
    document = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    (record,) = read_coco(tmp_path / "a.json").records
    assert record.size_wh == (80, 60) and record.boxes.tolist() == [[1, 2, 31, 22]]


def test_read_coco_mask_without_a_box_is_named(tmp_path):
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": {"counts": [10, 10], "size": [4, 5]}}
    image, category = {"id": 1, "file_name": "a.jpg", "width": 5, "height": 4}, {"id": 1, "name": "cat"}
    document = {"images": [image], "annotations": [annotation], "categories": [category]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"annotations\[0\]: bbox: found null.*a mask alone is not read"):
        read_coco(tmp_path / "a.json")


def test_check_lines_without_a_box_is_an_error(tmp_path):
    image, category = {"id": 1, "file_name": "a.jpg", "width": 5, "height": 4}, {"id": 1, "name": "cat"}
    (tmp_path / "a.json").write_text(json.dumps({"images": [image], "annotations": [], "categories": [category]}))
    codes = [finding.code for finding in check_lines(read_coco(tmp_path / "a.json"))]
    assert "no-objects" in codes

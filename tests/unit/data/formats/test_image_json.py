"""Image and JSON: what is read, refused and written; class ids and names."""

import json

import pytest

from ssd_train.data.formats.builder import CLIPPED, DUPLICATE
from ssd_train.data.formats.image_json import OTHER_IDS, read_image_json, write_image_json
from ssd_train.data.structures import ClassNames, LabeledImage
from ssd_train.errors import DataError

BOX = {"class_id": 0, "left": 111, "top": 134, "width": 61, "height": 128}
NAMES = [{"class_id": 0, "name": "dog"}, {"class_id": 1, "name": "cat"}]


def value(file="dir/a.jpg", annotations=(BOX,), categories=NAMES, **more):
    found = {"file": file, "image_size": [{"width": 500, "height": 400, "depth": 3}], "annotations": list(annotations)}
    return {**found, **({} if categories is None else {"categories": categories}), **more}


def folder(tmp_path, *values):
    """A folder with 0.json, 1.json, ... of `values`: objects, or bytes as they are."""
    for index, found in enumerate(values):
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        (tmp_path / f"{index}.json").write_bytes(data)
    return tmp_path


GOOD = value("good.jpg")


def test_read_image_json_example_of_the_developer_guide(tmp_path):
    labels = read_image_json(folder(tmp_path, value(annotations=[BOX, {**BOX, "class_id": 1, "left": 5}])))
    (record,) = labels.records
    assert (record.name, record.size_wh, record.where) == ("dir/a.jpg", (500, 400), str(tmp_path / "0.json"))
    assert record.boxes.tolist() == [[111, 134, 172, 262], [5, 134, 66, 262]] and record.class_ids.tolist() == [0, 1]
    assert labels.class_names.names == ("dog", "cat")


CLASSES = {
    "union in the order of ids": ([[NAMES[1]], [NAMES[0]]], [1, 0], ("dog", "cat"), [1, 0]),
    "a gap stays": (
        *[[[{"class_id": 3, "name": "x"}], [{"class_id": 1, "name": "y"}]], [3, 1]],
        *[("class_0", "y", "class_2", "x"), [3, 1]],
    ),
    "a gap, and a class of its number's name": (
        *[[[{"class_id": 0, "name": "class_1"}], [{"class_id": 2, "name": "class_3"}]], [0, 2]],
        *[("class_1", "class_1_", "class_3"), [0, 2]],
    ),
    "no name for one id": ([NAMES, None], [0, 3], ("dog", "cat", "class_2", "class_3"), [0, 3]),
    "repeated entries": ([[NAMES[0]] * 3], [0], ("dog",), [0]),
    "ids as digits": ([[{"class_id": "0", "name": "dog"}]], ["0"], ("dog",), [0]),
    "none": ([None, None], [2, 0], ("class_0", "class_1", "class_2"), [2, 0]),
    "none in one file": ([None, NAMES], [1, 0], ("dog", "cat"), [1, 0]),
}


@pytest.mark.parametrize("categories, ids, names, expected", CLASSES.values(), ids=CLASSES.keys())
def test_read_image_json_class_names_by_id(tmp_path, categories, ids, names, expected):
    files = [
        value(f"{i}.jpg", [{**BOX, "class_id": class_id}], found)
        for i, (found, class_id) in enumerate(zip(categories, ids))
    ]
    labels = read_image_json(folder(tmp_path, *files))
    assert labels.class_names.names == names
    assert [record.class_ids.tolist() for record in labels.records] == [[class_id] for class_id in expected]


@pytest.mark.parametrize(
    "given, names", [(None, ("class_0", "class_1")), (("a", "b", "c"), ("a", "b", "c"))], ids=["none", "given"]
)
def test_image_json_categories_without_an_id_of_the_boxes_name_no_class(tmp_path, given, names):
    # id 0 has a name in the other file, but this file's own categories do not have it
    boxes = [BOX, {**BOX, "class_id": 1, "left": 5}]
    path = folder(tmp_path, value("a.jpg", boxes), value("b.jpg", categories=[NAMES[1]]), value("c.jpg", []))
    labels = read_image_json(path, given and ClassNames(given))
    assert labels.class_names.names == names
    assert [record.class_ids.tolist() for record in labels.records] == [[0, 1], [0], []]
    assert [(line.where, line.reason) for line in labels.repaired] == [(str(tmp_path / "1.json"), OTHER_IDS)]


def test_read_image_json_conflicting_names_are_an_error(tmp_path):
    path = folder(tmp_path, GOOD, value(categories=[{"class_id": 0, "name": "wolf"}]))
    with pytest.raises(DataError, match="1.json: calls class 0 'wolf', but .*0.json calls it 'dog'"):
        read_image_json(path)


def test_read_image_json_background_duplicate_and_clipped_box(tmp_path):
    files = [value("b.jpg", []), GOOD, GOOD, value("c.jpg", [{**BOX, "left": -10}], image_size=None)]
    labels = read_image_json(folder(tmp_path, *files))
    assert [len(record.boxes) for record in labels.records] == [0, 1, 1]
    assert [line.reason for line in labels.skipped] == [DUPLICATE] and [line.reason for line in labels.repaired] == [
        CLIPPED
    ]
    assert labels.records[2].size_wh is None


def test_read_image_json_folder_without_json_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"found no \*\.json"):
        read_image_json(tmp_path)
    with pytest.raises(DataError, match=r"none: found no \*\.json"):
        read_image_json(tmp_path / "none")


def test_write_image_json_reads_back(tmp_path):
    records = [
        LabeledImage("s3://b/dir/ä b.jpg", [[0.5, 1, 30.25, 40]], [1], (50, 60)),
        LabeledImage("dir/none.png", [], [], (50, 60)),
        LabeledImage("other/none.png", [[1, 2, 3, 4]], [0], None),
    ]
    names = ClassNames(("dog", "cat", "unused"))
    write_image_json(tmp_path / "out", iter(records), names)
    labels = read_image_json(tmp_path / "out")
    assert labels.class_names == names
    assert [record.name for record in labels.records] == ["dir/none.png", "dir/ä b.jpg", "other/none.png"]
    for found, record in zip(labels.records, [records[1], records[0], records[2]]):
        assert found.boxes.tolist() == record.boxes.tolist() and found.class_ids.tolist() == record.class_ids.tolist()
        assert found.size_wh == record.size_wh


REFUSED = {
    "leaves the folder": (["../a.jpg"], "leaves its folder"),
    "no file": (["a/"], "no file name"),
    "same but for the ending": (["a.jpg", "a.png"], "'a.png' beside an image of the same name but for the ending"),
}


@pytest.mark.parametrize("names, message", REFUSED.values(), ids=REFUSED.keys())
def test_write_image_json_invalid_names_leave_nothing(tmp_path, names, message):
    records = [LabeledImage(name, [], [], (5, 5)) for name in ["good.jpg", *names]]
    with pytest.raises(DataError, match=message):
        write_image_json(tmp_path / "out", records, ClassNames(("dog",)))
    assert list(tmp_path.iterdir()) == []


def test_write_image_json_existing_folder_is_an_error(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="is there already"):
        write_image_json(tmp_path, [], ClassNames(("dog",)))
    assert (tmp_path / "mine.txt").read_text() == "keep"

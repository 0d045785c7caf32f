"""YOLO labels: shares to pixels, layouts of folders, class names of data.yaml, and what is refused."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.data import write_files
from helpers.images import encoded, with_exif

from ssd_train.data.formats.builder import CLIPPED
from ssd_train.data.formats.yolo import NO_LABEL, describe, image_parts, read_yolo, write_yolo
from ssd_train.data.labels import load_labels
from ssd_train.data.structures import ClassNames, LabeledImage
from ssd_train.errors import DataError, DependencyError


def picture(width=80, height=40, **options):
    return encoded(np.zeros((height, width, 3), np.uint8), "JPEG", **options)


PICTURE = picture()
LINE = "1 0.25 0.5 0.5 0.5\n"

LAYOUTS = {
    "side by side": ("a.jpg", "a.txt"),
    "inside split folders": ("train/images/a.jpg", "train/labels/a.txt"),
    "only the last images counts": ("images/set/images/a.jpg", "images/set/labels/a.txt"),
}


@pytest.mark.parametrize("image, label", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_read_yolo_layouts_of_folders(tmp_path, image, label):
    labels = read_yolo(write_files(tmp_path, {image: PICTURE, label: LINE, "classes.txt": "dog\ncat\n"}))
    (record,) = labels.records
    assert (record.name, record.where, record.size_wh) == (image, str(tmp_path / label), (80, 40))
    assert record.boxes.tolist() == [[0, 10, 40, 30]] and record.class_ids.tolist() == [1]
    assert labels.class_names.names == ("dog", "cat")


def test_read_yolo_folder_called_images(tmp_path):
    write_files(tmp_path, {"images/a.jpg": PICTURE, "labels/a.txt": LINE, "data.yaml": "names: [dog, cat]"})
    labels = read_yolo(tmp_path / "images")
    assert labels.records[0].name == "a.jpg" and labels.class_names.names == ("dog", "cat")


def test_read_yolo_empty_label_is_background_and_missing_is_skipped(tmp_path):
    labels = read_yolo(write_files(tmp_path, {"a.jpg": PICTURE, "a.txt": "\n", "b.jpg": PICTURE}))
    assert [(record.name, len(record.boxes)) for record in labels.records] == [("a.jpg", 0)]
    assert [(line.where, line.reason) for line in labels.skipped] == [(str(tmp_path / "b.jpg"), NO_LABEL)]


def test_read_yolo_without_names_numbers_classes(tmp_path):
    labels = read_yolo(write_files(tmp_path, {"a.jpg": PICTURE, "a.txt": LINE}))
    assert labels.class_names.names == ("class_0", "class_1")


def test_read_yolo_size_follows_exif(tmp_path):
    turned = with_exif(np.zeros((40, 80, 3), np.uint8), 6)
    labels = read_yolo(write_files(tmp_path, {"a.jpg": turned, "a.txt": LINE}))
    assert labels.records[0].size_wh == (40, 80) and labels.records[0].boxes.tolist() == [[0, 20, 20, 60]]


def test_read_yolo_box_over_the_border_is_clipped(tmp_path):
    labels = read_yolo(write_files(tmp_path, {"a.jpg": PICTURE, "a.txt": "0 0 0.5 0.5 0.5\n0 0.5 0.5 1.0000001 1\r\n"}))
    np.testing.assert_allclose(labels.records[0].boxes, [[0, 10, 20, 30], [0, 0, 80, 40]], atol=1e-4)
    assert [line.reason for line in labels.repaired] == [CLIPPED]


def test_read_yolo_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(DataError, match="found no images"):
        read_yolo(write_files(tmp_path, {"a.txt": LINE}))


NAMES = {
    "quote in quotes": ("data.yaml", "names: ['cat''s']", ["cat's"]),
    "block list": ("data.yaml", "names:\n- dog\n- traffic light\nnc: 2\n", ["dog", "traffic light"]),
    "block map": ("data.yaml", "train: a\nnames:\r\n  0: dog  # first\r\n\r\n  1: cat\r\nnc: 2\r\n", ["dog", "cat"]),
    "over lines": ("data.yaml", "nc: 2\nnames: [ 'small dog',\n         cat ]\n", ["small dog", "cat"]),
    "escapes": ("data.yaml", 'names: ["d\\u00f6g", "it\\"s"]', ["d\u00f6g", 'it"s']),
    "words of YAML": ("data.yaml", "names: [no, 1.0, null, 2020-01-01]", ["no", "1.0", "null", "2020-01-01"]),
    "ids out of order": ("data.yaml", "names: {1: cat, 0: dog}", ["dog", "cat"]),
    "anchors": ("data.yaml", "base: &b [dog, cat]\nnames: *b", ["dog", "cat"]),
    "Label Studio's notes": (
        "notes.json",
        '{"categories": [{"id": 1, "name": "cat"}, {"id": 0, "name": "dog"}], "info": {}}',
        ["dog", "cat"],
    ),
    "among labels": ("train/labels/classes.txt", "dog", ["dog"]),
    "classes.txt": ("classes.txt", "\ufeffdog\nbig cat \r\n\n", ["dog", "big cat"]),
}


@pytest.mark.parametrize("name, text, names", NAMES.values(), ids=NAMES.keys())
def test_read_yolo_names_of_each_file(tmp_path, name, text, names):
    assert describe([write_files(tmp_path, {name: text})]).names == ClassNames(tuple(names))


BAD_NAMES = {
    "none": ("data.yaml", "train: x", "found no entry names"),
    "a scalar": ("data.yaml", "names: dog", r"names: found 'dog', expected \[a, b\]"),
    "names twice": ("data.yaml", "names: [dog]\nnames: [cat]", "found the entry 'names' twice"),
    "deep": ("data.yaml", "names: " + "[" * 5000, "found YAML that cannot be read|found bad YAML"),
    "notes without ids": ("notes.json", '{"categories": [{"name": "dog"}]}', "expected an object with id and name"),
    "empty": ("data.yaml", "names: []", r"names: found ids \[\]"),
    "gap": ("data.yaml", "names:\n  0: dog\n  2: cat", r"names: found ids \[0, 2\], expected 0, 1"),
    "blank line": ("classes.txt", "dog\n\ncat", "found '', expected a name that is not blank"),
    "latin-1": ("classes.txt", "dög".encode("latin-1"), "byte 0xf6, which is not UTF-8"),
}


@pytest.mark.parametrize("name, text, message", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_read_yolo_names_invalid_file_is_an_error(tmp_path, name, text, message):
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path / name))}: .*{message}"):
        describe([write_files(tmp_path, {name: text})])


LISTS = {"p1/classes.txt": "cat\ndog\n", "p1/a.txt": "0 .5 .5 .4 .4\n", "p2/b.txt": "0 .5 .5 .4 .4\n"}


def lists_of_two(tmp_path, second):
    """Two exports of LabelImg in one folder, the second with these classes."""
    write_files(tmp_path, {**LISTS, "p1/a.jpg": picture(), "p2/b.jpg": picture(), "p2/classes.txt": second})
    return tmp_path


def test_read_yolo_lists_of_classes_that_differ_are_an_error(tmp_path):
    folder = lists_of_two(tmp_path, "dog\ncat\n")
    with pytest.raises(
        DataError, match=r"p2/classes.txt: found the classes dog, cat, and in .*p1/classes.txt cat, dog"
    ):
        read_yolo(folder)
    assert list(read_yolo(folder, ClassNames(("x", "y"))).class_names) == ["x", "y"]


def test_read_yolo_unknown_class_id_names_the_list_of_classes(tmp_path):
    write_files(tmp_path, {"classes.txt": "cat\n", "set/images/a.jpg": picture(), "set/images/a.txt": LINE})
    with pytest.raises(DataError, match=r"found 1, expected less than 1, the classes of .*classes.txt"):
        read_yolo(tmp_path / "set" / "images")


def test_read_yolo_line_of_a_track_is_no_polygon(tmp_path):
    """As yolo track save_txt=True save_conf=True writes it: class, x, y, width, height, confidence, track id."""
    write_files(tmp_path, {"a.jpg": picture(), "a.txt": "0 0.6 0.6 0.1 0.1 0.93 2\n"})
    with pytest.raises(DataError, match=r"a.txt:1: found the whole number 2"):
        read_yolo(tmp_path)


def test_read_yolo_a_list_may_be_the_beginning_of_another(tmp_path):
    assert list(read_yolo(lists_of_two(tmp_path, "cat\ndog\ncow\n")).class_names) == ["cat", "dog", "cow"]


def test_read_yolo_train_that_does_not_exist_beside_val_is_an_error(tmp_path):
    text = "names: [cat]\ntrain: images/trian\nval: images/val\n"
    files = {"data.yaml": text, "images/train/a.jpg": picture(), "images/val/b.jpg": picture()}
    write_files(tmp_path, files)
    with pytest.raises(DataError, match=r"data.yaml: train: found 'images/trian', which does not exist"):
        read_yolo(tmp_path)


def test_read_yolo_names_of_splits_in_capitals(tmp_path):
    text = "names: [cat]\nTrain: images/train\nValidation: images/val\n"
    label = "0 .5 .5 .4 .4\n"
    files = {"data.yaml": text, "images/train/a.jpg": picture(), "images/val/b.jpg": picture()}
    write_files(tmp_path, {**files, "labels/train/a.txt": label, "labels/val/b.txt": label})
    sets = read_yolo(tmp_path).sets
    assert sets == {"train": {"images/train/a.jpg"}, "val": {"images/val/b.jpg"}}


def test_read_yolo_label_of_an_image_in_a_format_that_is_not_read_names_it(tmp_path):
    write_files(tmp_path, {"a.jpg": picture(), "a.txt": LINE, "b.gif": b"GIF89a", "b.txt": LINE})
    with pytest.raises(DataError, match=r"b.txt: found b.gif, expected JPEG"):
        read_yolo(tmp_path)


def test_read_yolo_names_without_a_file_is_none(tmp_path):
    assert describe([tmp_path]).names is None


@pytest.mark.parametrize("name", ["data.yaml", "sub/data.yaml", "sub/deep/data.yaml"])
def test_read_yolo_names_stand_up_to_two_folders_above(tmp_path, name):
    write_files(tmp_path, {name: "names: [dog]"})
    (tmp_path / "sub" / "deep").mkdir(parents=True, exist_ok=True)
    assert describe([tmp_path / "sub" / "deep"]).names == ClassNames(("dog",))


def test_read_yolo_names_yaml_without_names_gives_way_to_a_list(tmp_path):
    write_files(tmp_path, {"data.yaml": "nc: 1", "classes.txt": "dog", "other.yaml": "version: 2"})
    assert describe([tmp_path]).names == ClassNames(("dog",))


def test_read_yolo_without_pyyaml_one_line_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    write_files(tmp_path, {"a.jpg": PICTURE, "a.txt": LINE, "classes.txt": "dog\ncat"})
    assert len(read_yolo(tmp_path).records) == 1  # it is not asked for where there is no YAML
    write_files(tmp_path, {"data.yaml": "names: [dog, cat]"})
    with pytest.raises(DependencyError) as raised:
        read_yolo(tmp_path)
    assert str(tmp_path / "data.yaml") in str(raised.value) and "PyYAML" in str(raised.value)


BOX = [[10, 20, 30, 40]]  # of a picture of 50 x 40
SPELLINGS = {
    "triangle": "1 0.2 0.5 0.6 0.75 0.3 1.0",
    "polygon and box": "1 0.4 0.75 0.4 0.5\n1 0.2 0.5 0.6 0.5 0.6 1 0.2 1",
    "byte order mark": "\ufeff1 0.4 0.75 0.4 0.5",
    "tabs and Windows' line ends": "1\t0.4\t0.75\t0.4\t0.5\r\n",
}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_read_yolo_spellings_of_other_tools_are_read(tmp_path, text):
    labels = read_yolo(write_files(tmp_path, {"a.jpg": picture(50, 40), "a.txt": text, "classes.txt": "dog\ncat"}))
    (record,) = labels.records
    np.testing.assert_allclose(record.boxes, BOX * len(record.boxes), atol=1e-4)
    assert set(record.class_ids.tolist()) == {1} and not labels.repaired


def test_read_yolo_keypoints_the_first_numbers_are_the_box(tmp_path):
    line = "0 0.4 0.75 0.4 0.5 0.3 0.6 2 0.5 0.7 0\n"
    files = {"a.jpg": picture(50, 40), "a.txt": line, "data.yaml": "kpt_shape: [2, 3]\nnames: {0: person}\n"}
    (record,) = read_yolo(write_files(tmp_path, files)).records
    np.testing.assert_allclose(record.boxes, BOX, atol=1e-4)


NAMED = {"data.yaml": "names: [x, dog]"}
NOTES = '{"categories": [{"id": 0, "name": "x"}, {"id": 1, "name": "dog"}]}'
ROBOFLOW = ("train/images/a.jpg", "train/labels/a.txt", NAMED)
OTHER_TEXTS = {"README.dataset.txt": "hello", "train.txt": "images/a.jpg", "labels/notes.txt": "hi", **NAMED}
# picture, label and other files, the folders that are given, and the name of the record
TOOLS = {
    "Roboflow": (*ROBOFLOW, ("train/images", "train/labels"), "a.jpg"),
    "Roboflow, images alone": (*ROBOFLOW, ("train/images", None), "a.jpg"),
    "Roboflow, labels alone": (*ROBOFLOW, (None, "train/labels"), "a.jpg"),
    "Ultralytics": (
        *["images/train/a.jpg", "labels/train/a.txt", {"coco8.yaml": NAMED["data.yaml"]}],
        *[(".", None), "images/train/a.jpg"],
    ),
    "Label Studio without classes.txt": (
        *["images/1-a.jpg", "labels/1-a.txt", {"notes.json": NOTES}, (".", None), "images/1-a.jpg"],
    ),
    "labels called otherwise": (
        *["photos/s/a.jpg", "marks/a.txt", {"marks/classes.txt": "x\ndog"}, ("photos", "marks"), "s/a.jpg"],
    ),
    "folders of other names in one": (
        *["imgs/a.jpg", "anno/a.txt", {"classes.txt": "x\ndog"}, (".", None), "imgs/a.jpg"],
    ),
    "texts that are no labels": ("images/a.jpg", "labels/a.txt", OTHER_TEXTS, (".", None), "images/a.jpg"),
}


@pytest.mark.parametrize("image, label, more, given, name", TOOLS.values(), ids=TOOLS.keys())
def test_read_labelled_yolo_layouts_of_the_tools(tmp_path, image, label, more, given, name):
    write_files(tmp_path, {image: picture(50, 40), label: "1 0.4 0.75 0.4 0.5", **more})
    data = load_labels(*(None if place is None else tmp_path / place for place in given))
    assert [record.name for record in data.labels.records] == [name] and not data.labels.skipped
    assert data.labels.class_names.names == ("x", "dog")
    np.testing.assert_allclose(data.labels.records[0].boxes, BOX, atol=1e-4)
    assert data.images.read(data.labels.records[0]) == picture(50, 40)


@pytest.mark.parametrize("text", [LINE, "", "0 0.1 0.1 0.9 0.1 0.5 0.5"], ids=["box", "empty", "polygon"])
def test_read_yolo_label_without_an_image_is_an_error_or_skipped(tmp_path, text):
    files = {"images/a.jpg": PICTURE, "labels/a.txt": LINE, "labels/d.txt": text, "data.yaml": "names: [dog, cat]"}
    write_files(tmp_path, files)
    with pytest.raises(DataError) as raised:
        read_yolo(tmp_path)
    assert raised.value.code in ("", "missing-image") and str(raised.value).startswith(str(tmp_path / "labels/d.txt"))
    labels = read_yolo(tmp_path, on_bad="skip")
    assert [(line.where, line.code) for line in labels.skipped] == [(str(tmp_path / "labels/d.txt"), "missing-image")]


@pytest.mark.parametrize("above", [".", "images/flat", "labels/flat"])
def test_read_yolo_labels_in_a_folder_of_their_own_wherever_the_set_lies(tmp_path, above):
    root = write_files(tmp_path / above, {"pictures/a.jpg": PICTURE, "texts/a.txt": LINE})
    (record,) = read_yolo(root).records
    assert record.name == "pictures/a.jpg" and len(record.boxes) == 1


@pytest.mark.parametrize("place", ["/elsewhere/nobody_may_look_here", "x" * 300], ids=["elsewhere", "too-long"])
def test_read_yolo_path_of_another_machine_gives_way_to_the_folder_of_the_file(tmp_path, monkeypatch, place):
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: "nobody_may" not in str(path) and exists(path))
    data = f"path: {place}\ntrain: train\nnames: [dog, cat]\n"
    labels = read_yolo(write_files(tmp_path, {"train/a.jpg": PICTURE, "train/a.txt": LINE, "data.yaml": data}))
    assert dict(labels.sets) == {"train": {"train/a.jpg"}}


def test_read_yolo_yaml_of_another_program_is_left_alone(tmp_path):
    """A template of Helm is no YAML; the data's own file is."""
    files = {
        "values.yaml": "{{ .Values.a }}: {",
        "ds/a.jpg": PICTURE,
        "ds/a.txt": LINE,
        "ds/data.yaml": "names: [a, b]",
    }
    assert read_yolo(write_files(tmp_path, files) / "ds").class_names.names == ("a", "b")
    (tmp_path / "ds" / "data.yaml").write_text("{{ a }}: {")
    with pytest.raises(DataError, match=f"^{tmp_path / 'ds' / 'data.yaml'}: "):
        read_yolo(tmp_path / "ds")


def test_read_yolo_set_that_is_a_link_has_its_images(tmp_path):
    write_files(tmp_path / "elsewhere", {"a.jpg": PICTURE, "a.txt": LINE})
    data = "train: train\nval: val\nnames: [dog, cat]"
    root = write_files(tmp_path / "ds", {"val/b.jpg": PICTURE, "val/b.txt": LINE, "data.yaml": data})
    (root / "train").symlink_to(tmp_path / "elsewhere")
    assert dict(read_yolo(root).sets) == {"train": {"train/a.jpg"}, "val": {"val/b.jpg"}}


def test_read_yolo_hidden_files_are_no_data(tmp_path):
    files = {"images/a.jpg": PICTURE, "labels/a.txt": LINE, "data.yaml": "names: [dog, cat]", "._data.yaml": b"\0\5"}
    hidden = {
        "images/.ipynb_checkpoints/a-checkpoint.jpg": PICTURE,
        "labels/.ipynb_checkpoints/a-checkpoint.txt": LINE,
        "images/._a.jpg": b"\0\5",
        "labels/._a.txt": b"\0\5",
        "__MACOSX/images/a.jpg": b"\0\5",
    }
    labels = read_yolo(write_files(tmp_path, {**files, **hidden}))
    assert [record.name for record in labels.records] == ["images/a.jpg"] and not labels.skipped


def test_write_yolo_reads_back(tmp_path):
    names = ClassNames(("dog", 'it"s: a #1 c\u00e4t', "no", "line\nfeed \U0001f600"))
    records = [
        LabeledImage("d/a.jpg", [[0.5, 1.25, 30.75, 39.5], [0, 0, 50, 40]], [1, 3], (50, 40)),
        LabeledImage("b.jpg", [], [], (50, 40)),
    ]
    write_yolo(tmp_path / "out", records, names)
    write_files(tmp_path, {"out/images/d/a.jpg": picture(50, 40), "out/images/b.jpg": picture(50, 40)})
    labels = read_yolo(tmp_path / "out")
    assert labels.class_names == names and list(labels.sets) == ["train", "val"]
    assert [record.name for record in labels.records] == ["images/b.jpg", "images/d/a.jpg"]
    np.testing.assert_allclose(labels.records[1].boxes, records[0].boxes, atol=1e-4)
    assert labels.records[1].class_ids.tolist() == [1, 3]


def test_write_yolo_names_with_images_folders_are_where_ultralytics_looks(tmp_path):
    """Its rule (ultralytics/data/utils.py, img2label_paths): the last /images/ of a path is replaced by /labels/."""
    records = [LabeledImage(f"s3://bucket/set/{name}/images/a.jpg", [], [], (50, 40)) for name in ("train", "images/b")]
    write_yolo(tmp_path / "out", records, ClassNames(("dog",)))
    for record in records:
        image = "/".join([str(tmp_path / "out" / "images"), *image_parts(record)])
        label = "/labels/".join(image.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"
        assert Path(label).is_file()


SET_FILES = {
    "folders": {"data.yaml": "train: images/train\nval: images/val\ntest: images/test\nnames: [dog, cat]"},
    "Roboflow's paths": {
        "data.yaml": "train: ../images/train\nval: ../images/val\ntest: ../images/test\nnames: [dog, cat]"
    },
    "a path before them": {"data.yaml": "path: images\ntrain: train\nval: [val]\ntest: test\nnames: [dog, cat]"},
    "a path of another machine": {
        "data.yaml": "path: /me/set\ntrain: /me/set/images/train\nval: images/val\ntest: images/test\nnames: [a, b]"
    },
    "lists": {
        "data.yaml": "train: t.txt\nval: v.txt\ntest: images/test\nnames: [dog, cat]",
        "t.txt": "./images/train/a.jpg\n",
        "v.txt": "C:\\set\\images\\val\\a.jpg\r\n",
    },
    "CVAT": {
        "obj.data": "train = data/train.txt\nvalid = data/valid.txt\ntest = images/test",
        "obj.names": "dog\ncat",
        "train.txt": "data/images/train/a.jpg",
        "valid.txt": "data/images/val/a.jpg",
    },
}


@pytest.mark.parametrize("files", SET_FILES.values(), ids=SET_FILES.keys())
def test_read_yolo_sets_that_the_data_names(tmp_path, files):
    pictures = {f"images/{name}/a.jpg": PICTURE for name in ("train", "val", "test")}
    texts = {f"labels/{name}/a.txt": LINE for name in ("train", "val", "test")}
    labels = read_yolo(write_files(tmp_path, {**pictures, **texts, **files}))
    assert labels.sets == {name: {f"images/{name}/a.jpg"} for name in ("train", "val", "test")}

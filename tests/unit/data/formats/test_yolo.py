"""YOLO labels: shares to pixels, layouts of folders, class names of data.yaml, and what is refused."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from ssd_train.data.formats.fields import CLIPPED
from ssd_train.data.formats.gather import BAD_LINE
from ssd_train.data.formats.yolo import NO_LABEL, read_yolo
from ssd_train.data.formats.yolo_names import read_yolo_names
from ssd_train.data.records import ClassNames
from ssd_train.errors import DataError


def picture(width=80, height=40, **options):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "JPEG", **options)
    return file.getvalue()


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


PICTURE = picture()
LINE = "1 0.25 0.5 0.5 0.5\n"

LAYOUTS = {
    "side by side": ("a.jpg", "a.txt"),
    "images and labels": ("images/a.jpg", "labels/a.txt"),
    "split folders inside": ("images/train/a.jpg", "labels/train/a.txt"),
    "inside split folders": ("train/images/a.jpg", "train/labels/a.txt"),
    "only the last images counts": ("images/set/images/a.jpg", "images/set/labels/a.txt"),
}


@pytest.mark.parametrize("image, label", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts(tmp_path, image, label):
    labels = read_yolo(write(tmp_path, {image: PICTURE, label: LINE, "classes.txt": "dog\ncat\n"}))
    (record,) = labels.records
    assert (record.name, record.where, record.size_wh) == (image, str(tmp_path / label), (80, 40))
    assert record.boxes.tolist() == [[0, 10, 40, 30]] and record.class_ids.tolist() == [1]
    assert labels.class_names.names == ("dog", "cat")


def test_folder_called_images_itself(tmp_path):
    write(tmp_path, {"images/a.jpg": PICTURE, "labels/a.txt": LINE, "data.yaml": "names: [dog, cat]"})
    labels = read_yolo(tmp_path / "images")
    assert labels.records[0].name == "a.jpg" and labels.class_names.names == ("dog", "cat")


def test_empty_label_is_background_and_a_missing_one_is_skipped(tmp_path):
    labels = read_yolo(write(tmp_path, {"a.jpg": PICTURE, "a.txt": "\n", "b.jpg": PICTURE}))
    assert [(record.name, len(record.boxes)) for record in labels.records] == [("a.jpg", 0)]
    assert [(line.where, line.reason) for line in labels.skipped] == [(str(tmp_path / "b.jpg"), NO_LABEL)]


def test_classes_are_numbered_without_names(tmp_path):
    labels = read_yolo(write(tmp_path, {"a.jpg": PICTURE, "a.txt": LINE}))
    assert labels.class_names.names == ("class_0", "class_1")


def test_size_is_that_of_the_picture_as_seen(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    labels = read_yolo(write(tmp_path, {"a.jpg": picture(exif=exif.tobytes()), "a.txt": LINE}))
    assert labels.records[0].size_wh == (40, 80) and labels.records[0].boxes.tolist() == [[0, 20, 20, 60]]


def test_box_over_the_rim_is_clipped_and_told(tmp_path):
    labels = read_yolo(write(tmp_path, {"a.jpg": PICTURE, "a.txt": "0 0 0.5 0.5 0.5\n0 0.5 0.5 1.0000001 1\r\n"}))
    np.testing.assert_allclose(labels.records[0].boxes, [[0, 10, 20, 30], [0, 0, 80, 40]], atol=1e-4)
    assert [line.reason for line in labels.mended] == [CLIPPED]


BAD = {
    "polygon": ("0 0.1 0.1 0.2 0.1 0.2 0.2", "found 7 numbers .a polygon.., expected class id"),
    "confidence": ("0 0.5 0.5 0.1 0.1 0.9", "found 6 numbers, expected class id"),
    "four numbers": ("0 0.5 0.5 0.1", "found 4 numbers"),
    "pixels": ("0 40 20 10 10", "found '40', expected a share of the image, 0..1 .not pixels."),
    "word": ("0 x 0.5 0.1 0.1", "share of the image: found 'x', expected a number"),
    "nan": ("0 nan 0.5 0.1 0.1", "share of the image: found 'nan', expected a number"),
    "inf": ("0 inf 0.5 0.1 0.1", "share of the image: found 'inf', expected a number"),
    "underscore": ("0 0_1 0.5 0.1 0.1", "share of the image: found '0_1'"),
    "negative width": ("0 0.5 0.5 -0.1 0.1", "found width -"),
    "negative height": ("0 0.5 0.5 0.1 -0.1", "and height -4.0, expected neither below 0"),
    "class a name": ("dog 0.5 0.5 0.1 0.1", "class id: found 'dog', expected an integer"),
    "class a float": ("0.0 0.5 0.5 0.1 0.1", "class id: found '0.0', expected an integer"),
    "class unknown": ("2 0.5 0.5 0.1 0.1", "class id: found 2, expected less than 2"),
    "binary": (b"\xff\xd8\xff\xe0 0 0 0 0", "class id: found"),
}


@pytest.mark.parametrize("line, message", BAD.values(), ids=BAD.keys())
def test_bad_line_is_an_error_with_its_place_or_skipped(tmp_path, line, message):
    line = line if isinstance(line, bytes) else line.encode()
    good = {"classes.txt": "dog\ncat", "good.jpg": PICTURE, "good.txt": LINE}
    write(tmp_path, {**good, "a.jpg": PICTURE, "a.txt": LINE.encode() + b"\n" + line})
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path / 'a.txt'))}:3: .*{message}"):
        read_yolo(tmp_path)
    labels = read_yolo(tmp_path, on_bad="skip")
    assert [record.name for record in labels.records] == ["good.jpg"]
    assert [(line.where, line.reason) for line in labels.skipped] == [(f"{tmp_path / 'a.txt'}:3", BAD_LINE)]


def test_picture_that_is_none_is_an_error_with_its_name(tmp_path):
    write(tmp_path, {"a.jpg": b"<html>", "a.txt": LINE})
    with pytest.raises(DataError, match=rf"^{re.escape(str(tmp_path / 'a.jpg'))}: image: found an HTML page"):
        read_yolo(tmp_path)


def test_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(DataError, match="found no images"):
        read_yolo(write(tmp_path, {"a.txt": LINE}))


NAMES = {
    "flow list": ("data.yaml", "nc: 3\nnames: [dog, 'big cat', \"fox\"]  # three\n", ["dog", "big cat", "fox"]),
    "trailing comma": ("data.yaml", "names: ['dog',]", ["dog"]),
    "quote in quotes": ("data.yaml", "names: ['cat''s']", ["cat's"]),
    "flow map": ("data.yaml", "names: {0: dog, 1: 'cat'}", ["dog", "cat"]),
    "block list": ("data.yaml", "names:\n- dog\n- traffic light\nnc: 2\n", ["dog", "traffic light"]),
    "block map": ("data.yaml", "train: a\nnames:\r\n  0: dog  # first\r\n\r\n  1: cat\r\nnc: 2\r\n", ["dog", "cat"]),
    "hyphen": ("data.yaml", "names: [hard-hat, vest_1]", ["hard-hat", "vest_1"]),
    "classes.txt": ("classes.txt", "\ufeffdog\nbig cat \r\n\n", ["dog", "big cat"]),
    "obj.names": ("obj.names", "dog", ["dog"]),
    "any .names": ("animals.names", "dog", ["dog"]),
    "beside the labels": ("labels/classes.txt", "dog", ["dog"]),
}


@pytest.mark.parametrize("name, text, names", NAMES.values(), ids=NAMES.keys())
def test_class_names_of_a_set(tmp_path, name, text, names):
    assert read_yolo_names(write(tmp_path, {name: text})) == ClassNames(tuple(names))


BAD_NAMES = {
    "none": ("data.yaml", "train: x", "found no entry names"),
    "a scalar": ("data.yaml", "names: dog", r"names: found 'dog', expected \[a, b\]"),
    "over lines": ("data.yaml", "names: [dog,\n cat]", r"names: found '\[dog,', expected"),
    "empty": ("data.yaml", "names: []", r"names: found ids \[\]"),
    "gap": ("data.yaml", "names:\n  0: dog\n  2: cat", r"names: found ids \[0, 2\], expected 0, 1"),
    "nested": ("data.yaml", "names:\n  - [dog]", r"names: found '\[dog\]', expected a plain or quoted name"),
    "alias": ("data.yaml", "names: [*dog]", "names: found"),
    "twice": ("data.yaml", "names: [dog, dog]", "found 'dog' twice"),
    "blank line": ("classes.txt", "dog\n\ncat", "found '', expected a name that is not blank"),
    "latin-1": ("classes.txt", "dög".encode("latin-1"), "byte 0xf6, which is not UTF-8"),
}


@pytest.mark.parametrize("name, text, message", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_names_that_are_not_understood_are_an_error(tmp_path, name, text, message):
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path / name))}: .*{message}"):
        read_yolo_names(write(tmp_path, {name: text}))


def test_no_file_of_names(tmp_path):
    assert read_yolo_names(tmp_path) is None

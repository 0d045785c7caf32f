"""Pascal VOC XML: pixels counted from 1, what is refused, round trip."""

import re
from pathlib import Path

import pytest

from ssd_train.data.formats.builder import CLIPPED
from ssd_train.data.formats.voc import OTHER_NAME, read_voc, write_voc
from ssd_train.data.structures import ClassNames, Ignored, LabeledImage
from ssd_train.errors import DataError


def element(name="dog", box=(11, 21, 40, 60), more=""):
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def xml(*objects, name="a.jpg", size="<size><width>100</width><height>80</height><depth>3</depth></size>"):
    return f"<annotation><folder>x</folder><filename>{name}</filename>{size}{''.join(objects)}</annotation>"


def folder(tmp_path, *files):
    for index, text in enumerate(files):
        (tmp_path / f"{index}.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return tmp_path


def test_read_voc_pixels_are_counted_from_one(tmp_path):
    labels = read_voc(folder(tmp_path, xml(element(), element("cat", (1, 1, 100, 80)))))
    (record,) = labels.records
    assert record.boxes.tolist() == [[10, 20, 40, 60], [0, 0, 100, 80]]
    assert (record.name, record.size_wh, record.where) == ("a.jpg", (100, 80), str(tmp_path / "0.xml"))
    # sorted by name
    assert labels.class_names.names == ("cat", "dog") and record.class_ids.tolist() == [1, 0]


ODD = {
    "no object": (xml(), []),
    "difficult not told": (xml(element(more="<difficult>Unspecified</difficult>")), [[10, 20, 40, 60]]),
    "parts are no objects": (
        xml(element(more="<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>")),
        [[10, 20, 40, 60]],
    ),
    "floats and blanks": (xml(element(" dog ", (" 11.5 ", "21", "40.25", "6e1"))), [[10.5, 20, 40.25, 60]]),
    "no size": (xml(element(), size=""), [[10, 20, 40, 60]]),
    "one pixel": (xml(element(box=(11, 21, 11, 21))), [[10, 20, 11, 21]]),
    "declaration and comment": ('<?xml version="1.0"?><!-- by hand -->' + xml(element()), [[10, 20, 40, 60]]),
}


@pytest.mark.parametrize("text, boxes", ODD.values(), ids=ODD.keys())
def test_read_voc_odd_file_is_read(tmp_path, text, boxes):
    labels = read_voc(folder(tmp_path, text))
    assert labels.records[0].boxes.tolist() == boxes and not labels.repaired


def test_read_voc_difficult_objects_are_to_be_ignored(tmp_path):
    text = xml(element(more="<difficult>1</difficult>"), element("cat", (1, 1, 9, 9), "<difficult> 0 </difficult>"))
    (record,) = read_voc(folder(tmp_path, text)).records
    assert record.boxes.tolist() == [[0, 0, 9, 9]] and record.class_ids.tolist() == [0]
    assert record.ignored.boxes.tolist() == [[10, 20, 40, 60]] and record.ignored.class_ids.tolist() == [1]
    assert not record.ignored.crowds.any()


def test_write_voc_difficult_objects_are_written(tmp_path):
    ignored = Ignored([[1, 2, 30, 40], [0, 0, 9, 9]], [1, 0], [False, True])
    write_voc(
        tmp_path / "out", [LabeledImage("a.jpg", [[0, 0, 5, 5]], [0], (50, 60), "", ignored)], ClassNames(("a", "b"))
    )
    (record,) = read_voc(tmp_path / "out").records
    assert record.ignored.boxes.tolist() == [[1, 2, 30, 40]] and record.boxes.tolist() == [[0, 0, 5, 5]]


def layout(tmp_path, pictures, files):
    """Pictures, which only their names matter of, and XML files with their filenames (None: no such element)."""
    for name in pictures:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for name, filename in files.items():
        text = xml(element(), name=filename or "")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text if filename else text.replace("<filename></filename>", ""))
    return tmp_path


SISTERS = ["JPEGImages/1.jpg", "JPEGImages/2.jpg"]
# pictures, {XML file: filename}, {XML file: picture} and the XML files of which a disagreement is told
PAIRS = {
    "stale filename": (
        SISTERS,
        {"Annotations/1.xml": "2.jpg", "Annotations/2.xml": "1.jpg"},
        {"Annotations/1.xml": "JPEGImages/1.jpg", "Annotations/2.xml": "JPEGImages/2.jpg"},
        ["Annotations/1.xml", "Annotations/2.xml"],
    ),
    "filename alone": (["old.jpg"], {"x.xml": "old.jpg"}, {"x.xml": "old.jpg"}, []),
    "no filename": (["a.jpg"], {"a.xml": None}, {"a.xml": "a.jpg"}, []),
    "picture without an ending": (
        ["images/n1"],
        {"ann/n1.xml": "old.jpg"},
        {"ann/n1.xml": "images/n1"},
        ["ann/n1.xml"],
    ),
    "same folder": (
        ["x/a.jpg", "y/a.jpg"],
        {"x/a.xml": "a.jpg", "y/a.xml": "a.jpg"},
        {"x/a.xml": "x/a.jpg", "y/a.xml": "y/a.jpg"},
        [],
    ),
    "same subfolder": (
        ["images/x/a.jpg", "images/y/a.jpg"],
        {"labels/x/a.xml": "a.jpg", "labels/y/a.xml": "a.jpg"},
        {"labels/x/a.xml": "images/x/a.jpg", "labels/y/a.xml": "images/y/a.jpg"},
        [],
    ),
    "sister in each split": (
        ["train/JPEGImages/a.jpg", "val/JPEGImages/a.jpg"],
        {"train/Annotations/a.xml": "a.jpg", "val/Annotations/a.xml": "a.jpg"},
        {"train/Annotations/a.xml": "train/JPEGImages/a.jpg", "val/Annotations/a.xml": "val/JPEGImages/a.jpg"},
        [],
    ),
    "filename chooses the ending": (["a.jpg", "a.png"], {"a.xml": "a.png"}, {"a.xml": "a.png"}, []),
    "upper case ending": (["a.jpg"], {"a.XML": "a.jpg"}, {"a.XML": "a.jpg"}, []),
}


@pytest.mark.parametrize("pictures, files, pairs, told", PAIRS.values(), ids=PAIRS.keys())
def test_read_voc_file_belongs_to_the_image_of_its_name(tmp_path, pictures, files, pairs, told):
    layout(tmp_path, pictures, files)
    labels = read_voc(tmp_path, images=tmp_path)
    assert {str(Path(r.where).relative_to(tmp_path)): r.name for r in labels.records} == pairs
    found = [str(Path(line.where).relative_to(tmp_path)) for line in labels.repaired if line.reason == OTHER_NAME]
    assert found == told and len(labels.repaired) == len(told)


NOT_PAIRED = {
    "several": (["x/a.jpg", "y/a.jpg"], {"a.xml": "a.jpg"}, "ambiguous-image"),
    "filename is of another file": (["b.jpg"], {"b.xml": "b.jpg", "a.xml": "b.jpg"}, "missing-image"),
}


@pytest.mark.parametrize("pictures, files, code", NOT_PAIRED.values(), ids=NOT_PAIRED.keys())
def test_read_voc_file_without_its_image_is_an_error(tmp_path, pictures, files, code):
    layout(tmp_path, ["good.jpg", *pictures], {"good.xml": "good.jpg", **files})
    with pytest.raises(DataError, match="^" + re.escape(str(tmp_path / "a.xml"))):
        read_voc(tmp_path, images=tmp_path)
    skipped = read_voc(tmp_path, on_bad="skip", images=tmp_path).skipped
    assert [(line.where, line.code) for line in skipped] == [(str(tmp_path / "a.xml"), code)]


def test_read_voc_counted_from_zero_is_clipped(tmp_path):
    labels = read_voc(folder(tmp_path, xml(element(box=(0, 0, 100, 80)))))
    assert labels.records[0].boxes.tolist() == [[0, 0, 100, 80]]
    assert [line.reason for line in labels.repaired] == [CLIPPED]


def test_read_voc_given_names_order_the_classes(tmp_path):
    path = folder(tmp_path, xml(element("dog")), xml(element("wolf"), name="b.jpg"))
    with pytest.raises(DataError, match="1.xml: class 'wolf' is unknown, expected one of 'dog', 'cat'"):
        read_voc(path, ClassNames(("dog", "cat")))
    assert read_voc(path, ClassNames(("wolf", "dog"))).records[0].class_ids.tolist() == [1]


def test_write_voc_reads_back(tmp_path):
    records = [
        LabeledImage("s3://b/dir/ä & b.jpg", [[0.5, 0, 30.25, 40], [10, 20, 11, 21]], [1, 0], (50, 60)),
        LabeledImage("dir/none.png", [], [], (50, 60)),
    ]
    names = ClassNames(("dog", "cat <1>"))
    write_voc(tmp_path / "out", iter(records), names)
    labels = read_voc(tmp_path / "out", names)
    assert [record.name for record in labels.records] == ["dir/none.png", "dir/ä & b.jpg"]
    for found, record in zip(labels.records, records[::-1]):
        assert found.boxes.tolist() == record.boxes.tolist() and found.class_ids.tolist() == record.class_ids.tolist()
        assert found.size_wh == record.size_wh


REFUSED = {
    "no size": (LabeledImage("a.jpg", [], [], None, "m:1"), ("dog",), "m:1: found no image size"),
    "blank around a class": (LabeledImage("a.jpg", [], [], (5, 5)), ("dog ",), "class 'dog '"),
    "control character in a class": (LabeledImage("a.jpg", [], [], (5, 5)), ("d\x01g",), "class 'd.x01g'"),
    "control character in a name": (
        LabeledImage("a\x01.jpg", [], [], (5, 5), "m:1"),
        ("dog",),
        "m:1: .* cannot stand in XML",
    ),
}


@pytest.mark.parametrize("record, names, message", REFUSED.values(), ids=REFUSED.keys())
def test_write_voc_invalid_text_is_an_error(tmp_path, record, names, message):
    with pytest.raises(DataError, match=message):
        write_voc(tmp_path / "out", [record], ClassNames(names))
    assert list(tmp_path.iterdir()) == []

"""Pascal VOC XML: pixels counted from 1, what is refused, round trip."""

import re

import pytest

from ssd_train.data.formats.fields import CLIPPED
from ssd_train.data.formats.gather import BAD_LINE
from ssd_train.data.formats.voc import read_voc, write_voc
from ssd_train.data.records import ClassNames, Record
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


def test_pixels_are_counted_from_one_and_include_both_ends(tmp_path):
    labels = read_voc(folder(tmp_path, xml(element(), element("cat", (1, 1, 100, 80)))))
    (record,) = labels.records
    assert record.boxes.tolist() == [[10, 20, 40, 60], [0, 0, 100, 80]]
    assert (record.name, record.size_wh, record.where) == ("a.jpg", (100, 80), str(tmp_path / "0.xml"))
    # sorted by name
    assert labels.class_names.names == ("cat", "dog") and record.class_ids.tolist() == [1, 0]


ODD = {
    "no object": (xml(), []),
    "difficult is kept": (xml(element(more="<difficult>1</difficult>")), [[10, 20, 40, 60]]),
    "parts are no objects": (
        xml(element(more="<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>")),
        [[10, 20, 40, 60]],
    ),
    "floats and blanks": (xml(element(" dog ", (" 11.5 ", "21", "40.25", "6e1"))), [[10.5, 20, 40.25, 60]]),
    "no size": (xml(element(), size=""), [[10, 20, 40, 60]]),
    "size 0 x 0": (xml(element(), size="<size><width>0</width><height>0</height></size>"), [[10, 20, 40, 60]]),
    "one pixel": (xml(element(box=(11, 21, 11, 21))), [[10, 20, 11, 21]]),
    "declaration and comment": ('<?xml version="1.0"?><!-- by hand -->' + xml(element()), [[10, 20, 40, 60]]),
}


@pytest.mark.parametrize("text, boxes", ODD.values(), ids=ODD.keys())
def test_odd_file_is_read(tmp_path, text, boxes):
    labels = read_voc(folder(tmp_path, text))
    assert labels.records[0].boxes.tolist() == boxes and not labels.mended


def test_file_counted_from_zero_is_clipped_and_told(tmp_path):
    labels = read_voc(folder(tmp_path, xml(element(box=(0, 0, 100, 80)))))
    assert labels.records[0].boxes.tolist() == [[0, 0, 100, 80]]
    assert [line.reason for line in labels.mended] == [CLIPPED]


ENTITIES = '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;">]>' + xml(element("&y;"), name="b.jpg")
BAD = {
    "empty": ("", "bad XML"),
    "half": (xml(element())[:-20], "bad XML"),
    "text": ("hello", "bad XML"),
    "another root": ("<svg/>", "found the element 'svg', expected annotation"),
    "entities": (ENTITIES, "found a document type"),
    "UTF-16": (xml(element()).encode("utf-16"), "expected plain VOC XML in UTF-8|bad XML"),
    "no filename": (xml(name=" "), "filename: found none"),
    "no name": (xml(element(" ")), "object 0: name: found none"),
    "no bndbox": (xml("<object><name>dog</name></object>"), "object 0: bndbox/xmin: found none"),
    "word": (xml(element(), element(box=("x", 1, 2, 3))), "object 1: bndbox/xmin: found 'x', expected a number"),
    "nan": (xml(element(box=("nan", 1, 2, 3))), "object 0: bndbox/xmin: found 'nan'"),
    "inf": (xml(element(box=(1, 1, "inf", 3))), "object 0: bndbox/xmax: found 'inf'"),
    "underscore": (xml(element(box=(1, 1, "1_0", 3))), "object 0: bndbox/xmax: found '1_0'"),
    "huge": (xml(element(box=(1, 1, "1e300", 3))), "object 0: bndbox/xmax: found 1e[+]300"),
    "inverted": (xml(element(box=(40, 21, 11, 60))), "object 0: found width -28"),
    "width negative": (xml(size="<size><width>-5</width><height>80</height></size>"), "width: found -5"),
    "width a fraction": (xml(size="<size><width>5.5</width><height>80</height></size>"), "width: found 5.5"),
    "height a fraction": (xml(size="<size><width>5</width><height>8.5</height></size>"), "height: found 8.5"),
    "no height": (xml(size="<size><width>5</width></size>"), "size/height: found none"),
}


@pytest.mark.parametrize("text, message", BAD.values(), ids=BAD.keys())
def test_bad_file_is_an_error_or_skipped(tmp_path, text, message):
    path = folder(tmp_path, xml(element(), name="good.jpg"), text)
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path / '1.xml'))}: .*({message})"):
        read_voc(path)
    labels = read_voc(path, on_bad="skip")
    assert [record.name for record in labels.records] == ["good.jpg"]
    assert [(line.where, line.reason) for line in labels.skipped] == [(str(tmp_path / "1.xml"), BAD_LINE)]


def test_given_names_order_the_classes_and_refuse_others(tmp_path):
    path = folder(tmp_path, xml(element("dog")), xml(element("wolf"), name="b.jpg"))
    with pytest.raises(DataError, match="1.xml: class 'wolf' is unknown, expected one of 'dog', 'cat'"):
        read_voc(path, ClassNames(("dog", "cat")))
    assert read_voc(path, ClassNames(("wolf", "dog"))).records[0].class_ids.tolist() == [1]


def test_folder_without_xml_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"found no \*\.xml"):
        read_voc(tmp_path)


def test_written_set_reads_back(tmp_path):
    records = [
        Record("s3://b/dir/ä & b.jpg", [[0.5, 0, 30.25, 40], [10, 20, 11, 21]], [1, 0], (50, 60)),
        Record("dir/none.png", [], [], (50, 60)),
    ]
    names = ClassNames(("dog", "cat <1>"))
    assert write_voc(tmp_path / "out", iter(records), names) == 2
    labels = read_voc(tmp_path / "out", names)
    assert [record.name for record in labels.records] == ["dir/none.png", "dir/ä & b.jpg"]
    for found, record in zip(labels.records, records[::-1]):
        assert found.boxes.tolist() == record.boxes.tolist() and found.class_ids.tolist() == record.class_ids.tolist()
        assert found.size_wh == record.size_wh


REFUSED = {
    "no size": (Record("a.jpg", [], [], None, "m:1"), ("dog",), "m:1: found no image size"),
    "blank around a class": (Record("a.jpg", [], [], (5, 5)), ("dog ",), "class 'dog '"),
    "control character in a class": (Record("a.jpg", [], [], (5, 5)), ("d\x01g",), "class 'd.x01g'"),
    "control character in a name": (
        Record("a\x01.jpg", [], [], (5, 5), "m:1"),
        ("dog",),
        "m:1: .* cannot stand in XML",
    ),
}


@pytest.mark.parametrize("record, names, message", REFUSED.values(), ids=REFUSED.keys())
def test_what_xml_cannot_hold_is_refused_and_leaves_nothing(tmp_path, record, names, message):
    with pytest.raises(DataError, match=message):
        write_voc(tmp_path / "out", [record], ClassNames(names))
    assert list(tmp_path.iterdir()) == []

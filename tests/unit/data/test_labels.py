"""The door for labels: every format is found by looking, read alike, and what is unclear is said in one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.data import label_set, memory_images, picture, write_files, write_yolo_beside

from ssd_train.builtin_algorithm import CONTENT_TYPES
from ssd_train.config import LABEL_FORMATS
from ssd_train.data.formats.coco import write_coco
from ssd_train.data.formats.ground_truth import write_ground_truth
from ssd_train.data.formats.image_json import write_image_json
from ssd_train.data.formats.recordio import write_recordio
from ssd_train.data.formats.voc import write_voc
from ssd_train.data.image_io import encode_png
from ssd_train.data.labels import (
    EXPECTED,
    LabelOptions,
    align_classes,
    detect_format,
    load_labels,
    pad_classes,
    parse_class_names,
    read_labels,
)
from ssd_train.data.structures import ClassNames
from ssd_train.errors import ConfigError, DataError

LABELS = label_set([[[1, 2, 20, 12], [5, 5, 15, 25]], [[0, 0, 40, 30]], []], [[0, 1], [1], []])


def write_images(folder):
    images = memory_images(LABELS)
    return write_files(folder, {record.name: images.read(record) for record in LABELS.records})


WRITERS = {
    "ground_truth": lambda folder: write_ground_truth(folder / "x.manifest", LABELS.records, LABELS.class_names),
    "image_json": lambda folder: write_image_json(folder, LABELS.records, LABELS.class_names),
    "recordio": lambda folder: (
        write_recordio(folder / "x.rec", LABELS.records, memory_images(LABELS)),
        (folder / "x.names").write_text("cat\ndog\n"),
    ),
    "coco": lambda folder: write_coco(folder / "instances.json", LABELS.records, LABELS.class_names),
    "voc": lambda folder: write_voc(folder, LABELS.records, LABELS.class_names),
    "yolo": lambda folder: write_yolo_beside(folder, LABELS),
}


def assert_same(labels):
    assert list(labels.class_names) == ["cat", "dog"]
    assert [record.basename for record in labels.records] == [record.name for record in LABELS.records]
    for record, expected in zip(labels.records, LABELS.records):
        np.testing.assert_allclose(record.boxes, expected.boxes, atol=1e-4)
        np.testing.assert_array_equal(record.class_ids, expected.class_ids)


def test_settings_name_the_formats_that_there_are():
    assert set(LABEL_FORMATS) == set(EXPECTED)
    assert set(CONTENT_TYPES.values()) <= set(EXPECTED)


@pytest.mark.parametrize("format", LABEL_FORMATS)
def test_labels_beside_their_images_in_two_folders(tmp_path, format):
    images = write_images(tmp_path / "images")
    WRITERS[format](tmp_path / "labels")

    found = load_labels(images, tmp_path / "labels")

    assert found.labels.details["format"] == format
    assert_same(found.labels)
    for index, record in enumerate(found.labels.records):
        assert found.images.read(record) == encode_png(picture((40, 30), index))


@pytest.mark.parametrize("format", [name for name in LABEL_FORMATS if name not in ("image_json", "voc")])
def test_one_folder_that_holds_both(tmp_path, format):
    write_images(tmp_path)
    WRITERS[format](tmp_path)

    found = load_labels(tmp_path, None)

    assert_same(found.labels)
    assert all(found.images.read(record) for record in found.labels.records)


@pytest.mark.parametrize("images", ["x.manifest", "./x.manifest"])
def test_one_file_given_as_images_and_labels(tmp_path, monkeypatch, images):
    monkeypatch.chdir(tmp_path)
    write_ground_truth("x.manifest", LABELS.records, LABELS.class_names)
    assert load_labels(images, "x.manifest").images.root == str(tmp_path)


@pytest.mark.parametrize("images, found", [("notes.txt", "a file"), ("none", "nothing")])
def test_images_that_are_no_folder(tmp_path, images, found):
    write_ground_truth(tmp_path / "x.manifest", LABELS.records, LABELS.class_names)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=f"{images}: found {found}, expected a folder of images"):
        load_labels(tmp_path / images, tmp_path / "x.manifest")


@pytest.mark.parametrize(
    "name, text, format",
    [
        pytest.param("a.rec", b"", "recordio", id="rec-by-ending"),
        pytest.param("part-0", b"\x0a\x23\xd7\xce\x00", "recordio", id="rec-by-its-magic"),
        pytest.param("a.manifest", b"", "ground_truth", id="manifest-by-ending"),
        pytest.param("all.json", b'{"a": 1, "source-ref": "b"}\n', "ground_truth", id="manifest-called-json"),
        pytest.param("a.txt", b'\xef\xbb\xbf{"source-ref": "b"}\n', "ground_truth", id="manifest-called-txt"),
        pytest.param("a.json", b'{"info": {}, "images": [', "coco", id="coco"),
        pytest.param("a.json", b'\n {\n "categories": [', "coco", id="coco-printed"),
    ],
)
def test_format_of_a_file(tmp_path, name, text, format):
    (tmp_path / name).write_bytes(text)

    assert detect_format(tmp_path / name) == (format, tmp_path / name)


@pytest.mark.parametrize(
    "files, message",
    [
        pytest.param({}, "found no file, expected labels: a Ground Truth manifest", id="empty-folder"),
        pytest.param({"a.png": "", "b.png": "", "c.csv": ""}, "found 2 .png, 1 .csv, expected", id="images-only"),
        pytest.param({"a.rec": "", "b.rec": ""}, "found 2 times a detection .rec (a.rec, b.rec)", id="two-recs"),
        pytest.param({"a.rec": "", "b.manifest": ""}, "ground_truth, recordio (b.manifest, a.rec)", id="two-formats"),
        pytest.param({"a.xml": "<html>", "b.txt": "notes"}, "found 1 .xml, 1 .txt", id="other-xml-and-txt"),
        pytest.param({"a.json": "[1]", "b.json": '{"x": 1}'}, "found 2 .json", id="other-json"),
        pytest.param(
            {"a.json": '{"version": "5.4.1", "flags": {}, "shapes": [], "imagePath": "a.jpg"}'},
            "with a.json in the format of labelme",
            id="labelme",
        ),
        pytest.param(
            {"annotations.xml": '<annotations><version>1.1</version><image id="0" name="a.jpg"/></annotations>'},
            "with annotations.xml in the format of CVAT",
            id="cvat-for-images",
        ),
    ],
)
def test_unclear_folder(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    with pytest.raises(DataError) as error:
        detect_format(tmp_path)

    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}: ")


@pytest.mark.parametrize(
    "name, text, message",
    [
        pytest.param("a.txt", "hello", "found text beginning b'hello', expected a Ground Truth", id="text"),
        pytest.param("a.zip", "PK\3\4", "found a zip archive (unpack it first), expected a Ground Truth", id="zip"),
        pytest.param("a.json", "", "found an empty file", id="empty"),
        pytest.param("a.json", '{"file": "a.png", "annotations": []}', "expected a Ground Truth", id="one-image-json"),
        pytest.param("missing", None, "not found, expected labels: a Ground Truth", id="missing"),
    ],
)
def test_unclear_file(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)

    with pytest.raises(DataError) as error:
        read_labels(tmp_path / name)

    assert message in str(error.value)


def test_the_format_that_is_named_decides(tmp_path):
    WRITERS["ground_truth"](tmp_path)
    WRITERS["recordio"](tmp_path)

    assert load_labels(None, tmp_path, LabelOptions("recordio")).labels.details["format"] == "recordio"
    assert load_labels(None, tmp_path, LabelOptions("ground_truth")).labels.details["format"] == "ground_truth"
    with pytest.raises(DataError, match="expected labels: a COCO .json"):
        load_labels(None, tmp_path, LabelOptions("coco"))
    with pytest.raises(ConfigError, match="labels_format: found 'csv', expected one of ground_truth"):
        LabelOptions("csv")


def test_output_folder_of_a_labelling_job(tmp_path):
    write_ground_truth(tmp_path / "manifests/output/output.manifest", LABELS.records, LABELS.class_names)
    response = tmp_path / "annotations" / "worker-response" / "0.json"
    response.parent.mkdir(parents=True)
    response.write_text(json.dumps({"answers": [{"annotations": []}]}))
    shutil.copy(tmp_path / "manifests/output/output.manifest", tmp_path / "annotations" / "part.manifest")

    assert detect_format(tmp_path) == ("ground_truth", tmp_path / "manifests/output/output.manifest")


@pytest.mark.parametrize("format", LABEL_FORMATS)
def test_class_names_that_are_given(tmp_path, format):
    write_images(tmp_path / "images")
    WRITERS[format](tmp_path / "labels")
    if format == "yolo":
        (tmp_path / "labels" / "classes.txt").unlink()
    by_name = format in ("ground_truth", "coco", "voc")
    names = ClassNames(("dog", "bird", "cat") if by_name else ("cat", "dog", "bird"))

    labels = load_labels(tmp_path / "images", tmp_path / "labels", LabelOptions(class_names=names)).labels

    assert labels.class_names == names
    called = [labels.class_names[class_id] for record in labels.records for class_id in record.class_ids]
    assert called == ["cat", "dog", "dog"]


def test_labels_without_an_object_are_refused(tmp_path):
    write_ground_truth(tmp_path / "x.manifest", LABELS.records[2:], ClassNames(()))

    with pytest.raises(DataError, match="found no labelled object in 1 images"):
        read_labels(tmp_path)


@pytest.mark.parametrize(
    "own, given, expected",
    [
        pytest.param(("dog", "cat"), ("cat", "dog"), ["dog", "cat", "cat"], id="by-name-in-another-order"),
        pytest.param(("class_0", "class_1"), ("cat", "dog"), ["cat", "dog", "dog"], id="without-names-by-id"),
        pytest.param(("class_0", "class_1"), ("class_1", "class_0"), ["class_0", "class_1", "class_1"], id="so-called"),
        pytest.param(("cat", "dog"), ("class_0", "class_1"), ["class_0", "class_1", "class_1"], id="names-here-only"),
        pytest.param(("cat", "dog"), ("cat", "class_1", "cow"), ["cat", "class_1", "class_1"], id="a-gap-there"),
        pytest.param(("cat", "dog"), ("class_0", "cat"), "found class 'dog' (2 boxes)", id="ids-that-differ"),
        pytest.param(("class_0", "class_1"), ("cat",), "found class id 1 (2 boxes)", id="unknown-id"),
    ],
)
def test_classes_of_validation(own, given, expected):
    labels = label_set([[[1, 2, 20, 12], [5, 5, 15, 25]], [[0, 0, 40, 30]]], [[0, 1], [1]], class_names=own)
    if isinstance(expected, str):
        with pytest.raises(DataError) as error:
            align_classes(labels, ClassNames(given))
        assert expected in str(error.value)
        return

    matched = align_classes(labels, ClassNames(given))

    assert [matched.class_names[i] for record in matched.records for i in record.class_ids] == expected
    assert matched.class_names == ClassNames(given)


@pytest.mark.parametrize("format", ["coco", "voc"])
def test_matched_to_labels_without_class_ids_of_their_own_go_by_name_only(format):
    labels = replace(label_set([[[1, 2, 20, 12]]], [[0]]), details={"format": format})
    with pytest.raises(DataError, match="found class 'cat'"):
        align_classes(labels, ClassNames(("class_0", "class_1")))


@pytest.mark.parametrize(
    "format, names, expected",
    [
        ("recordio", ("class_0",), ("class_0", "class_1", "class_2")),
        ("ground_truth", ("cat",), ("cat", "class_1", "class_2")),
        ("pipe", ("a", "b", "c", "d"), ("a", "b", "c", "d")),
        ("coco", ("cat",), ("cat",)),
        ("voc", ("cat",), ("cat",)),
    ],
)
def test_with_class_count_more_classes_than_seen_are_added_where_ids_count_from_0(format, names, expected):
    labels = replace(label_set([[]], class_names=names), details={"format": format})
    assert pad_classes(labels, 3).class_names.names == expected


@pytest.mark.parametrize(
    "text, names",
    [("", None), ("a", ("a",)), (" a, b c ,d", ("a", "b c", "d")), ("a,,b", "not blank"), ("a,a", "twice")],
)
def test_class_names_in_one_text(text, names):
    if isinstance(names, str):
        with pytest.raises(ConfigError, match=f"class_names: .*{names}"):
            parse_class_names(text)
    else:
        assert parse_class_names(text) == (names and ClassNames(names))


@pytest.mark.parametrize(
    "data, message",
    [(b"cat\n\ndog\n", "not blank"), (b"cat\ncat", "twice"), (b"\xff", "expected UTF-8")],
    ids=["blank", "twice", "not-utf-8"],
)
def test_broken_names_beside_a_rec(tmp_path, data, message):
    WRITERS["recordio"](tmp_path)
    Path(tmp_path / "x.names").write_bytes(data)

    with pytest.raises(DataError, match=message) as error:
        read_labels(tmp_path / "x.rec")
    assert str(error.value).startswith(str(tmp_path / "x.names"))

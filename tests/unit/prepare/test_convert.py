"""Any format as any other that can hold it: the same boxes come back, and what is lost is said."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
from helpers import manifests
from helpers.data import label_set, memory_images, picture, write_yolo_beside
from helpers.images import with_exif
from PIL import Image, ImageOps

from ssd_train.cli.main import main
from ssd_train.data.formats.ground_truth import read_ground_truth, write_ground_truth
from ssd_train.data.image_io import encode_png
from ssd_train.data.image_sources import FolderImages, MemoryImages
from ssd_train.data.labels import LabeledDataset, load_labels
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.errors import ConfigError, DataError
from ssd_train.prepare.convert import WRITERS, convert, copy_images, with_sizes
from ssd_train.prepare.merge import join

BOX = {"left": 1, "top": 2, "width": 19, "height": 43, "class-id": "0"}
LABELS = label_set([[[1, 2, 20, 12], [5.25, 5, 15, 25]], [[0, 0, 40, 30]], []], [[0, 1], [1], []])


def data(labels=LABELS, **changes):
    return LabeledDataset(dataclasses.replace(labels, **changes), memory_images(labels))


def test_convert_to_coco_leaves_out_crowds_of_other_classes(tmp_path, capsys):
    """Their class has no id in the file; -1 would be that of the last."""
    crowd = {"image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], "iscrowd": 1}
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10]}, {"id": 2, **crowd}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "bird"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    (tmp_path / "a.png").write_bytes(encode_png(picture((40, 30), 1)))
    flags = ["--labels", str(tmp_path / "a.json"), "--images", str(tmp_path), "--class_names", "cat,dog"]
    assert main(["prepare", "convert", *flags, "--to", "coco", "--output", str(tmp_path / "b.json")]) == 0
    written = json.loads((tmp_path / "b.json").read_text())
    assert [(row["category_id"], row["iscrowd"]) for row in written["annotations"]] == [(1, 0)]
    assert "1 crowds of other classes" in capsys.readouterr().out


def renamed(*names):
    records = [dataclasses.replace(record, name=name) for record, name in zip(LABELS.records, names)]
    return dataclasses.replace(LABELS, records=tuple(records))


def output(folder, format):
    return folder / f"{format}{WRITERS[format]}"


GAP = label_set([[[1, 2, 20, 12]], [[0, 0, 40, 30]]], [[0], [3]], class_names=("cat", "class_1", "class_2", "dog"))


@pytest.mark.parametrize("target, names", [*((name, GAP.class_names.names) for name in WRITERS if name != "voc")])
def test_convert_class_ids_with_a_gap_stay(tmp_path, target, names):
    convert(data(GAP), target, output(tmp_path, target))
    copy_images(data(GAP), tmp_path / "images")

    found = load_labels(tmp_path / "images", output(tmp_path, target)).labels

    assert found.class_names.names == names and [r.class_ids.tolist() for r in found.records] == [[0], [3]]


def test_convert_to_yolo_of_an_image_labelled_as_stored_keeps_what_is_in_the_box(tmp_path):
    """Its EXIF orientation turns it in every program that reads YOLO labels."""
    white = np.zeros((300, 400, 3), np.uint8)
    white[50:150, 100:300] = 255
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(with_exif(white, 6))
    record = LabeledImage("a.jpg", [[100, 50, 300, 150]], [0], (400, 300))
    given = LabeledDataset(Labels((record,), ClassNames(("cat",))), FolderImages(tmp_path / "in"))
    convert(copy_images(given, tmp_path / "out" / "images"), "yolo", tmp_path / "out" / "labels")
    with Image.open(tmp_path / "out" / "images" / "a.jpg") as image:
        shown = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    (line,) = (tmp_path / "out" / "labels").rglob("a.txt")
    _, x, y, width, height = map(float, line.read_text().split())
    rows, columns = shown.shape[:2]
    assert (columns, rows) == (400, 300)
    box = [int(part) for part in ((y - height / 2) * rows, (y + height / 2) * rows)]
    sides = [int(part) for part in ((x - width / 2) * columns, (x + width / 2) * columns)]
    assert shown[box[0] + 3 : box[1] - 3, sides[0] + 3 : sides[1] - 3].min() > 200
    assert shown.mean() < 80


def test_convert_gap_is_not_named_in_a_manifest_so_that_join_lets_the_ids_stay(tmp_path):
    convert(data(GAP), "ground_truth", tmp_path / "a.manifest")
    line = manifests.line("x.jpg", [(2, 1, 1, 5, 5)], {2: "emu"}, "bounding-box")
    other = manifests.write(tmp_path / "b.manifest", [line])

    assert join([tmp_path / "a.manifest", other], tmp_path / "c.manifest").renumbered == {}
    found = read_ground_truth(tmp_path / "c.manifest")
    assert found.class_names.names == ("cat", "class_1", "emu", "dog")
    assert [record.class_ids.tolist() for record in found.records] == [[0], [3], [2]]


def test_convert_coco_to_coco_keeps_the_ids_of_the_categories(tmp_path):
    labels = dataclasses.replace(LABELS, category_ids={"cat": 17, "dog": 90})
    convert(data(labels), "coco", tmp_path / "a.json")
    arguments = ["--labels", f"{tmp_path}/a.json", "--to", "coco", "--output", f"{tmp_path}/b.json"]
    assert main(["prepare", "convert", *arguments]) == 0
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()
    assert [c["id"] for c in json.loads((tmp_path / "b.json").read_text())["categories"]] == [17, 90]


@pytest.mark.parametrize(
    "changes, target, expected",
    [
        pytest.param({}, "coco", [], id="nothing"),
        pytest.param({}, "recordio", ["names are in the .names"], id="recordio-names"),
        pytest.param({"class_names": ClassNames(("cat", "dog", "emu"))}, "voc", ["not emu"], id="voc-empty-class"),
        pytest.param({"class_names": ClassNames(("dog", "cat"))}, "voc", ["read as cat, dog"], id="voc-order"),
        pytest.param({"class_names": ClassNames(("cat", "dog", "emu"))}, "image_json", [], id="json-keeps-classes"),
        pytest.param({"details": {"format": "voc"}}, "coco", ["truncated"], id="from-voc"),
        pytest.param({"details": {"other_attributes": "a (b)"}}, "coco", ["other jobs: a (b)"], id="other-jobs"),
        pytest.param(
            {"details": {"format": "recordio"}}, "coco", ["beyond the five", "--output_images"], id="from-recordio"
        ),
    ],
)
def test_convert_returns_a_line_for_each_loss(tmp_path, changes, target, expected):
    lost = convert(data(**changes), target, output(tmp_path, target))

    assert len(lost) == len(expected)
    assert all(text in line for line, text in zip(lost, expected))


def test_skipped_and_repaired_are_counted(tmp_path):
    manifest = tmp_path / "x.manifest"
    write_ground_truth(manifest, LABELS.records, LABELS.class_names)
    text = manifest.read_text().replace('"left":1,', '"left":-9,')
    manifest.write_text(text + text.split("\n")[1] + "\n")

    lost = convert(load_labels(tmp_path, manifest), "coco", tmp_path / "x.json")

    assert f"skipped 1: duplicate line (first: {manifest}:4)" in lost
    assert f"repaired 1: box clipped to the image (first: {manifest}:1)" in lost


@pytest.mark.parametrize(
    "target, output_name, labels, kind, message",
    [
        pytest.param("cvat", "x", LABELS, ConfigError, "to: found 'cvat', expected one of ground_truth", id="target"),
        pytest.param("coco", "x.txt", LABELS, ConfigError, "expected a file named *.json", id="ending"),
        pytest.param("recordio", "x", LABELS, ConfigError, "expected a file named *.rec", id="rec-ending"),
        pytest.param(
            "coco",
            "x.json",
            renamed("s3://a/x.png", "s3://b/x.png", "y.png"),
            DataError,
            "have the path x.png",
            id="same-key",
        ),
    ],
)
def test_convert_unwritable_labels_are_an_error(tmp_path, target, output_name, labels, kind, message):
    with pytest.raises(kind) as error:
        convert(LabeledDataset(labels, MemoryImages({})), target, tmp_path / output_name)

    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_sizes_come_from_the_images_where_they_are_needed(tmp_path):
    labels = label_set([[[1, 2, 20, 45]], []], size_wh=None)
    known = LabeledDataset(labels, MemoryImages({r.name: encode_png(picture((40, 30))) for r in labels.records}))

    lost = convert(known, "voc", tmp_path / "voc")

    read = load_labels(None, tmp_path / "voc").labels
    np.testing.assert_array_equal(read.records[0].boxes, [[1, 2, 20, 30]])
    assert read.records[1].size_wh == (40, 30)
    assert any("clipped" in line for line in lost)
    assert [record.size_wh for record in with_sizes(known).records] == [(40, 30)] * 2


def test_images_of_a_rec_as_files(tmp_path):
    convert(data(), "recordio", tmp_path / "x.rec")
    (tmp_path / "x.lst").unlink()
    command = ["prepare", "convert", "--from", "recordio", "--to", "ground_truth", "--labels", str(tmp_path / "x.rec")]
    files = ["--output", str(tmp_path / "x.manifest"), "--output_images", str(tmp_path / "images")]

    assert main([*command, *files]) == 0

    names = [record.name for record in read_ground_truth(tmp_path / "x.manifest").records]
    assert names == [f"x/{number:08}.png" for number in (1, 2, 3)]
    for name, record in zip(names, LABELS.records):
        assert (tmp_path / "images" / name).read_bytes() == memory_images(LABELS).read(record)


def test_recordio_is_written_in_constant_memory(tmp_path):
    class Large:
        def read(self, record):
            return encode_png(picture((400, 300), int(record.basename.partition(".")[0])))  # 360 kB of noise

        def locate(self, record):
            return record.name

    def peak(count):
        records = tuple(dataclasses.replace(LABELS.records[2], name=f"{i}.png", size_wh=None) for i in range(count))
        labels = Labels(records, LABELS.class_names)
        tracemalloc.start()
        convert(LabeledDataset(labels, Large()), "recordio", tmp_path / f"{count}.rec")
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    few, many = peak(3), peak(30)

    assert (tmp_path / "30.rec").stat().st_size > 10_000_000
    assert many < few + 1_000_000


def test_video_frames_become_a_manifest(tmp_path):
    images, annotations = tmp_path / "images", tmp_path / "job" / "annotations"
    images.mkdir()
    (images / "f0.png").write_bytes(encode_png(picture((40, 30))))
    annotations.mkdir(parents=True)
    frame = {"frame": "f0.png", "frame-no": "0", "annotations": [BOX]}
    (annotations / "SeqLabel.json").write_text(json.dumps({"detection-annotations": [frame]}))
    metadata = {"class-map": {"0": "car"}, "type": "groundtruth/video-object-detection"}
    line = {"source-ref": "s3://b/v/seq.json", "Cars-ref": "s3://o/annotations/SeqLabel.json"}
    (tmp_path / "job" / "output.manifest").write_text(json.dumps({**line, "Cars-ref-metadata": metadata}))
    command = ["prepare", "convert", "--from", "video", "--to", "ground_truth", "--labels", str(tmp_path / "job")]

    assert main([*command, "--output", str(tmp_path / "a.manifest")]) == 0
    assert main([*command, "--output", str(tmp_path / "b.manifest"), "--images", str(images)]) == 0

    blind, sized = (read_ground_truth(tmp_path / f"{name}.manifest") for name in "ab")
    assert blind.details["label_attribute"] == "Cars"
    assert blind.records[0].size_wh is None and sized.records[0].size_wh == (40, 30)
    np.testing.assert_array_equal(blind.records[0].boxes, [[1, 2, 20, 45]])
    np.testing.assert_array_equal(sized.records[0].boxes, [[1, 2, 20, 30]])


@pytest.mark.parametrize(
    "source, target",
    [
        *((source, "ground_truth") for source in [*WRITERS, "yolo beside"]),
        *(("ground_truth", target) for target in WRITERS if target != "ground_truth"),
    ],
)
def test_convert_each_format_read_and_written_keeps_the_labels(tmp_path, source, target):
    images = tmp_path / "images"
    copy_images(data(), images)
    if source == "yolo beside":
        source, first = "yolo", tmp_path / "yolo"
        copy_images(data(), first)
        write_yolo_beside(first, LABELS)
    else:
        first = output(tmp_path, source)
        convert(data(), source, first)
    command = ["prepare", "convert", "--from", source, "--to", target, "--labels", str(first)]
    there = output(tmp_path / "there", target)

    assert main([*command, "--images", str(images), "--output", str(there)]) == 0

    found = load_labels(images, there)
    assert list(found.labels.class_names) == ["cat", "dog"]
    assert [record.name for record in found.labels.records] == [record.name for record in LABELS.records]
    for record, expected in zip(found.labels.records, LABELS.records):
        np.testing.assert_allclose(record.boxes, expected.boxes, atol=1e-4)
        np.testing.assert_array_equal(record.class_ids, expected.class_ids)
        assert found.images.read(record) == memory_images(LABELS).read(expected)


def test_convert_to_yolo_writes_images_of_folders_named_images_where_their_labels_are(tmp_path):
    labels = tmp_path / "labels.manifest"
    renamed = [dataclasses.replace(record, name=f"s3://bucket/set/images/{record.name}") for record in LABELS.records]
    write_ground_truth(labels, renamed, LABELS.class_names, "boxes")
    copy_images(data(), tmp_path / "images")
    command = ["prepare", "convert", "--labels", str(labels), "--images", str(tmp_path / "images"), "--to", "yolo"]
    out = tmp_path / "out"

    assert main([*command, "--output", str(out), "--output_images", str(out / "images")]) == 0

    images = sorted(path.relative_to(out / "images") for path in (out / "images").rglob("*.*"))
    written = sorted(path.relative_to(out / "labels") for path in (out / "labels").rglob("*.txt"))
    assert [path.with_suffix("") for path in images] == [path.with_suffix("") for path in written]
    assert len(images) == len(LABELS.records) and not any("images" in path.parts for path in images)

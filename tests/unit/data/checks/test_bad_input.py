"""Small broken files for every door but Ground Truth's, whose corpus is test_check.py's: the code that `check` gives to
each, and the place it names. The good image beside the bad one is kept as it is."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from helpers.data import FifoWriter, framed, write_files

from ssd_train.data.checks.codes import CODES
from ssd_train.data.checks.labels import skipped_findings
from ssd_train.data.checks.runner import unreadable_labels_result
from ssd_train.data.formats.builder import BAD_LINE, TOO_SMALL
from ssd_train.data.formats.video import read_video_frames
from ssd_train.data.image_io import encode_png
from ssd_train.data.labels import read_labels
from ssd_train.data.pipe.channel import SpillFile, read_channel
from ssd_train.errors import DataError

PNG = encode_png(np.zeros((80, 100, 3), np.uint8))
GOOD_BOX = [10.0, 20.0, 40.0, 60.0]  # xyxy pixels of the good image


# --- image and JSON -----------------------------------------------------------------------------------------------
JSON_BOX = {"class_id": 0, "left": 10, "top": 20, "width": 30, "height": 40}


def image_json(file="bad.png", *boxes, **changes):
    sizes = [{"width": 100, "height": 80, "depth": 3}]
    classes = [{"class_id": 0, "name": "cat"}]
    label = {"file": file, "image_size": sizes, "annotations": list(boxes or [JSON_BOX]), "categories": classes}
    return {**label, **changes}


BAD_IMAGE_JSON = {
    "no JSON": ("hello", "bad-line"),
    "an array": ([image_json()], "bad-line"),
    "a key twice": ('{"file": "a", "file": "b"}', "bad-line"),
    "no annotations": ({"file": "bad.png"}, "bad-line"),
    "file null": (image_json(None), "bad-image-name"),
    "file a number": (image_json(5), "bad-image-name"),
    "text": (image_json("bad.png", {**JSON_BOX, "left": "10"}), "bad-coordinates"),
    "NaN": (json.dumps(image_json("bad.png", {**JSON_BOX, "top": 0.5})).replace("0.5", "NaN"), "bad-coordinates"),
    "width below 0": (image_json("bad.png", {**JSON_BOX, "width": -1}), "box-degenerate"),
    "class a word": (image_json("bad.png", {**JSON_BOX, "class_id": "cat"}), "unknown-class"),
    "categories an object": (image_json(categories={}), "bad-line"),
    "category without id": (image_json(categories=[{"name": "dog"}]), "bad-line"),
    "sizes no list": (image_json(image_size={"width": 100, "height": 80}), "bad-image-size"),
    "image again, other boxes": (image_json("good.png", {**JSON_BOX, "left": 1}), "conflicting-duplicate"),
    "image again": (image_json("good.png"), "duplicate-line"),
}


@pytest.mark.parametrize("content, code", BAD_IMAGE_JSON.values(), ids=BAD_IMAGE_JSON.keys())
def test_check_bad_image_json_has_its_code_and_place(tmp_path, content, code):
    write_files(tmp_path, {"0.json": image_json("good.png"), "1.json": content})
    assert told(lambda policy: read_labels(tmp_path, None, policy)) == [(code, str(tmp_path / "1.json"))]


# --- COCO ---------------------------------------------------------------------------------------------------------
COCO_BOX = {"id": 1, "image_id": 2, "category_id": 1, "bbox": [10, 20, 30, 40]}
COCO_IMAGE = {"id": 2, "file_name": "bad.png", "width": 100, "height": 80}


def coco_box(**changes):
    return COCO_IMAGE, {**COCO_BOX, **changes}


def coco_image(**changes):
    return {**COCO_IMAGE, **changes}, COCO_BOX


BAD_COCO = {
    "text": (*coco_box(bbox=["10", 20, 30, 40]), "bad-coordinates", "images[1]"),
    "no bbox": (*coco_box(bbox=None), "bad-coordinates", "images[1]"),
    "height below 0": (*coco_box(bbox=[10, 20, 30, -40]), "box-degenerate", "images[1]"),
    "category unknown": (*coco_box(category_id=9), "unknown-class", "images[1]"),
    "category null": (*coco_box(category_id=None), "unknown-class", "images[1]"),
    "iscrowd a word": (*coco_box(iscrowd="no"), "bad-line", "images[1]"),
    "a crowd only, without a box": (*coco_box(iscrowd=1, bbox=None), "image-dropped", "images[1]"),
    "box outside": (*coco_box(bbox=[500, 20, 30, 40]), "image-dropped", "images[1]"),
    "box of no image": (*coco_box(image_id=7), "bad-line", "annotations[1]"),
    "image a number": (5, COCO_BOX, "bad-line", "images[1]"),
    "image without id": (*coco_image(id=None), "bad-line", "images[1]"),
    "id twice": (*coco_image(id=1), "bad-line", "images[1]"),
    "height 0": (*coco_image(height=0), "bad-image-size", "images[1]"),
    "no file_name": (*coco_image(file_name=None), "bad-image-name", "images[1]"),
    "file_name with NUL": (*coco_image(file_name="a\0b"), "bad-image-name", "images[1]"),
    "file_name twice": (*coco_image(file_name="good.png", width=90), "conflicting-duplicate", "images[1]"),
}


@pytest.mark.parametrize("image, box, code, where", BAD_COCO.values(), ids=BAD_COCO.keys())
def test_check_bad_coco_has_its_code_and_place(tmp_path, image, box, code, where):
    good = {**COCO_IMAGE, "id": 1, "file_name": "good.png"}, {**COCO_BOX, "image_id": 1}
    categories = [{"id": 1, "name": "cat"}]
    write_files(
        tmp_path, {"a.json": {"images": [good[0], image], "annotations": [good[1], box], "categories": categories}}
    )
    # an annotation whose image is bad names no image that is known
    found = [
        line for line in told(lambda policy: read_labels(tmp_path / "a.json", None, policy)) if line[1].endswith(where)
    ]
    assert found == [(code, f"{tmp_path / 'a.json'}:{where}")]


# --- Pascal VOC ---------------------------------------------------------------------------------------------------
def voc_object(box, thing="cat"):
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{thing}</name><bndbox>{corners}</bndbox></object>"


def voc(name="bad.png", box=(11, 21, 40, 60), size=(100, 80), thing="cat"):
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"<annotation><filename>{name}</filename>{sides}{voc_object(box, thing)}</annotation>"


BAD_VOC = {
    "empty": ("", "bad-line"),
    "another root": ("<svg/>", "bad-line"),
    "entities": ('<!DOCTYPE a [<!ENTITY x "y">]>' + voc(), "bad-line"),
    "difficult a word": (voc().replace("<bndbox>", "<difficult>maybe</difficult><bndbox>"), "bad-line"),
    "no box": (voc().replace("bndbox", "polygon"), "bad-line"),
    "underscore": (voc(box=("1_1", 21, 40, 60)), "bad-coordinates"),
    "no name of the class": (voc(thing=" "), "bad-line"),
    "name with NUL": (voc("a&#0;.jpg"), "bad-line"),
    "word": (voc(box=("x", 21, 40, 60)), "bad-coordinates"),
    "inf": (voc(box=(11, 21, "inf", 60)), "bad-coordinates"),
    "inverted": (voc(box=(40, 21, 11, 60)), "box-degenerate"),
    "width below 0": (voc(size=(-5, 80)), "bad-image-size"),
    "height a fraction": (voc(size=(100, 80.5)), "bad-image-size"),
    "image again, other boxes": (voc("good.png", (1, 1, 40, 60)), "conflicting-duplicate"),
}


@pytest.mark.parametrize("content, code", BAD_VOC.values(), ids=BAD_VOC.keys())
def test_check_bad_voc_has_its_code_and_place(tmp_path, content, code):
    write_files(tmp_path, {"0.xml": voc("good.png"), "1.xml": content})
    assert told(lambda policy: read_labels(tmp_path, None, policy)) == [(code, str(tmp_path / "1.xml"))]


# --- YOLO ---------------------------------------------------------------------------------------------------------
YOLO_LINE = "0 0.25 0.5 0.3 0.5"
BAD_YOLO = {
    "polygon cut off": ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.3", "bad-line"),
    "six numbers": ("0 0.5 0.5 0.1 0.1 0.9", "bad-line"),
    "pixels": ("0 40 20 10 10", "bad-coordinates"),
    "underscore": ("0 0_1 0.5 0.1 0.1", "bad-coordinates"),
    "class a fraction": ("0.5 0.5 0.5 0.1 0.1", "unknown-class"),
    "word": ("0 x 0.5 0.1 0.1", "bad-coordinates"),
    "width below 0": ("0 0.5 0.5 -0.1 0.1", "box-degenerate"),
    "class a name": ("cat 0.5 0.5 0.1 0.1", "unknown-class"),
    "class 2 of 1": ("2 0.5 0.5 0.1 0.1", "unknown-class"),
}


@pytest.mark.parametrize("line, code", BAD_YOLO.values(), ids=BAD_YOLO.keys())
def test_check_bad_yolo_has_its_code_and_place(tmp_path, line, code):
    pictures = {"good.png": PNG, "bad.png": PNG, "classes.txt": "cat"}
    write_files(tmp_path, {**pictures, "good.txt": YOLO_LINE, "bad.txt": f"{YOLO_LINE}\n{line}"})
    assert told(lambda policy: read_labels(tmp_path, None, policy)) == [(code, f"{tmp_path / 'bad.txt'}:2")]


def test_check_yolo_unreadable_image_has_its_code_and_place(tmp_path):
    write_files(tmp_path, {"good.png": PNG, "good.txt": YOLO_LINE, "bad.png": PNG[:20], "bad.txt": YOLO_LINE})
    assert told(lambda policy: read_labels(tmp_path, None, policy)) == [("bad-line", str(tmp_path / "bad.png"))]


# --- RecordIO -----------------------------------------------------------------------------------------------------
REC_LABEL = [2, 5, 0, 0.1, 0.25, 0.4, 0.75]


def payload(label=REC_LABEL, image=PNG):
    data = np.array(label, "<f4")
    return struct.pack("<IfQQ", data.size, 0, 0, 0) + data.tobytes() + image


BAD_RECORDS = {
    "no bytes": (b"", "bad-line"),
    "label cut off": (payload()[:30], "bad-line"),
    "a class for the image": (struct.pack("<IfQQ", 0, 3, 0, 0) + PNG, "bad-line"),
    "header of a half": (payload([2.5, 5, *REC_LABEL[2:]]), "bad-line"),
    "header too long": (payload([9, *REC_LABEL[1:]]), "bad-line"),
    "object too narrow": (payload([2, 4, *REC_LABEL[2:6]]), "bad-line"),
    "six numbers in fives": (payload([*REC_LABEL, 0]), "bad-line"),
    "NaN": (payload([2, 5, 0, float("nan"), 0.25, 0.4, 0.75]), "bad-coordinates"),
    "pixels": (payload([2, 5, 0, 10, 20, 40, 60]), "bad-coordinates"),
    "inverted": (payload([2, 5, 0, 0.4, 0.25, 0.1, 0.75]), "box-degenerate"),
    "class a half": (payload([2, 5, 0.5, 0.1, 0.25, 0.4, 0.75]), "unknown-class"),
    "class -2": (payload([2, 5, -2, 0.1, 0.25, 0.4, 0.75]), "unknown-class"),
    "class 10000": (payload([2, 5, 10_000, 0.1, 0.25, 0.4, 0.75]), "unknown-class"),
    "class 7 of 1": (payload([2, 5, 7, 0.1, 0.25, 0.4, 0.75]), "unknown-class"),
    "no image": (payload(image=b""), "unreadable-image"),
    "a GIF": (payload(image=b"GIF89a" + bytes(20)), "unsupported-format"),
    "box outside": (payload([2, 5, 0, 1.2, 0.25, 1.4, 0.75]), "image-dropped"),
}


@pytest.mark.parametrize("record, code", BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
def test_check_bad_record_has_its_code_and_place(tmp_path, record, code):
    write_files(tmp_path, {"a.rec": framed(payload(), record), "a.names": "cat\n"})
    assert told(lambda policy: read_labels(tmp_path / "a.rec", None, policy)) == [(code, f"{tmp_path / 'a.rec'}:2")]


# --- Pipe mode ----------------------------------------------------------------------------------------------------
def pipe_label(*boxes, **changes):
    sizes = [{"width": 100, "height": 80, "depth": 3}]
    return json.dumps({"annotations": list(boxes or [JSON_BOX]), "image_size": sizes, **changes}).encode()


BAD_SAMPLES = {
    "text for an image": (b"not found", pipe_label(), "unreadable-image"),
    "half an image": (PNG[:60], pipe_label(), "truncated-image"),
    "text": (PNG, pipe_label({**JSON_BOX, "left": "10"}), "bad-coordinates"),
    "size a text": (PNG, pipe_label(image_size=[{"width": "100", "height": 80}]), "bad-image-size"),
}


@pytest.mark.parametrize("image, label, code", BAD_SAMPLES.values(), ids=BAD_SAMPLES.keys())
def test_check_bad_pipe_sample_has_its_code_and_place(tmp_path, image, label, code):
    with FifoWriter(tmp_path / "train", [[framed(PNG, pipe_label()), framed(image, label)]]):
        channel = read_channel(tmp_path / "train", 5, SpillFile(tmp_path, 10**6))
    assert told(lambda policy: channel.label_set(*channel.class_table(None), policy)[0]) == [(code, "train_0:3")]


# --- video frames -------------------------------------------------------------------------------------------------
VIDEO_BOX = {"class-id": "0", "left": 10, "top": 20, "width": 30, "height": 40}
BAD_FRAMES = {
    "no annotations": ({"frame": "bad.png"}, "bad-line"),
    "key points": ({"frame": "bad.png", "keypoints": []}, "bad-line"),
    "no object": (["a"], "bad-line"),
    "frame twice": ({"frame": "good.png", "annotations": []}, "conflicting-duplicate"),
    "frame a number": ({"frame": 5, "annotations": []}, "bad-image-name"),
    "class 4 of 1": ({"frame": "bad.png", "annotations": [{**VIDEO_BOX, "class-id": "4"}]}, "unknown-class"),
}


@pytest.mark.parametrize("frame, code", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_check_bad_video_frame_has_its_code_and_place(tmp_path, frame, code):
    kind = {"class-map": {"0": "cat"}, "type": "groundtruth/video-object-detection"}
    line = {"source-ref": "s3://b/in/seq.json", "cats-ref": "s3://b/out/0/SeqLabel.json", "cats-ref-metadata": kind}
    frames = [{"frame": "good.png", "annotations": [VIDEO_BOX]}, frame]
    write_files(tmp_path, {"output.manifest": line, "0/SeqLabel.json": {"detection-annotations": frames}})
    where = f"{tmp_path / '0' / 'SeqLabel.json'}:detection-annotations[1]"
    assert told(lambda policy: read_video_frames(tmp_path / "output.manifest", None, policy)) == [(code, where)]


# --- boxes of no size, in every format: the box is left out and counted, the picture and its other box stay -------
def read_pipe(tmp_path, label):
    with FifoWriter(tmp_path / "train", [[framed(PNG, label)]]):
        channel = read_channel(tmp_path / "train", 5, SpillFile(tmp_path, 10**6))
    return channel.label_set(*channel.class_table(None), "error")[0]


def read_files(tmp_path, files):
    write_files(tmp_path, files)
    return read_labels(tmp_path)


def read_video(tmp_path, boxes):
    kind = {"class-map": {"0": "cat"}, "type": "groundtruth/video-object-detection"}
    line = {"source-ref": "s3://b/in/seq.json", "cats-ref": "s3://b/out/0/SeqLabel.json", "cats-ref-metadata": kind}
    frames = [{"frame": "good.png", "annotations": boxes}]
    write_files(tmp_path, {"output.manifest": line, "0/SeqLabel.json": {"detection-annotations": frames}})
    return read_video_frames(tmp_path / "output.manifest")


def manifest_line(label):
    kind = {"class-map": {"0": "cat"}, "type": "groundtruth/object-detection"}
    return json.dumps({"source-ref": "s3://b/good.png", "bb": json.loads(label), "bb-metadata": kind})


COCO_LABELS = {
    "images": [COCO_IMAGE],
    "annotations": [COCO_BOX, {**COCO_BOX, "id": 2, "bbox": [10, 20, 0, 40]}],
    "categories": [{"id": 1, "name": "cat"}],
}
FLAT = {"width": 0}, {"height": 0}, {"width": 0.0, "height": 0.0}, {"width": 0, "left": 100}
NO_SIZE = {
    "ground truth": lambda p: read_files(
        p, {"a.manifest": manifest_line(pipe_label(JSON_BOX, *({**JSON_BOX, **flat} for flat in FLAT)))}
    ),
    "image and JSON": lambda p: read_files(p, {"0.json": image_json("a", JSON_BOX, {**JSON_BOX, "height": 0})}),
    "COCO": lambda p: read_files(p, {"a.json": COCO_LABELS}),
    # VOC includes both ends, so that the last pixel of a box without one is that before its first
    "VOC": lambda p: read_files(p, {"a.xml": voc().replace("<object>", voc_object((11, 21, 10, 60)) + "<object>")}),
    "YOLO": lambda p: read_files(p, {"a.png": PNG, "a.txt": f"{YOLO_LINE}\n0 0.5 0.5 0 0.1"}),
    "RecordIO": lambda p: read_files(p, {"a.rec": framed(payload([*REC_LABEL, 0, 0.1, 0.5, 0.4, 0.5]))}),
    "Pipe mode": lambda p: read_pipe(p, pipe_label(JSON_BOX, {**JSON_BOX, "width": 0})),
    "video": lambda p: read_video(p, [VIDEO_BOX, {**VIDEO_BOX, "width": 0}]),
}


@pytest.mark.parametrize("read", NO_SIZE.values(), ids=NO_SIZE.keys())
def test_readers_box_without_size_is_dropped_and_the_image_kept(tmp_path, read):
    labels = read(tmp_path)
    assert [record.boxes.astype(float).round(3).tolist() for record in labels.records] == [[GOOD_BOX]]
    left_out = [line for line in labels.repaired if line.reason == TOO_SMALL]
    assert len(left_out) == (len(FLAT) if labels.source.endswith("a.manifest") else 1)
    assert labels.skipped == ()


# --- whole files --------------------------------------------------------------------------------------------------
BAD_FILES = {
    "COCO cut off": ("a.json", '{"images": [', "labels-unusable"),
    "COCO, an array": ("a.json", '[{"image_id": 1}]', "labels-unusable"),
    "COCO without images": ("a.json", {"images": [], "annotations": [], "categories": []}, "labels-unusable"),
    "COCO, annotations an object": (
        "a.json",
        {"images": [], "annotations": {}, "categories": []},
        "labels-unusable",
    ),
    "COCO without categories": ("a.json", {"images": [], "annotations": []}, "labels-unusable"),
    "COCO, a category without name": (
        "a.json",
        {"images": [COCO_IMAGE], "annotations": [], "categories": [{"id": 1}]},
        "labels-unusable",
    ),
    "COCO, one id, two names": (
        "a.json",
        {"images": [COCO_IMAGE], "annotations": [], "categories": [{"id": 1, "name": n} for n in ("cat", "dog")]},
        "conflicting-class-map",
    ),
    "RecordIO cut off": ("a.rec", framed(payload())[:-9], "labels-unusable"),
    "RecordIO of noise": ("a.rec", bytes(range(64)), "labels-unusable"),
    "RecordIO, empty": ("a.rec", b"", "labels-unusable"),
    "manifest packed by gzip": ("a.manifest", b"\x1f\x8b\x08" + bytes(20), "labels-unusable"),
    "manifest in UTF-16": ("a.manifest", '{"source-ref": "a"}'.encode("utf-16"), "labels-unusable"),
}


@pytest.mark.parametrize("name, content, code", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_check_unusable_file_has_its_code_and_place(tmp_path, name, content, code):
    write_files(tmp_path, {name: content})
    with pytest.raises(DataError) as caught:
        read_labels(tmp_path / name, None, "skip")
    finding = unreadable_labels_result(caught.value).findings[0]
    assert (finding.code, finding.where.startswith(str(tmp_path / name))) == (code, True)


def test_check_bad_input_has_at_least_80_cases():
    tables = (BAD_IMAGE_JSON, BAD_COCO, BAD_VOC, BAD_YOLO, BAD_RECORDS, BAD_SAMPLES, BAD_FRAMES, BAD_FILES)
    assert sum(map(len, tables)) >= 80


def told(read):
    """(code, place) of each line that `read("skip")` leaves out; the good image must have kept its box, and
    `read("error")` has to name the first place."""
    labels = read("skip")
    assert labels.records[0].boxes.astype(float).round(3).tolist() == [GOOD_BOX]
    found = [skipped_findings(line) for line in labels.skipped]
    assert all(finding.code in CODES and finding.detail for finding in found)
    if all(line.reason == BAD_LINE for line in labels.skipped):
        with pytest.raises(DataError) as caught:
            read("error")
        assert str(caught.value).startswith(("", f"{len(found)} bad lines: ")[len(found) > 1] + found[0].where)
    return [(finding.code, finding.where) for finding in found]

"""Data sets with one fault each: tables of pictures, lines, files of labels and sets of boxes, with their codes."""

from __future__ import annotations

import io
import json

import numpy as np
from helpers import manifests
from helpers.data import label_set, picture
from PIL import Image

from ssd_train.data.checks.runner import Split, check_data
from ssd_train.data.image_io import encode_jpeg, encode_png
from ssd_train.data.image_sources import FolderImages
from ssd_train.data.labels import read_labels
from ssd_train.model.anchors import anchor_layout, make_anchors

ANCHORS = {side: make_anchors(anchor_layout("mobilenet1.0", side)) for side in (300, 512)}
SIZE = (120, 90)
BOX = (0, 10, 10, 80, 70)  # class id, left, top, width, height
TEN = 10  # images of a set that has nothing to complain about


def photo(seed, size_wh=SIZE):
    """A smooth picture that no other seed resembles."""
    coarse = Image.fromarray(picture((9, 9), seed))
    return np.asarray(coarse.resize(size_wh, Image.BICUBIC))


def line(name="s3://b/images/bad.jpg", *boxes, size_wh=SIZE, **keys):
    return manifests.line(name, boxes or [BOX], size_wh=size_wh, **keys)


def data_set(folder, lines=(), images=(), first=0):
    """A manifest of ten good lines, then `lines`; a folder of their images and those of `images` (name -> bytes)."""
    good = [f"{first + index}.jpg" for index in range(TEN)]
    pictures = {name: encode_jpeg(photo(first + index)) for index, name in enumerate(good)}
    place = folder / "images"
    for name, data in {**pictures, **dict(images)}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    both = [(0, 10, 10, 80, 70), (1, 5, 5, 90, 70)]
    lines = [*(line(f"s3://b/images/{name}", *both) for name in good), *lines]
    return place, manifests.write(folder / "a.manifest", lines)


def side_of(folder, lines=(), images=(), first=0, name="train"):
    place, manifest = data_set(folder, lines, images, first)
    return Split(name, read_labels(manifest, None, "skip"), FolderImages(place))


def found(*sides, shape=300):
    """(code, last part of the place) of each finding."""
    result = check_data(sides, shape, ANCHORS)
    return [(finding.code, finding.where.rsplit("/", 1)[-1]) for finding in result.findings]


def saved(image, format, **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format, **options)
    return stream.getvalue()


def turned(orientation, size_wh=SIZE):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(photo(99, size_wh), "JPEG", exif=exif, quality=95)


JPEG = encode_jpeg(photo(99))
PNG = encode_png(photo(99))
LONG = encode_png(photo(9, (700, 10)))
TWO = saved(photo(99), "TIFF", save_all=True, append_images=[Image.fromarray(photo(98))])
BAD_IMAGES = {
    "missing": (line(), {}, "missing-image"),
    "in two folders": (line("s3://b/x/bad.jpg"), {"a/bad.jpg": JPEG, "c/bad.jpg": JPEG}, "ambiguous-image"),
    "empty file": (line(), {"bad.jpg": b""}, "unreadable-image"),
    "HTML": (line(), {"bad.jpg": b"<!DOCTYPE html><html>"}, "unreadable-image"),
    "header only": (line(), {"bad.jpg": JPEG[:30]}, "unreadable-image"),
    "PNG with a wrong byte": (line(), {"bad.jpg": PNG[:900] + b"??" + PNG[902:]}, "unreadable-image"),
    "PNG with too few pixels": (line(), {"bad.jpg": b"\x89PNG\r\n\x1a\n" + PNG[8:33] + PNG[-12:]}, "unreadable-image"),
    "JPEG without its end": (line(), {"bad.jpg": JPEG[:-2]}, "truncated-image"),
    "half a JPEG": (line(), {"bad.jpg": JPEG[: len(JPEG) * 2 // 3]}, "truncated-image"),
    "half a JPEG, given an end": (line(), {"bad.jpg": JPEG[: len(JPEG) * 2 // 3] + b"\xff\xd9"}, "truncated-image"),
    "GIF": (line(), {"bad.jpg": saved(photo(99), "GIF")}, "unsupported-format"),
    "HEIC": (line(), {"bad.jpg": b"\0\0\0\x20ftypheic" + bytes(90)}, "unsupported-format"),
    "turned TIFF": (line(), {"bad.jpg": saved(photo(99), "TIFF", tiffinfo={274: 6})}, "unsupported-format"),
    "TIFF of two pages": (line(), {"bad.jpg": TWO}, "multi-frame"),
    "small": (line("bad.jpg", (0, 1, 1, 7, 7), size_wh=(9, 9)), {"bad.jpg": encode_png(photo(9, (9, 9)))}, "too-small"),
    "long": (
        line("bad.jpg", (0, 10, 1, 300, 8), size_wh=(700, 10)),
        {"bad.jpg": encode_png(photo(9, (700, 10)))},
        "aspect-ratio",
    ),
    "other size": (line(size_wh=(121, 90)), {"bad.jpg": JPEG}, "size-differs"),
    "no size, box outside": (
        line("bad.jpg", (0, 100, 10, 30, 20), size_wh=None),
        {"bad.jpg": JPEG},
        "box-outside-image",
    ),
    "mirrored by EXIF": (line(), {"bad.jpg": turned(2)}, "orientation-applied"),
    "turned, size not told": (line(size_wh=None), {"bad.jpg": turned(6, (100, 90))}, "orientation-applied"),
    "turned, labelled upright": (line(size_wh=(90, 120)), {"bad.jpg": turned(6)}, "orientation-turned"),
    "turned, labelled as stored": (line(), {"bad.jpg": turned(8)}, "orientation-turned"),
    "name of a folder above": (line("s3://b/../bad.jpg"), {}, "bad-image-name"),
    "no file name": (line("s3://b/images/"), {}, "bad-image-name"),
    "another scheme": (line("https://b/bad.jpg"), {}, "missing-image"),
}


def with_box(**changes):
    changed = line()
    changed["bb"]["annotations"][0].update(changes)
    return changed


def with_metadata(**changes):
    changed = line()
    changed["bb-metadata"].update({key.replace("_", "-"): value for key, value in changes.items()})
    return changed


def as_text(value, old, new):
    return json.dumps(value).replace(old, new)


BAD_LINES = {
    "not JSON": ("hello", "bad-line"),
    "box no object": ({**line(), "bb": {"annotations": [5]}}, "bad-line"),
    "text": (with_box(left="10"), "bad-coordinates"),
    "NaN": (as_text(with_box(left=0.5), "0.5", "NaN"), "bad-coordinates"),
    "width below 0": (with_box(width=-1), "box-degenerate"),
    "class 7 of 2": (with_box(class_id=7), "unknown-class"),
    "class-map an array": (with_metadata(class_map=["cat"]), "bad-class-map"),
    "width a text": (line(size_wh=("120", 90)), "bad-image-size"),
    "name empty": (line(""), "bad-image-name"),
    "name no text in UTF-8": (as_text(line("QQ"), "QQ", "\\ud800"), "bad-image-name"),
    "other boxes": (line("s3://b/images/3.jpg", (1, 0, 0, 50, 50)), "conflicting-duplicate"),
    "same line": (line("s3://b/images/3.jpg", BOX, (1, 5, 5, 90, 70)), "duplicate-line"),
    "not labelled": ({"source-ref": "s3://b/images/bad.jpg"}, "unlabelled-line"),
    "failed": (with_metadata(failure_reason="ClientError"), "failed-line"),
    "classification": (with_metadata(type="groundtruth/image-classification"), "other-job-line"),
    "only box outside": (with_box(left=5000), "image-dropped"),
    "clipped": (with_box(left=90), "box-clipped"),
    "no width": (line("s3://b/images/bad.jpg", BOX, (0, 3, 3, 0, 60)), "box-dropped"),
    "mostly outside": (line("s3://b/images/bad.jpg", BOX, (0, 119, 3, 60, 60)), "box-dropped"),
}


BAD_FILES = {
    "absent": (None, "labels-unusable"),
    "empty": ("", "labels-unusable"),
    "one JSON array": ('[\n{"source-ref": "a"}\n]', "labels-unusable"),
    "pretty": (json.dumps(line(), indent=2), "labels-unusable"),
    "nothing usable": ('{"source-ref": "a"}', "labels-unusable"),
    "classification": (
        json.dumps({"source-ref": "a", "x": 1, "x-metadata": {"type": "groundtruth/image-classification"}}),
        "wrong-job-type",
    ),
    "two jobs of one date": (
        json.dumps({**line(attribute="a"), **line(attribute="b")}),
        "ambiguous-label-attribute",
    ),
    "one id, two names": (
        json.dumps(line(classes={0: "cat"})) + "\n" + json.dumps(line("b.jpg", classes={0: "dog"})),
        "conflicting-class-map",
    ),
    "names but for blanks": (
        json.dumps(line(classes={0: "cat"})) + "\n" + json.dumps(line("b.jpg", classes={0: "cat", 1: "cat "})),
        "conflicting-class-map",
    ),
    "only empty images": (json.dumps({**line(classes={}), "bb": {"annotations": []}}), "no-objects"),
}


def labels_of(boxes, class_ids=None, size_wh=(400, 400), class_names=("cat", "dog")):
    """Ten images of a good cat and a good dog, and then one of `boxes`."""
    good = [[[10, 10, 200, 200], [50, 50, 300, 300]]] * TEN
    return label_set([*good, boxes], [*[[0, 1]] * TEN, class_ids or [0] * len(boxes)], size_wh, class_names)


MANY = [[1, 1, 100 + index, 100 + index] for index in range(101)]
BAD_SETS = {
    "six px at 300": ([[100, 100, 108, 200]], "box-tiny", "train.manifest:11"),
    "long and thin": ([[0, 100, 400, 112]], "box-without-anchor", "train.manifest:11"),
    "101 boxes": (MANY, "crowded", "train.manifest:11"),
    "70 boxes": (MANY[:70], "label-width", "train.manifest"),
}

"""What a check finds: every code of the list from a small broken file that the test builds, with its place."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import manifests
import numpy as np
import pytest
from builders import HeardProgress, label_set, memory_images, picture
from PIL import Image

from ssd_train.data.check import (
    CheckResult,
    Side,
    cheap_check,
    check_apart,
    check_data,
    refuse_errors,
    unusable,
    without_errors,
)
from ssd_train.data.check_codes import CODES, SEVERITIES, Finding
from ssd_train.data.images import encode_jpeg, encode_png
from ssd_train.data.labels import read_labels
from ssd_train.data.sources import FolderImages
from ssd_train.errors import DataError
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
    return Side(name, read_labels(manifest, None, "skip"), FolderImages(place))


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
    "text": (line(), {"bad.jpg": b"404 not found"}, "unreadable-image"),
    "HTML": (line(), {"bad.jpg": b"<!DOCTYPE html><html>"}, "unreadable-image"),
    "a page of errors": (line(), {"bad.jpg": b"<?xml version='1.0'?><Error><Code>NoSuchKey"}, "unreadable-image"),
    "LFS pointer": (line(), {"bad.jpg": b"version https://git-lfs.github.com/spec/v1\n"}, "unreadable-image"),
    "header only": (line(), {"bad.jpg": JPEG[:30]}, "unreadable-image"),
    "PNG with a wrong byte": (line(), {"bad.jpg": PNG[:900] + b"??" + PNG[902:]}, "unreadable-image"),
    "PNG with too few pixels": (line(), {"bad.jpg": b"\x89PNG\r\n\x1a\n" + PNG[8:33] + PNG[-12:]}, "unreadable-image"),
    "JPEG without its end": (line(), {"bad.jpg": JPEG[:-2]}, "truncated-image"),
    "half a JPEG": (line(), {"bad.jpg": JPEG[: len(JPEG) * 2 // 3]}, "truncated-image"),
    "half a JPEG, given an end": (line(), {"bad.jpg": JPEG[: len(JPEG) * 2 // 3] + b"\xff\xd9"}, "truncated-image"),
    "half a PNG": (line(), {"bad.jpg": PNG[: len(PNG) // 2]}, "truncated-image"),
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
    "turned by hand": (line(size_wh=(90, 120)), {"bad.jpg": JPEG}, "size-differs"),
    "no size, box outside": (
        line("bad.jpg", (0, 100, 10, 30, 20), size_wh=None),
        {"bad.jpg": JPEG},
        "box-outside-image",
    ),
    "mirrored by EXIF": (line(), {"bad.jpg": turned(2)}, "orientation-applied"),
    "upside down by EXIF": (line(), {"bad.jpg": turned(3)}, "orientation-applied"),
    "turned, size not told": (line(size_wh=None), {"bad.jpg": turned(6, (100, 90))}, "orientation-applied"),
    "turned, square": (line(size_wh=(90, 90)), {"bad.jpg": turned(6, (90, 90))}, "orientation-applied"),
    "turned, labelled upright": (line(size_wh=(90, 120)), {"bad.jpg": turned(6)}, "orientation-turned"),
    "turned, labelled as stored": (line(), {"bad.jpg": turned(8)}, "orientation-turned"),
    "name of a folder above": (line("s3://b/../bad.jpg"), {}, "bad-image-name"),
    "absolute name": (line("/etc/bad.jpg"), {}, "bad-image-name"),
    "no file name": (line("s3://b/images/"), {}, "bad-image-name"),
    "another scheme": (line("https://b/bad.jpg"), {}, "bad-image-name"),
}
# what only decoding shows
HIDDEN = {"PNG with a wrong byte", "PNG with too few pixels", "half a JPEG, given an end"}


@pytest.mark.parametrize("bad, images, code", BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_bad_image_has_its_code_and_place(tmp_path, bad, images, code):
    side = side_of(tmp_path, [bad], images)
    assert [entry for entry in found(side) if entry[0] != "image-without-label"] == [(code, "a.manifest:11")]


@pytest.mark.parametrize("case", BAD_IMAGES, ids=BAD_IMAGES.keys())
def test_cheap_check_says_the_same_but_for_what_is_hidden(tmp_path, case):
    bad, images, code = BAD_IMAGES[case]
    side = side_of(tmp_path, [bad], images)
    codes = [(finding.code, finding.where.rsplit("/", 1)[-1]) for finding in cheap_check(side.labels, side.images)]
    assert codes == ([] if case in HIDDEN else [(code, "a.manifest:11")])


def test_more_pixels_than_are_decoded(tmp_path):
    picture_of_51_megapixels = saved(np.zeros((7000, 7300), np.uint8), "PNG")
    side = side_of(tmp_path, [line("bad.jpg", BOX, size_wh=(7300, 7000))], {"bad.jpg": picture_of_51_megapixels})
    assert ("too-large", "a.manifest:11") in found(side)
    assert [finding.code for finding in cheap_check(side.labels, side.images)] == ["too-large"]


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
    "half a line": ('{"source-ref": "s3://b/a', "bad-line"),
    "an array": ("[1]", "bad-line"),
    "key twice": ('{"source-ref": "a", "source-ref": "b"}', "bad-line"),
    "annotations missing": ({**line(), "bb": {}}, "bad-line"),
    "box no object": ({**line(), "bb": {"annotations": [5]}}, "bad-line"),
    "text": (with_box(left="10"), "bad-coordinates"),
    "true": (with_box(top=True), "bad-coordinates"),
    "null": (with_box(width=None), "bad-coordinates"),
    "NaN": (as_text(with_box(left=0.5), "0.5", "NaN"), "bad-coordinates"),
    "infinity": (as_text(with_box(left=0.5), "0.5", "-Infinity"), "bad-coordinates"),
    "1e999": (as_text(with_box(left=0.5), "0.5", "1e999"), "bad-coordinates"),
    "huge": (with_box(height=10**9), "bad-coordinates"),
    "width 0": (with_box(width=0), "box-degenerate"),
    "height below 0": (with_box(height=-5), "box-degenerate"),
    "class 7 of 2": (with_box(class_id=7), "unknown-class"),
    "class -1": (with_box(class_id=-1), "unknown-class"),
    "class 0.5": (with_box(class_id=0.5), "unknown-class"),
    "class null": (with_box(class_id=None), "unknown-class"),
    "class-map an array": (with_metadata(class_map=["cat"]), "bad-class-map"),
    "class-map of words": (with_metadata(class_map={"x": "cat"}), "bad-class-map"),
    "class name blank": (with_metadata(class_map={"0": " "}), "bad-class-map"),
    "width a text": (line(size_wh=("120", 90)), "bad-image-size"),
    "height 0": (line(size_wh=(120, 0)), "bad-image-size"),
    "name empty": (line(""), "bad-image-name"),
    "name with NUL": (line("s3://b/\0.jpg"), "bad-image-name"),
    "name no text in UTF-8": (as_text(line("QQ"), "QQ", "\\ud800"), "bad-image-name"),
    "other boxes": (line("s3://b/images/3.jpg", (1, 0, 0, 50, 50)), "conflicting-duplicate"),
    "same line": (line("s3://b/images/3.jpg", BOX, (1, 5, 5, 90, 70)), "duplicate-line"),
    "not labelled": ({"source-ref": "s3://b/images/bad.jpg"}, "unlabelled-line"),
    "no image": ({"source": "a video"}, "unlabelled-line"),
    "label a number": ({**line(), "bb": 3}, "unlabelled-line"),
    "failed": (with_metadata(failure_reason="ClientError"), "failed-line"),
    "classification": (with_metadata(type="groundtruth/image-classification"), "other-job-line"),
    "only box outside": (with_box(left=5000), "image-dropped"),
    "clipped": (with_box(left=90), "box-clipped"),
    "under a pixel": (line("s3://b/images/bad.jpg", BOX, (0, 3, 3, 0.5, 60)), "box-dropped"),
    "mostly outside": (line("s3://b/images/bad.jpg", BOX, (0, 119, 3, 60, 60)), "box-dropped"),
}


@pytest.mark.parametrize("bad, code", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_bad_line_has_its_code_and_place(tmp_path, bad, code):
    found_here = found(side_of(tmp_path, [bad], {"bad.jpg": JPEG}))
    # a box left out is told beside the image that has none left; an image without a label beside its file
    extra = {"box-dropped", "image-without-label"} - {code}
    assert [entry for entry in found_here if entry[0] not in extra] == [(code, "a.manifest:11")]


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


@pytest.mark.parametrize("text, code", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_labels_that_cannot_be_used_at_all(tmp_path, text, code):
    path = tmp_path / "a.manifest"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(DataError) as caught:
        read_labels(path, None, "skip")
    finding, *lines = unusable(caught.value).findings
    assert bool(lines) == ("no line can be used" in finding.detail)
    assert (finding.code, finding.severity) == (code, "error")
    assert re.fullmatch(re.escape(str(path)) + r"(:\d+)?", finding.where)
    assert finding.detail and not finding.detail.startswith(finding.where)


def test_lines_are_told_where_none_can_be_used(tmp_path):
    bad = [with_box(width="10"), {"source-ref": "a.jpg"}, with_box(class_id=7)]
    path = tmp_path / "a.manifest"
    path.write_text("\n".join(json.dumps(value) for value in bad), "utf-8")
    with pytest.raises(DataError) as caught:
        read_labels(path, None, "skip")
    assert [(f.code, f.where) for f in unusable(caught.value).findings] == [
        ("labels-unusable", str(path)),
        ("bad-coordinates", f"{path}:1"),
        ("unknown-class", f"{path}:3"),
        ("unlabelled-line", f"{path}:2"),
    ]


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


@pytest.mark.parametrize("boxes, code, where", BAD_SETS.values(), ids=BAD_SETS.keys())
def test_boxes_that_are_hard_to_learn(boxes, code, where):
    found_here = found(Side("train", labels_of(boxes)))
    assert [entry for entry in found_here if entry[0] == code] == [(code, where)]
    assert len(found_here) == (2 if code == "crowded" else 1)  # a crowd is too wide a label as well


def test_good_boxes_and_background_images_are_not_found_fault_with():
    assert found(Side("train", labels_of([]))) == []


def test_tiny_box_is_large_enough_at_another_image_shape():
    labels = labels_of([[100, 100, 108, 108]])
    assert found(Side("train", labels), shape=300) == [("box-tiny", "train.manifest:11")]
    assert ("box-tiny", "train.manifest:11") not in found(Side("train", labels), shape=512)


def test_class_with_few_boxes():
    labels = label_set([[[0, 0, 200, 200]]] * 12, [[0]] * 9 + [[1]] * 3, (400, 400), ("cat", "dog", "cow"))
    result = check_data([Side("train", labels)], 300, ANCHORS)
    assert [f.detail for f in result.findings] == [
        f"found {count} boxes of class {name!r}" for name, count in (("cat", 9), ("dog", 3), ("cow", 0))
    ]
    assert set(result.counts) == {"few-examples"}


def test_class_that_training_never_shows():
    train = label_set([[[0, 0, 200, 200]]] * 12, [[0]] * 12, (400, 400), ("cat", "dog"))
    validation = label_set([[[0, 0, 200, 200]]], [[0]], (400, 400), ("dog",))
    codes = [code for code, _ in found(Side("train", train), Side("validation", validation))]
    assert codes == ["few-examples", "class-only-in-validation"]


def test_class_that_training_does_not_know():
    train = label_set([[[0, 0, 200, 200]]] * 12, [[0]] * 12, (400, 400), ("cat",))
    validation = label_set([[[0, 0, 200, 200]]], [[0]], (400, 400), ("cow",))
    assert found(Side("train", train), Side("validation", validation)) == [("unknown-class", "train.manifest")]


def test_same_file_twice_on_one_side(tmp_path):
    lines = [line("s3://b/images/bad.jpg", BOX), line("s3://b/images/other.jpg", (0, 0, 0, 60, 60))]
    side = side_of(tmp_path, lines, {"bad.jpg": JPEG, "other.jpg": JPEG})
    (finding,) = check_data([side], 300, ANCHORS).findings
    assert (finding.code, finding.where) == ("duplicate-picture", f"{side.labels.source}:12")
    assert finding.detail == f"'other.jpg' is 'bad.jpg' of {side.labels.source}:11, with other boxes"


def test_same_file_on_both_sides(tmp_path):
    train = side_of(tmp_path / "a", [line()], {"bad.jpg": JPEG})
    validation = side_of(tmp_path / "b", [line("s3://b/images/val.jpg")], {"val.jpg": JPEG}, 50, "validation")
    assert found(train, validation) == [("same-image-in-train-and-validation", "a.manifest:11")]
    assert check_apart(train, validation) == []  # which looks at places only


def test_same_place_on_both_sides(tmp_path):
    train = side_of(tmp_path)
    validation = Side("validation", train.labels.subset([index < 2 for index in range(TEN)]), train.images)
    codes = [(finding.code, finding.name) for finding in check_apart(train, validation)]
    assert codes == [("same-image-in-train-and-validation", f"s3://b/images/{index}.jpg") for index in (0, 1)]
    assert found(train, validation)[:2] == [("same-image-in-train-and-validation", f"a.manifest:{n}") for n in (1, 2)]


def half_size(image):
    return np.asarray(Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2), Image.BICUBIC))


COPIES = {
    "another quality": (encode_jpeg(photo(3), 40), SIZE),
    "another format": (encode_png(photo(3)), SIZE),
    "half the size": (encode_jpeg(half_size(photo(3))), (60, 45)),
    "a rim cut off": (encode_jpeg(np.ascontiguousarray(photo(3)[1:-1, 1:-2])), (117, 88)),
    "turned by EXIF": (None, SIZE),
}


@pytest.mark.parametrize("data, size_wh", COPIES.values(), ids=COPIES.keys())
def test_copy_that_is_not_the_same_file(tmp_path, data, size_wh):
    if data is None:
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned clockwise
        data = saved(np.ascontiguousarray(np.rot90(photo(3))), "JPEG", exif=exif, quality=95)
    box = (0, 5, 5, 50, 38)
    train = side_of(tmp_path / "a", [line("s3://b/images/bad.jpg", box, size_wh=size_wh)], {"bad.jpg": data})
    alike = [entry for entry in found(train) if entry[0] != "orientation-turned"]
    assert alike == [("near-duplicate-picture", "a.manifest:11")]
    copy = [line("s3://b/images/bad.jpg", box, size_wh=size_wh)]
    other = side_of(tmp_path / "b", copy, {"bad.jpg": data}, 50, "validation")
    alike = [entry for entry in found(side_of(tmp_path / "c"), other) if entry[0] != "orientation-turned"]
    assert alike == [("near-duplicate-in-validation", "a.manifest:11")]


def test_images_that_nobody_labelled(tmp_path):
    train = side_of(tmp_path, [], {"new.jpg": JPEG, "deep/in/new.png": PNG, "notes.txt": b"of the day", ".x": b""})
    assert found(train) == [("image-without-label", "new.png"), ("image-without-label", "new.jpg")]


def test_which_of_two_files_of_one_name_is_labelled(tmp_path):
    train = side_of(tmp_path, [], {"old/3.jpg": JPEG})
    result = check_data([train], 300, ANCHORS)
    assert [finding.where for finding in result.findings] == [os.path.join(train.images.root, "old", "3.jpg")]


def test_links_are_the_images_they_lead_to(tmp_path):
    place, manifest = data_set(tmp_path, [line()], {"store/of/pictures.jpg": JPEG})
    (place / "bad.jpg").symlink_to(place / "store/of/pictures.jpg")
    assert found(Side("train", read_labels(manifest), FolderImages(place))) == []


def test_folder_of_both_sides_is_looked_through_once(tmp_path):
    whole = side_of(tmp_path, [], {"new.jpg": JPEG})
    halves = [whole.labels.subset([index % 2 == side for index in range(TEN)]) for side in (0, 1)]
    train, validation = (Side(name, labels, whole.images) for name, labels in zip(("train", "validation"), halves))
    codes = [entry for entry in found(train, validation) if entry[0] != "few-examples"]
    assert codes == [("image-without-label", "new.jpg")]


def test_fifo_in_the_folder_does_not_hang_the_check(tmp_path):
    place, manifest = data_set(tmp_path, [line()])
    os.mkfifo(place / "bad.jpg")
    side = Side("train", read_labels(manifest), FolderImages(place))
    assert found(side) == [("unreadable-image", "a.manifest:11")]
    assert [finding.code for finding in cheap_check(side.labels, side.images)] == ["unreadable-image"]


def test_images_in_memory_are_checked_alike(tmp_path):
    labels = label_set([[[1, 1, 30, 25]]] * 3)
    images = memory_images(labels)
    assert cheap_check(labels, images) == []
    codes = {code for code, _ in found(Side("train", labels, images))}
    assert codes == {"few-examples"}


@pytest.mark.parametrize("kept, codes", [(1.0, []), (0.9, ["truncated-image"])], ids=["whole", "cut off"])
@pytest.mark.parametrize("comment", [0, 100_000], ids=["short header", "header longer than a glance"])
def test_cheap_check_of_a_file_larger_than_a_glance(tmp_path, kept, codes, comment):
    exif = Image.Exif()
    exif[0x010E] = "x" * min(comment, 60_000)  # a description, to put the size far into the file
    options = {"icc_profile": bytes(comment)} if comment else {}
    data = saved(picture((600, 500), 1), "JPEG", quality=95, exif=exif, **options)
    assert len(data) > 3 * 65536
    data = data[: int(len(data) * kept)]
    side = side_of(tmp_path, [line(size_wh=(600, 500))], {"bad.jpg": data})
    assert [finding.code for finding in cheap_check(side.labels, side.images)] == codes


def test_cheap_check_of_an_image_with_a_film_after_it(tmp_path):
    data = encode_jpeg(picture((600, 500), 1), 95) + b"\0\0\0\x18ftypmp42" + bytes(200_000)
    side = side_of(tmp_path, [line(size_wh=(600, 500))], {"bad.jpg": data})
    assert cheap_check(side.labels, side.images) == []


def test_training_refuses_errors_and_names_the_first():
    findings = [Finding("missing-image", f"a:{n}", "image not found", f"{n}.jpg") for n in range(5)]
    with pytest.raises(
        DataError, match=r"^5 errors in the data: a:0: image not found \(missing-image\); a:1: .* 2 more"
    ):
        refuse_errors([Finding("crowded", "a:9", "found 101 boxes"), *findings])
    refuse_errors([Finding("crowded", "a:9", "found 101 boxes"), Finding("few-examples", "a", "found 3 boxes")])


def test_training_goes_on_without_the_images_that_have_errors(tmp_path):
    side = side_of(tmp_path, [line("s3://b/images/absent.jpg"), "broken", line()], {"bad.jpg": turned(3)})
    findings = cheap_check(side.labels, side.images)
    assert sorted(finding.code for finding in findings) == ["missing-image", "orientation-applied"]
    kept = without_errors(side.labels, findings)
    assert [record.basename for record in kept.records] == [*(f"{n}.jpg" for n in range(TEN)), "bad.jpg"]
    assert kept.skipped == side.labels.skipped and len(kept.skipped) == 1


def test_nothing_left_to_train_on_is_an_error(tmp_path):
    labels = label_set([[[1, 1, 30, 25]]] * 3)
    findings = cheap_check(labels, memory_images(label_set([])))
    with pytest.raises(DataError, match=r"^3 errors in the data: train\.manifest:1: image '0\.png' not found"):
        without_errors(labels, findings)


def test_result_is_sorted_counted_and_told_as_json(tmp_path):
    lines = [line("s3://b/images/absent.jpg"), with_box(left=90)]
    progress = HeardProgress()
    result = check_data([side_of(tmp_path, lines, {"bad.jpg": turned(8)})], 300, ANCHORS, progress)
    assert list(result.counts.items()) == [("missing-image", 1), ("box-clipped", 1), ("orientation-turned", 1)]
    assert [result.number(severity) for severity in SEVERITIES] == [1, 1, 1]
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert sorted(document) == ["counts", "errors", "findings", "notes", "statistics", "version", "warnings"]
    first = document["findings"][0]
    assert sorted(first) == ["code", "detail", "image", "severity", "where"]
    assert first["image"] == "s3://b/images/absent.jpg"
    assert first["where"].endswith("a.manifest:11")


def test_every_code_can_be_found():
    tables = [code for *_, code in [*BAD_IMAGES.values(), *BAD_LINES.values(), *BAD_FILES.values()]]
    sets = [code for _, code, _ in BAD_SETS.values()]
    single = ["too-large", "few-examples", "class-only-in-validation", "duplicate-picture", "image-without-label"]
    pairs = ["same-image-in-train-and-validation", "near-duplicate-picture", "near-duplicate-in-validation"]
    assert set(CODES) == {*tables, *sets, *single, *pairs}


def test_codes_are_documented_word_for_word():
    text = (Path(__file__).resolve().parents[3] / "docs" / "check-codes.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (error|warning|note) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert rows == [tuple(code) for code in CODES.values()]


def test_finding_of_no_code_is_a_mistake_that_shows():
    with pytest.raises(KeyError):
        CheckResult((Finding("no-such-code", "a", "b"),))


REAL_COPIES = {
    "raccoon": {
        "duplicate-picture": {("11", "116"), ("83", "120"), ("52", "74"), ("65", "98")},
        "near-duplicate-picture": {("21", "45"), ("50", "52"), ("51", "85")},
    },
    "bccd": {"near-duplicate-picture": {("00037", "00038")}},
    "fruit": {},
}


@pytest.mark.parametrize("name", REAL_COPIES)
def test_real_sets_have_the_copies_that_are_known_and_no_others(shared_data, name):
    folder = shared_data / "data" / name
    labels = read_labels(folder / "output.manifest")
    result = check_data([Side("train", labels, FolderImages(folder / "images"))], 300, ANCHORS)
    copies = {}
    for finding in result.findings:
        if "duplicate" in finding.code:
            pair = re.findall(r"'[A-Za-z]+[-_](\d+)\.jpg'", finding.detail)
            copies.setdefault(finding.code, set()).add(tuple(sorted(pair, key=int)))
    assert copies == REAL_COPIES[name]
    assert result.number("error") == 0
    assert set(result.counts) - set(copies) <= {"box-without-anchor"}

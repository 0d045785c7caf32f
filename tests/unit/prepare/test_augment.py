"""augment: labels and pictures moved alike."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from helpers import manifests
from helpers.data import HeardProgress, picture, write_files
from helpers.images import with_exif
from hypothesis import given
from hypothesis import strategies as st

from ssd_train import boxes as geometry
from ssd_train.data.formats.ground_truth import read_ground_truth
from ssd_train.data.image_io import decode, encode, encode_png, read_header
from ssd_train.data.image_sources import FolderImages
from ssd_train.errors import ConfigError, DataError
from ssd_train.prepare.augment import OPERATIONS, augment_images, augment_labels, sizes_of_images
from ssd_train.prepare.images import WriteOptions

ALL = list(OPERATIONS)


def images(tmp_path, manifest, operations=ALL, **writing):
    folders = (tmp_path / "in", tmp_path / "out")
    return augment_images(manifest, folders, operations, WriteOptions(**writing), HeardProgress())


def put(tmp_path, name, data):
    write_files(tmp_path / "in", {name: data})


def test_labels_by_hand(tmp_path):
    # W 40, H 30; the formulas: x: W-(l+w); y: H-(t+h); ccw: (t, W-(l+w)); cw: (H-(t+h), l); turns swap w and h
    path = manifests.write(tmp_path / "a", [manifests.line("s3://b/f.1.jpg", [(1, 4, 6, 10, 5)], color="blue")])

    assert augment_labels(path, tmp_path / "out") == 5

    first, *others = manifests.read(tmp_path / "out")
    assert first == manifests.read(path)[0]
    found = {}
    for value in others:
        (box,), (size,) = value["bb"]["annotations"], value["bb"]["image_size"]
        assert value["color"] == "blue" and value["bb-metadata"] == first["bb-metadata"] and box["class_id"] == 1
        assert list(box) == ["class_id", "left", "top", "width", "height"]
        found[value["source-ref"]] = [*list(box.values())[1:], size["width"], size["height"], size["depth"]]
    assert found == {
        "s3://b/f.1-x-flip.jpg": [26, 6, 10, 5, 40, 30, 3],
        "s3://b/f.1-y-flip.jpg": [4, 19, 10, 5, 40, 30, 3],
        "s3://b/f.1-ccw-rotate.jpg": [6, 26, 5, 10, 30, 40, 3],
        "s3://b/f.1-cw-rotate.jpg": [19, 4, 5, 10, 30, 40, 3],
    }


def corners(rows):
    """Rows of left, top, width, height as boxes."""
    return geometry.as_boxes([(x, y, x + width, y + height) for x, y, width, height in rows])


@given(st.lists(st.tuples(*[st.integers(1, 999)] * 4), max_size=4), st.sampled_from(ALL), st.sampled_from([1, 8, 3]))
def test_boxes_are_those_of_online_augmentation(tmp_path_factory, boxes, operation, divisor):
    rows = [[value / divisor for value in box] for box in boxes]
    folder = tmp_path_factory.mktemp("a")
    path = manifests.write(folder / "a", [manifests.line("x.jpg", [(0, *row) for row in rows], size_wh=(2000, 1900))])

    augment_labels(path, folder / "out", [operation])

    moved = manifests.read(folder / "out")[1]["bb"]["annotations"]
    found = corners([[box[key] for key in ("left", "top", "width", "height")] for box in moved])
    expected = OPERATIONS[operation].boxes(corners(rows), (2000, 1900))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-3)


def test_numbers_that_do_not_change_keep_their_text(tmp_path):
    text = (
        '{"source-ref":"a.jpg","bb":{"annotations":[{"class_id":0,"top":1.250,"left":2,"width":3.10,"height":4.0,"by":1e1}]'
        ',"image_size":[{"width":40,"height":30,"depth":3}]},"bb-metadata":{"class-map":{"0":"cat"},"type":'
        '"groundtruth/object-detection"},"x":[0.50]}'
    )
    path = manifests.write(tmp_path / "a", [text])

    augment_labels(path, tmp_path / "out", ["ccw-rotate"])

    turned = text.replace(
        '"top":1.250,"left":2,"width":3.10,"height":4.0', '"top":34.9,"left":1.25,"width":4.0,"height":3.10'
    )
    turned = turned.replace('"width":40,"height":30', '"width":30,"height":40').replace("a.jpg", "a-ccw-rotate.jpg")
    assert (tmp_path / "out").read_text().splitlines() == [text, turned]


@pytest.mark.parametrize(
    "lines, operations, error, expected",
    [
        pytest.param([manifests.line("a")], ["flip"], ConfigError, "found flip, expected some of x-flip", id="unknown"),
        pytest.param([manifests.line("a")], ["x-flip", "x-flip"], ConfigError, "operations", id="twice"),
        pytest.param(
            [manifests.line("a"), manifests.line("a")], ALL, DataError, "a:2: found image 'a' again", id="again"
        ),
        pytest.param(
            [manifests.line("a.jpg"), manifests.line("a-x-flip.jpg")],
            *[ALL, DataError, "a:2: found image 'a-x-flip.jpg' again"],
            id="name-taken",
        ),
        pytest.param([manifests.line("a", size_wh=None)], ALL, DataError, "a:1: bb has no image_size", id="no-size"),
        pytest.param([manifests.line("a", [(0, 1, 1, -5, 5)])], ALL, DataError, "a:1: box 0: found width -5", id="box"),
        pytest.param([{"source-ref": "a"}], ALL, DataError, "a:1: found source-ref", id="no-labels"),
    ],
)
def test_labels_that_cannot_be_augmented(tmp_path, lines, operations, error, expected):
    with pytest.raises(error, match=expected):
        augment_labels(manifests.write(tmp_path / "a", lines), tmp_path / "out", operations)

    assert not (tmp_path / "out").exists()


def test_same_basename_in_two_folders(tmp_path):
    path = manifests.write(tmp_path / "a", [manifests.line("s3://b/one/f.1.png"), manifests.line("s3://b/two/f.1.png")])
    for seed, folder in enumerate(("one", "two")):
        put(tmp_path, f"{folder}/f.1.png", encode_png(picture(seed=seed)))

    done = images(tmp_path, path)
    augment_labels(path, tmp_path / "augmented", ALL)

    labels, folder = read_ground_truth(tmp_path / "augmented"), FolderImages(tmp_path / "out")
    assert (done.written, len(labels)) == (2, 10)
    for record in labels.records:
        name = record.basename[: -len(".png")].replace("f.1", "").lstrip("-")
        image = picture(seed=("one", "two").index(record.name.split("/")[3]))
        expected = OPERATIONS[name].pixels(image) if name else image
        np.testing.assert_array_equal(decode(folder.read(record), record.where, record.size_wh), expected)


def test_augment_images_keep_the_format_and_originals_their_bytes(tmp_path):
    path = manifests.write(tmp_path / "a", [manifests.line("s3://b/a.jpg"), manifests.line("s3://b/c.jpg")])
    put(tmp_path, "a.jpg", encode(picture(), "JPEG"))
    put(tmp_path, "c.jpg", encode(picture(), "PNG"))

    done = images(tmp_path, path, ["cw-rotate"])

    formats = {file.name: read_header(file.read_bytes(), "").format for file in (tmp_path / "out").iterdir()}
    assert formats == {"a.jpg": "JPEG", "a-cw-rotate.jpg": "JPEG", "c.jpg": "PNG", "c-cw-rotate.jpg": "PNG"}
    assert (tmp_path / "out/a.jpg").read_bytes() == (tmp_path / "in/a.jpg").read_bytes()
    assert done.notes == ["c.jpg: is called .jpg and is a PNG; it stays a PNG"]


@pytest.mark.parametrize("size_wh, upright", [((30, 40), True), ((40, 30), False)], ids=["turned", "stored"])
def test_orientation_is_applied_once_where_the_labels_ask_for_it(tmp_path, size_wh, upright):
    put(tmp_path, "a.png", with_exif(picture(), 6, "PNG"))
    path = manifests.write(tmp_path / "a", [manifests.line("s3://b/a.png", size_wh=size_wh)])

    images(tmp_path, path, ["x-flip"])

    seen = np.rot90(picture(), -1) if upright else picture()
    data = (tmp_path / "out/a-x-flip.png").read_bytes()
    assert read_header(data, "").orientation == 1
    np.testing.assert_array_equal(decode(data, "", size_wh), seen[:, ::-1])


def test_augment_labels_without_size_take_that_of_the_image(tmp_path):
    put(tmp_path, "a.png", encode_png(picture((50, 20))))
    path = manifests.write(tmp_path / "a", [manifests.line("s3://b/a.png", [(0, 1, 2, 3, 4)], size_wh=None)])

    augment_labels(path, tmp_path / "out", ["x-flip"], sizes_of_images(tmp_path / "in"))

    assert manifests.read(tmp_path / "out")[1]["bb"]["annotations"][0]["left"] == 46


def test_augment_images_resumes(tmp_path):
    path = manifests.write(tmp_path / "a", [manifests.line(f"s3://b/{i}.png") for i in range(3)])
    for i in range(3):
        put(tmp_path, f"{i}.png", encode_png(picture(seed=i)))
    images(tmp_path, path)
    os.unlink(tmp_path / "out/1-y-flip.png")

    done = images(tmp_path, path)

    assert (done.written, done.skipped) == (1, 2)
    assert images(tmp_path, path, overwrite=True).written == 3


@pytest.mark.parametrize(
    "data, size_wh, expected",
    [
        pytest.param(None, (40, 30), "a:1: image 's3://b/a.png' not found", id="missing"),
        pytest.param(encode_png(picture())[:-9], (40, 30), "a:1: .*a.png: found a PNG cut off", id="cut-off"),
        pytest.param(encode_png(picture()), (41, 30), "a:1: .*found 40x30, expected 41x30", id="other-size"),
    ],
)
def test_augment_images_names_unreadable_ones(tmp_path, data, size_wh, expected):
    path = manifests.write(tmp_path / "a", [manifests.line("s3://b/a.png", size_wh=size_wh)])
    put(tmp_path, "b.png", b"")
    if data is not None:
        put(tmp_path, "a.png", data)

    done = images(tmp_path, path)

    assert done.written == 0
    assert len(done.failures) == 1 and re.search(expected, done.failures[0])

"""What a check says of the files of pictures: damaged, doubled, unlabelled, and what else lies in a folder."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from helpers.data import picture
from helpers.faulty_sets import (
    ANCHORS,
    BAD_IMAGES,
    BOX,
    JPEG,
    PNG,
    SIZE,
    TEN,
    data_set,
    found,
    line,
    photo,
    saved,
    side_of,
)
from PIL import Image

from ssd_train.data.checks.runner import Split, check_data, check_leakage, quick_check
from ssd_train.data.image_io import encode_jpeg, encode_png
from ssd_train.data.image_sources import FolderImages
from ssd_train.data.labels import read_labels

# only decoding shows these
HIDDEN = {"PNG with a wrong byte", "PNG with too few pixels", "half a JPEG, given an end"}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_check_bad_image_has_its_code_and_place(tmp_path, case):
    bad, images, code = BAD_IMAGES[case]
    side = side_of(tmp_path, [bad], images)
    assert [entry for entry in found(side) if entry[0] != "image-without-label"] == [(code, "a.manifest:11")]
    codes = [(finding.code, finding.where.rsplit("/", 1)[-1]) for finding in quick_check(side.labels, side.images)]
    assert codes == ([] if case in HIDDEN else [(code, "a.manifest:11")])


def test_check_too_many_pixels_is_found(tmp_path):
    picture_of_51_megapixels = saved(np.zeros((7000, 7300), np.uint8), "PNG")
    side = side_of(tmp_path, [line("bad.jpg", BOX, size_wh=(7300, 7000))], {"bad.jpg": picture_of_51_megapixels})
    assert ("too-large", "a.manifest:11") in found(side)
    assert [finding.code for finding in quick_check(side.labels, side.images)] == ["too-large"]


def test_check_same_file_twice_in_one_split(tmp_path):
    lines = [line("s3://b/images/bad.jpg", BOX), line("s3://b/images/other.jpg", (0, 0, 0, 60, 60))]
    side = side_of(tmp_path, lines, {"bad.jpg": JPEG, "other.jpg": JPEG})
    (finding,) = check_data([side], 300, ANCHORS).findings
    assert (finding.code, finding.where) == ("duplicate-picture", f"{side.labels.source}:12")
    assert finding.detail == f"'other.jpg' is 'bad.jpg' of {side.labels.source}:11, with other boxes"


def test_check_same_file_in_both_splits(tmp_path):
    train = side_of(tmp_path / "a", [line()], {"bad.jpg": JPEG})
    validation = side_of(tmp_path / "b", [line("s3://b/images/val.jpg")], {"val.jpg": JPEG}, 50, "validation")
    assert found(train, validation) == [("same-image-in-train-and-validation", "a.manifest:11")]
    assert check_leakage(train, validation) == []  # which looks at places only


def test_check_same_path_in_both_splits(tmp_path):
    train = side_of(tmp_path)
    validation = Split("validation", train.labels.subset([index < 2 for index in range(TEN)]), train.images)
    codes = [(finding.code, finding.name) for finding in check_leakage(train, validation)]
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
def test_check_near_duplicate_is_found(tmp_path, data, size_wh):
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


def test_check_image_without_label_is_found(tmp_path):
    train = side_of(tmp_path, [], {"new.jpg": JPEG, "deep/in/new.png": PNG, "notes.txt": b"of the day", ".x": b""})
    assert found(train) == [("image-without-label", "new.png"), ("image-without-label", "new.jpg")]


def test_check_two_files_of_one_name_names_the_unlabelled(tmp_path):
    train = side_of(tmp_path, [], {"old/3.jpg": JPEG})
    result = check_data([train], 300, ANCHORS)
    assert [finding.where for finding in result.findings] == [os.path.join(train.images.root, "old", "3.jpg")]


def test_check_links_count_as_their_targets(tmp_path):
    place, manifest = data_set(tmp_path, [line()], {"store/of/pictures.jpg": JPEG})
    (place / "bad.jpg").symlink_to(place / "store/of/pictures.jpg")
    assert found(Split("train", read_labels(manifest), FolderImages(place))) == []


def test_check_folder_of_both_splits_is_listed_once(tmp_path):
    whole = side_of(tmp_path, [], {"new.jpg": JPEG})
    halves = [whole.labels.subset([index % 2 == side for index in range(TEN)]) for side in (0, 1)]
    train, validation = (Split(name, labels, whole.images) for name, labels in zip(("train", "validation"), halves))
    codes = [entry for entry in found(train, validation) if entry[0] != "few-examples"]
    assert codes == [("image-without-label", "new.jpg")]


def test_check_fifo_in_the_folder_is_unreadable(tmp_path):
    place, manifest = data_set(tmp_path, [line()])
    os.mkfifo(place / "bad.jpg")
    side = Split("train", read_labels(manifest), FolderImages(place))
    assert found(side) == [("unreadable-image", "a.manifest:11")]
    assert [finding.code for finding in quick_check(side.labels, side.images)] == ["unreadable-image"]


@pytest.mark.parametrize("kept, codes", [(1.0, []), (0.9, ["truncated-image"])], ids=["whole", "cut off"])
@pytest.mark.parametrize("comment", [0, 100_000], ids=["short header", "header longer than a glance"])
def test_quick_check_large_file_finds_truncation(tmp_path, kept, codes, comment):
    exif = Image.Exif()
    exif[0x010E] = "x" * min(comment, 60_000)  # a description, to put the size far into the file
    options = {"icc_profile": bytes(comment)} if comment else {}
    data = saved(picture((600, 500), 1), "JPEG", quality=95, exif=exif, **options)
    assert len(data) > 3 * 65536
    data = data[: int(len(data) * kept)]
    side = side_of(tmp_path, [line(size_wh=(600, 500))], {"bad.jpg": data})
    assert [finding.code for finding in quick_check(side.labels, side.images)] == codes


REAL_COPIES = {
    "raccoon": {
        "duplicate-picture": {("11", "116"), ("83", "120"), ("52", "74"), ("65", "98")},
        "near-duplicate-picture": {("21", "45"), ("50", "52"), ("51", "85")},
    },
    "bccd": {"near-duplicate-picture": {("00037", "00038")}},
    "fruit": {},
}


@pytest.mark.parametrize("name", REAL_COPIES)
def test_check_real_sets_have_the_known_duplicates(shared_data, name):
    folder = shared_data / "data" / name
    labels = read_labels(folder / "output.manifest")
    result = check_data([Split("train", labels, FolderImages(folder / "images"))], 300, ANCHORS)
    copies = {}
    for finding in result.findings:
        if "duplicate" in finding.code:
            pair = re.findall(r"'[A-Za-z]+[-_](\d+)\.jpg'", finding.detail)
            copies.setdefault(finding.code, set()).add(tuple(sorted(pair, key=int)))
    assert copies == REAL_COPIES[name]
    assert result.number("error") == 0
    assert set(result.counts) - set(copies) <= {"box-without-anchor"}

"""Endings of pictures, hidden files, and names as other tools write them."""

from __future__ import annotations

import pytest
from helpers.data import HeardProgress, picture, write_files

from ssd_train.cli.main import main
from ssd_train.cli.paths import find_images
from ssd_train.data.file_names import files_below, images_below, is_image_name, is_plain
from ssd_train.data.image_io import encode_jpeg
from ssd_train.data.image_sources import FolderImages, portable_name
from ssd_train.data.structures import LabeledImage
from ssd_train.prepare.manifest import list_images
from ssd_train.progress import Progress

HIDDEN = (".ipynb_checkpoints/a-checkpoint.jpg", "x/.cache/b.png", "._a.jpg", "__MACOSX/x/._a.jpg", "__MACOSX/c.jpg")


@pytest.mark.parametrize("ending", ["jpg", "JPG", "jpeg", "Jpe", "jfif", "png", "bmp", "tif", "TIFF", "webp"])
def test_is_image_name_ending_in_any_case_is_true(ending):
    assert (
        is_image_name(f"dir.txt/a.{ending}") and not is_image_name(f"{ending}") and not is_image_name(f"a.{ending}.txt")
    )


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path / ".hidden_above", dict.fromkeys(["a.jpg", "x/b.JFIF", "x/note.txt", *HIDDEN], "x"))


def test_every_listing_hidden_files_are_left_out(folder):
    wanted = ["a.jpg", "x/b.JFIF"]
    assert [file.relative_to(folder).as_posix() for file in images_below(folder)] == wanted
    assert [file.name for file in files_below(folder)] == ["a.jpg", "b.JFIF", "note.txt"]
    assert list_images(folder) == wanted
    assert [picture.name for picture in find_images([folder], Progress())] == wanted


def test_files_below_follows_links_to_folders_outside_once(tmp_path):
    """As `train -> /datasets/train`; links back to the folder or to one above it would have no end."""
    write_files(tmp_path / "outside", dict.fromkeys(["sub/a.jpg", "b.jpg"], "x"))
    root = write_files(tmp_path / "root", {"own/c.jpg": "x"})
    for name, target in (("linked", "outside"), ("linked_again", "outside/sub"), ("self", "root"), ("above", ".")):
        (root / name).symlink_to(tmp_path / target)
    (root / "own" / "up").symlink_to("..")
    (root / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "outside" / "sub" / "back").symlink_to(tmp_path / "outside")
    found = [file.relative_to(root).as_posix() for file in images_below(root)]
    assert found == ["linked/b.jpg", "linked/sub/a.jpg", "own/c.jpg"]


PORTABLE = {
    "as it is": ("x/b.JFIF", "x/b.JFIF"),
    "its address on S3": ("s3://bucket/y/a.jpg", "s3://bucket/y/a.jpg"),
    "other case": ("X/B.jfif", "x/b.JFIF"),
    "web address": ("https://host/upload/1/a.jpg", "a.jpg"),
    "absolute": ("/home/me/x/b.JFIF", "x/b.JFIF"),
    "backslashes": ("x\\b.JFIF", "x/b.JFIF"),
    "absolute, not there": ("/home/me/c.jpg", "home/me/c.jpg"),
    "Windows, not there": ("D:\\me\\c.jpg", "me/c.jpg"),
    "without ending": ("b", "x/b.JFIF"),
}


@pytest.mark.parametrize("name, portable", PORTABLE.values(), ids=PORTABLE.keys())
def test_portable_name_foreign_name_becomes_the_path_below_the_folder(folder, name, portable):
    found = FolderImages(folder).portable_name(LabeledImage(name, [], []))
    assert found == portable and is_plain(found)


def test_portable_name_without_files_drops_host_and_root():
    assert portable_name(LabeledImage("gs://bucket/a/b.jpg", [], [])) == "a/b.jpg"


@pytest.mark.parametrize("target", ["coco.json", "voc", "image_json", "ground_truth.manifest"])
def test_convert_foreign_names_are_not_handed_on(tmp_path, target):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.JPG").write_bytes(encode_jpeg(picture((40, 30), 0)))
    image = '{"id": 1, "file_name": "C:\\\\photos\\\\a.jpg", "width": 40, "height": 30}'
    box = '{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 12]}'
    (tmp_path / "in.json").write_text(
        f'{{"images": [{image}], "annotations": [{box}], "categories": [{{"id": 1, "name": "cat"}}]}}'
    )
    output, format = tmp_path / "out" / target, target.partition(".")[0]
    command = ["prepare", "convert", "--labels", str(tmp_path / "in.json"), "--images", str(tmp_path / "images")]
    assert main([*command, "--labels_format", "coco", "--to", format, "--output", str(output)]) == 0
    written = output.read_text() if output.is_file() else next(output.rglob("a.*")).read_text()
    assert "a.JPG" in written and "photos" not in written


def test_commands_that_search_a_folder_name_images_that_are_not_read(tmp_path, capsys):
    """Photographs of an iPhone, and GIF files: predict, label and export share `find_images`."""
    write_files(tmp_path / "a", {"1.jpg": encode_jpeg(picture()), "2.HEIC": "x", "b/3.heic": "x", "4.gif": "x"})
    assert main(["prepare", "manifest", str(tmp_path / "a"), "--output", str(tmp_path / "a.manifest")]) == 0
    assert "images that are not read (1 .gif, 2 .heic)" in capsys.readouterr().out
    progress = HeardProgress()
    assert len(find_images([tmp_path / "a"], progress)) == 1
    assert ["2 .heic" in line for line in progress.warnings] == [True]
    labels = write_files(tmp_path, {"a/1.txt": "0 0.5 0.5 0.4 0.4\n"}) / "a"
    assert main(["check", "--images", str(labels)]) == 0
    assert "2 .heic" in capsys.readouterr().out

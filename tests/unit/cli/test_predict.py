"""predict: which pictures are meant, under which names."""

from __future__ import annotations

import errno
import os

import pytest
from helpers.data import picture, write_files

from ssd_train.cli.main import main
from ssd_train.cli.paths import find_images, overlay_paths
from ssd_train.data.image_io import encode_png
from ssd_train.errors import ConfigError
from ssd_train.progress import Progress


@pytest.fixture
def folder(tmp_path):
    """Pictures at several depths, and files that are none."""
    files = ["b.jpg", "a.PNG", "deep/er/c.jpeg", "deep/a.PNG", "notes.txt", "deep/d.webp", "Ä ö+%20.png"]
    return write_files(tmp_path / "pictures", dict.fromkeys(files, encode_png(picture())))


def names(paths):
    return [found.name for found in find_images(paths, Progress())]


def test_a_folder_gives_all_below_it_by_their_paths(folder):
    assert names([folder]) == ["a.PNG", "b.jpg", "deep/a.PNG", "deep/d.webp", "deep/er/c.jpeg", "Ä ö+%20.png"]


def test_find_images_unreadable_folder_is_an_error(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "er":  # root, as whom tests may run, lists everything
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ConfigError, match=r"deep/er: .*Permission denied"):
        find_images([folder], Progress())


def test_find_images_file_of_any_extension_is_taken(folder):
    assert names([folder / "deep" / "d.webp", folder / "notes.txt"]) == ["d.webp", "notes.txt"]


@pytest.mark.parametrize(
    "chosen, expected",
    [
        (["a.PNG", "deep/a.PNG"], "'a.PNG'"),
        (["deep", "deep/er"], None),
        (["."], None),
        ([".", "b.jpg"], "'b.jpg'"),
        (["none.jpg"], "none.jpg: not found"),
        (["empty"], "empty: found no image"),
    ],
)
def test_find_images_ambiguous_or_missing_is_an_error(folder, chosen, expected):
    (folder / "empty").mkdir()
    paths = [folder / name for name in chosen]
    if expected is None:
        assert len(names(paths)) >= 4
        return
    with pytest.raises(ConfigError) as error:
        find_images(paths, Progress())
    assert str(error.value).startswith((str(folder), "found ")) and expected in str(error.value)


@pytest.mark.parametrize(
    "given, expected",
    [
        pytest.param(["a.jpg", "d/b.png", "e.PNG", "c"], ["a.jpg", "d/b.png", "e.png", "c.jpg"], id="endings"),
        pytest.param(["a.jpg", "a.png", "a.bmp"], ["a.jpg.jpg", "a.png", "a.bmp.jpg"], id="two of one name"),
        pytest.param(["a.jpg", "d/a.bmp"], ["a.jpg", "d/a.jpg"], id="in two folders"),
        pytest.param(["a.jpg", "a.webp", "a.webp.bmp"], ["a.jpg.jpg", "a.webp.jpg", "a.webp.bmp.jpg"], id="three"),
    ],
)
def test_names_of_overlays(tmp_path, given, expected):
    found = overlay_paths(tmp_path / "seen", {name: tmp_path / name for name in given})
    assert found == {name: tmp_path / "seen" / drawn for name, drawn in zip(given, expected)}


def test_overlay_paths_over_input_images_are_refused(folder):
    with pytest.raises(ConfigError, match=r"^overlays: found .*b\.jpg"):
        overlay_paths(folder, {"b.jpg": folder / "deep" / ".." / "b.jpg"})


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "the following arguments are required: PATH, --model"),
        (["a.jpg", "--model", "none"], "none"),
        (["a.jpg", "--model", "none", "--threshold", "3"], "argument --threshold: found 3, expected 0 to 1"),
    ],
)
def test_flags_that_do_not_fit(capsys, arguments, expected):
    assert main(["predict", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and expected in error and error.count("\n") == 1

"""manifest: images as the input of a labelling job."""

from __future__ import annotations

import pytest
from helpers import manifests
from helpers.data import write_files

from ssd_train.errors import ConfigError, DataError
from ssd_train.prepare.manifest import write_listing


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path / "in", dict.fromkeys(["b/x y.JPG", "a.png", "notes.txt", "ü.jpg"], "x"))


@pytest.mark.parametrize("prefix", ["s3://bucket/path", "s3://bucket/path/"])
def test_folder(tmp_path, folder, prefix):
    assert write_listing([folder], tmp_path / "out", prefix) == 3
    assert manifests.read(tmp_path / "out") == [
        {"source-ref": f"s3://bucket/path/{name}"} for name in ("a.png", "b/x y.JPG", "ü.jpg")
    ]


def test_every_second(tmp_path, folder):
    write_listing([folder], tmp_path / "out", every=2)

    assert manifests.sources(tmp_path / "out") == ["a.png", "ü.jpg"]


def test_list_of_names(tmp_path):
    (tmp_path / "list.txt").write_text("\ufeffa.jpg\r\n\ns3://other/b.jpg\nno-suffix\n", "utf-8")

    write_listing([tmp_path / "list.txt", "c.jpg"], tmp_path / "out", "s3://b")

    assert manifests.sources(tmp_path / "out") == [
        "s3://b/a.jpg",
        "s3://other/b.jpg",
        "s3://b/no-suffix",
        "s3://b/c.jpg",
    ]


def test_keys_out_of_names(tmp_path):
    (tmp_path / "list").write_text("v/blue_box_1_000.jpg\nv/red_bin_1_000.jpg\n")

    write_listing([tmp_path / "list"], tmp_path / "out", name_regex=r"(?P<color>[a-z]+)_(?P<object>[a-z]+)_\d")

    assert [list(value.items())[1:] for value in manifests.read(tmp_path / "out")] == [
        [("color", "blue"), ("object", "box")],
        [("color", "red"), ("object", "bin")],
    ]


@pytest.mark.parametrize(
    "text, how, error, expected",
    [
        pytest.param("a.jpg", {"prefix": "bucket/path"}, ConfigError, "expected s3://bucket/path", id="prefix"),
        pytest.param("a.jpg", {"every": 0}, ConfigError, "every: found 0", id="every"),
        pytest.param("a.jpg", {"name_regex": "("}, ConfigError, "expected a regular expression", id="bad-regex"),
        pytest.param("a.jpg", {"name_regex": "(?P<x>z)"}, DataError, "finds nothing in 'a.jpg'", id="no-match"),
        pytest.param("a.jpg\na.jpg", {}, DataError, "found image 'a.jpg' twice", id="twice"),
        pytest.param("\n\n", {}, DataError, "no line would be left", id="empty"),
        pytest.param(None, {}, DataError, "cannot be read", id="missing"),
    ],
)
def test_write_listing_bad_input_is_an_error(tmp_path, text, how, error, expected):
    if text is not None:
        (tmp_path / "list").write_text(text)

    with pytest.raises(error, match=expected):
        write_listing([tmp_path / "list"], tmp_path / "out", **how)

    assert not (tmp_path / "out").exists()

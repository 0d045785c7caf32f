from __future__ import annotations

import errno
import os

import pytest
from helpers.data import write_files

from ssd_train.data.image_sources import FetchedImages, FolderImages, MemoryImages
from ssd_train.data.structures import LabeledImage
from ssd_train.errors import DataError


def record(name, where="train.manifest:17"):
    return LabeledImage(name, [], [], None, where)


@pytest.fixture
def root(tmp_path):
    files = ["a/b/c.jpg", "b/c.jpg", "x/c.jpg", "d.jpg", "deep/er/unique.jpg", "one/twin.jpg", "two/twin.jpg"]
    files += [
        "odd\\name.jpg",
        "case/both.jpg",
        "case/BOTH.jpg",
        "case/cafe\u0301.jpg",
        "p/three.jpg",
        "q/deep/three.jpg",
    ]
    files += [".ipynb_checkpoints/e-checkpoint.jpg", "__MACOSX/._unique.jpg", "__MACOSX/unique.jpg"]
    files += ["frames/with space+plus%20.jpg", "frames/größe.png", "frames/dots.in.name.jpg"]
    write_files(tmp_path / "root", {file: file for file in files})
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return tmp_path / "root"


FOUND = {
    "s3 path": ("s3://bucket/a/b/c.jpg", "a/b/c.jpg"),
    "bucket is no folder": ("s3://a/b/c.jpg", "b/c.jpg"),
    "longest suffix first": ("s3://bucket/prefix/a/b/c.jpg", "a/b/c.jpg"),
    "unique basename": ("s3://bucket/elsewhere/unique.jpg", "deep/er/unique.jpg"),
    "literal key": ("s3://bucket/frames/with space+plus%20.jpg", "frames/with space+plus%20.jpg"),
    "single dots and double slashes": ("./a//b/c.jpg", "a/b/c.jpg"),
    "web address with a query": ("https://host/upload/1/unique.jpg?sig=a/b&n=1#top", "deep/er/unique.jpg"),
    "escaped web address": ("https://host/with%20space+plus%2520.jpg", "frames/with space+plus%20.jpg"),
    "Label Studio's local files, with a host": (
        "http://localhost:8080/data/local-files/?d=a%5Cb/unique.jpg",
        "deep/er/unique.jpg",
    ),
    "file address": ("file:///home/me/two/twin.jpg", "two/twin.jpg"),
    "Google's storage": ("gs://bucket/frames/with space+plus%20.jpg", "frames/with space+plus%20.jpg"),
    "Azure's storage": ("wasbs://box@account.blob.core.windows.net/a/b/c.jpg", "a/b/c.jpg"),
    "Windows path": ("C:\\Users\\me\\one\\twin.jpg", "one/twin.jpg"),
    "backslash of the name": ("odd\\name.jpg", "odd\\name.jpg"),
    "other case of a folder": ("One/Twin.jpg", "one/twin.jpg"),
    "exact name before other case": ("both.jpg", "case/both.jpg"),
    "decomposed": ("frames/gro\u0308\u00dfe.png", "frames/größe.png"),
    "without ending": ("s3://bucket/unique", "deep/er/unique.jpg"),
    "without ending, with dots": ("dots.in.name", "frames/dots.in.name.jpg"),
    "most of the path": ("s3://bucket/x/elsewhere/deep/three.jpg", "q/deep/three.jpg"),
}


@pytest.mark.parametrize("name, file", FOUND.values(), ids=FOUND.keys())
def test_folder_images_are_found(root, name, file):
    source = FolderImages(root)
    assert source.locate(record(name)) == os.path.join(os.path.realpath(root), file)
    assert source.read(record(name)) == file.encode()


REFUSED = {
    "missing": (
        "s3://bucket/a/none.jpg",
        r"'s3://bucket/a/none.jpg' not found, expected 'none.jpg' below .*root; --fetch_images 1",
    ),
    "decoded key": ("s3://bucket/frames/with space plus .jpg", "not found"),
    "ambiguous": ("s3://bucket/three/twin.jpg", r"may be .*one/twin.jpg or .*two/twin.jpg \(2 files"),
    "dots": ("s3://bucket/../secret.jpg", r"leaves its folder by '\.\.'"),
    "dots that come back": ("a/../d.jpg", r"leaves its folder by '\.\.'"),
    "absolute": ("/etc/passwd", "not found, expected 'passwd' below"),
    "address that leads out": ("https://host/a/../../secret.jpg", r"leaves its folder by '\.\.'"),
    "backslashes that lead out": ("..\\secret.jpg", "not found, expected"),
    "hidden copy": ("e-checkpoint.jpg", "not found"),
    "NUL": ("a/b\0/c.jpg", "holds a NUL"),
    "no key": ("s3://bucket", "has no file name"),
    "folder": ("s3://bucket/a/b", "is a folder or a device, expected a file"),
}


@pytest.mark.parametrize("name, message", REFUSED.values(), ids=REFUSED.keys())
def test_folder_images_refuse(root, name, message):
    with pytest.raises(DataError, match=message) as raised:
        FolderImages(root).read(record(name))
    assert str(raised.value).startswith("train.manifest:17: ")


@pytest.mark.parametrize("name", ["link.jpg", "s3://bucket/any/link.jpg", "out/secret.jpg"])
def test_links_out_of_the_folder_are_refused(root, name):
    (root / "link.jpg").symlink_to(root.parent / "secret.jpg")
    (root / "out").symlink_to(root.parent)
    with pytest.raises(DataError, match="is a link to .*secret.jpg, expected an image inside"):
        FolderImages(root).read(record(name))


def test_a_folder_beside_with_the_same_beginning_is_outside(root):
    beside = root.parent / "root-of-another"
    beside.mkdir()
    (beside / "z.jpg").write_bytes(b"z")
    (root / "z.jpg").symlink_to(beside / "z.jpg")
    with pytest.raises(DataError, match="is a link to"):
        FolderImages(root).locate(record("z.jpg"))


def test_links_within_the_folder_and_a_linked_folder_are_fine(root, tmp_path):
    (root / "again.jpg").symlink_to(root / "d.jpg")
    (tmp_path / "channel").symlink_to(root)
    assert FolderImages(tmp_path / "channel").read(record("again.jpg")) == b"d.jpg"


def test_a_fifo_does_not_hang(root):
    os.mkfifo(root / "pipe.jpg")
    with pytest.raises(DataError, match="is a folder or a device"):
        FolderImages(root).read(record("pipe.jpg"))


def test_folder_images_unreadable_folder_is_an_error(root, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)  # root, as whom tests may run, lists everything
    with pytest.raises(DataError, match=r"root: cannot be read \(Permission denied\), expected a readable folder"):
        FolderImages(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_forbidden_file_is_an_error(root):
    (root / "d.jpg").chmod(0)
    with pytest.raises(DataError, match="cannot be read .Permission denied"):
        FolderImages(root).read(record("d.jpg"))


def test_memory_images():
    source = MemoryImages({"s3://b/a.jpg": b"bytes"})
    assert source.read(record("s3://b/a.jpg")) == b"bytes"
    assert source.locate(record("s3://b/a.jpg")) == "s3://b/a.jpg"
    with pytest.raises(DataError, match="^train.manifest:17: image 'b.jpg' not found, expected one of 1 in memory$"):
        source.read(record("b.jpg"))


def test_fetched_images_are_those_that_the_folder_lacks(root, tmp_path):
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(b"copy")
    found = {"s3://bucket/none.jpg": copy, "s3://bucket/gone.jpg": DataError("s3://bucket/gone.jpg: no such object")}
    asked = []

    def fetch(addresses):
        asked.extend(addresses)
        return {address: found[address] for address in addresses}

    names = ["s3://bucket/a/b/c.jpg", "s3://bucket/none.jpg", "s3://bucket/three/twin.jpg", "a/none.jpg", *found]
    source = FetchedImages(FolderImages(root), [record(name) for name in names], fetch)

    assert asked == ["s3://bucket/gone.jpg", "s3://bucket/none.jpg"]
    assert source.read(record("s3://bucket/none.jpg")) == b"copy"
    assert source.locate(record("s3://bucket/none.jpg")) == str(copy)
    assert source.read(record("s3://bucket/a/b/c.jpg")) == b"a/b/c.jpg"
    for name, message in {
        "s3://bucket/gone.jpg": r"^train.manifest:17: image s3://bucket/gone.jpg: no such object$",
        "s3://bucket/three/twin.jpg": "2 files",
        "a/none.jpg": "not found",
    }.items():
        with pytest.raises(DataError, match=message):
            source.read(record(name))

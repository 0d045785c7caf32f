"""s3:// paths against a real server of the S3 API on loopback: moto's, or a stub where that has no such fault."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from helpers.data import HeardProgress
from helpers.services import contents, copies, fault, put, stub

from ssd_train.errors import DataError, SsdTrainError
from ssd_train.storage.s3 import Store, Unavailable, Url
from ssd_train.storage.s3_cache import S3Cache, upload

pytestmark = pytest.mark.usefixtures("s3_surroundings")  # no request to anything but loopback


def test_bring_folder_with_several_pages_of_objects(s3_client, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    put(s3_client, *(f"train/{n // 10}/{n}.jpg" for n in range(101)))
    put(s3_client, "train2/other.jpg", "train/")

    folder = copies().fetch(Url("bucket", "train"))

    assert folder.name == "train"
    assert contents(folder) == {f"{n // 10}/{n}.jpg": b"1" for n in range(101)}


@pytest.mark.parametrize("size", [0, 1, 3_000_000], ids=["empty", "a-byte", "several-chunks"])
def test_upload_and_bring_round_trip(s3_client, tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "there").write_bytes(data)
    assert upload(Store(), tmp_path / "there", Url("bucket", "a b/größe+%20.bin"), HeardProgress()) == 1
    assert s3_client.get_object(Bucket="bucket", Key="a b/größe+%20.bin")["Body"].read() == data
    assert copies().fetch(Url("bucket", "a b/größe+%20.bin")).read_bytes() == data


def test_bring_downloads_only_changed_objects(s3_client):
    put(s3_client, *(f"train/{n}.jpg" for n in range(6)))
    first = copies()
    folder = first.fetch(Url("bucket", "train/"))
    put(s3_client, "train/1.jpg", body=b"2")  # of the same size
    put(s3_client, "train/new.jpg")
    s3_client.delete_object(Bucket="bucket", Key="train/2.jpg")
    (folder / "3.jpg").unlink()
    (folder / "4.jpg").write_bytes(b"x")
    read = []
    store = Store()
    get, store.read = store.read, lambda url, file: (read.append(url.key), get(url, file))[1]

    heard = HeardProgress()
    assert S3Cache(store, heard).fetch(Url("bucket", "train/")) == folder

    assert sorted(read) == [f"train/{name}.jpg" for name in ("1", "3", "4", "new")]
    (line,) = heard.lines
    assert line.startswith("s3://bucket/train/: 4 of 6 files ")
    assert contents(folder) == {
        "0.jpg": b"1",
        "1.jpg": b"2",
        "3.jpg": b"1",
        "4.jpg": b"1",
        "5.jpg": b"1",
        "new.jpg": b"1",
    }


def test_bring_after_an_interruption_keeps_finished_copies(s3_client):
    put(s3_client, *(f"train/{n:02d}.jpg" for n in range(20)))
    store = Store()
    get, reads = store.read, []

    def breaking(url, file):
        reads.append(url.key)
        if url.key == "train/10.jpg":
            file.write(b"half")
            raise KeyboardInterrupt
        return get(url, file)

    store.read = breaking
    with pytest.raises(KeyboardInterrupt):
        S3Cache(store, HeardProgress()).fetch(Url("bucket", "train/"))
    index = next((copies()._root).glob("bucket/index.jsonl"))
    index.write_bytes(index.read_bytes() + b'["train/19.jpg", "cut o')  # as a kill leaves it
    got, reads[:] = set(reads) - {"train/10.jpg"}, []

    store.read = lambda url, file: (reads.append(url.key), get(url, file))[1]
    folder = S3Cache(store, HeardProgress()).fetch(Url("bucket", "train/"))

    assert got and not got & set(reads) and len(got) + len(reads) == 20
    assert contents(folder) == {f"{n:02d}.jpg": b"1" for n in range(20)}
    assert not list(index.parent.glob("incoming*/*"))


LONG = f"s3://bucket/{'x' * 300}.jpg"  # a key has up to 1024 bytes, a name of a file 255
MISSING = {
    "object": ("s3://bucket/none.jpg", "s3://bucket/none.jpg: there is no such object"),
    "bucket": ("s3://none/a.jpg", "s3://none/a.jpg: there is no such bucket"),
    "object gone since": ("s3://bucket/gone.jpg", "s3://bucket/gone.jpg: there is no such object"),
    "dots": ("s3://bucket/a/../../b", "s3://bucket/a/../../b: "),
    "no bucket": ("s3:///b", "found 's3:///b'"),
    "bucket that is a folder": ("s3://../b", "found 's3://../b'"),
    "empty part": ("s3://bucket/a//b", "s3://bucket/a//b: "),
    "NUL in the bucket": ("s3://a\0b/k", "found 's3://a\\x00b/k'"),
    "surrogate in the bucket": ("s3://a\ud800/k", "found 's3://a\\ud800/k'"),
    "surrogate in the key": ("s3://bucket/\ud800.jpg", "found 's3://bucket/\\ud800.jpg'"),
    "blank in the bucket": ("s3://a b/k", "found 's3://a b/k'"),
    "long bucket": (f"s3://{'b' * 300}/k", "found 's3://bbb"),
    "longer than a file name": (LONG, f"{LONG}: "),
    "below an object that is a file": ("s3://bucket/there.jpg/b", "s3://bucket/there.jpg/b: "),
}


@pytest.mark.parametrize("address, message", MISSING.values(), ids=MISSING.keys())
def test_bring_each_missing_object_does_not_stop_the_others(s3_client, address, message):
    put(s3_client, "gone.jpg", "there.jpg", "there.jpg/b", LONG[len("s3://bucket/") :])
    copies().fetch_each(["s3://bucket/gone.jpg", "s3://bucket/there.jpg"])
    s3_client.delete_object(Bucket="bucket", Key="gone.jpg")
    found = copies().fetch_each(["s3://bucket/there.jpg", address])
    assert found["s3://bucket/there.jpg"].read_bytes() == b"1"
    assert isinstance(found[address], Unavailable) and str(found[address]).startswith(message)


def test_bring_each_expired_credentials_stop_at_once(monkeypatch):
    with stub(fault("ExpiredToken")) as (address, seen):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(DataError, match="^s3://bucket/0.jpg: the credentials have expired$"):
            copies().fetch_each([f"s3://bucket/{n}.jpg" for n in range(100)])
    assert len(seen) < 50


@pytest.mark.parametrize(
    "url, message",
    [
        pytest.param(Url("none", "a/b"), "^s3://none/a/b: there is no such bucket$", id="bucket"),
        pytest.param(Url("none", ""), "^s3://none/: there is no such bucket$", id="whole-bucket"),
        pytest.param(Url("bucket", "a/b"), "^s3://bucket/a/b/: ", id="key"),
        pytest.param(Url("bucket", ""), "^s3://bucket/: ", id="empty-bucket"),
        pytest.param(Url("Bad_Bucket!", "a"), "^s3://Bad_Bucket!/a: ", id="name"),
    ],
)
def test_bring_missing_url_is_an_error(s3_client, url, message):
    with pytest.raises(DataError, match=message):
        copies().fetch(url)


@pytest.mark.parametrize("key", ["a/../x", "a//x", "./x"])
def test_bring_folder_with_invalid_keys_is_an_error(s3_client, key):
    put(s3_client, "p/1.jpg", f"p/{key}")
    with pytest.raises(DataError, match=f"^s3://bucket/p/{key}: "):
        copies().fetch(Url("bucket", "p/"))


def test_bring_full_disk_is_an_error_before_the_download(s3_client, monkeypatch):
    put(s3_client, "p/1.jpg", "p/2.jpg", body=b"1" * 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1999))
    with pytest.raises(SsdTrainError, match=" 2000 bytes .* 1999 "):
        copies().fetch(Url("bucket", "p/"))


def test_bring_errors_contain_no_credentials(s3_client, s3_surroundings, caplog):
    """Not in its text, nor in what stands behind it, nor in a log."""
    caplog.set_level("INFO")
    failing = [lambda: copies().fetch(Url("none", "a")), lambda: copies().fetch(Url("Bad_Bucket!", "a"))]
    for fail in failing:
        with pytest.raises(DataError) as caught:
            fail()
        assert s3_surroundings not in f"{caught.getrepr()} {caplog.text}"

"""Files that appear whole or not at all: every step is failed once, and the process killed at it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple

import pytest

from ssd_train import storage
from ssd_train.errors import SsdTrainError

OLD, NEW = b"old content", b"new content, longer"
Usage = namedtuple("Usage", "total used free")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fail(monkeypatch, function, number):
    def failing(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, failing)


@pytest.mark.parametrize(
    "write, value, expected",
    [
        pytest.param(storage.write_bytes_atomic, b"\0\xff", b"\0\xff", id="bytes"),
        pytest.param(storage.write_text_atomic, "Käfer\n", "Käfer\n".encode(), id="text"),
        pytest.param(storage.write_json_atomic, {"é": [1, 2.5]}, None, id="json"),
        pytest.param(storage.write_bytes_atomic, b"", b"", id="empty"),
    ],
)
def test_a_file_is_written_and_replaced(tmp_path, write, value, expected):
    path = tmp_path / "new" / "folder" / "file [1]"
    for _ in range(2):
        write(path, value)
        assert json.loads(path.read_text("utf-8")) == value if expected is None else path.read_bytes() == expected
    assert names(path.parent) == ["file [1]"]


def test_json_without_a_meaning_is_refused_and_the_old_file_kept(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(OLD)
    with pytest.raises(ValueError, match="(?i)out of range float"):
        storage.write_json_atomic(path, {"loss": float("nan")})
    assert path.read_bytes() == OLD


@pytest.mark.parametrize(
    "function, number, expected",
    [
        pytest.param(
            "fsync", errno.ENOSPC, r"a\.bin: the disk is full: at least 19 bytes are needed, \d+ are free", id="full"
        ),
        pytest.param("fsync", errno.EDQUOT, "the disk is full", id="quota"),
        pytest.param("replace", errno.EACCES, "a.bin: cannot be written: Permission denied", id="denied"),
        pytest.param("fsync", errno.EIO, "a.bin: cannot be written: Input/output error", id="broken-disk"),
    ],
)
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, function, number, expected):
    path = tmp_path / "a.bin"
    path.write_bytes(OLD)
    fail(monkeypatch, function, number)
    with pytest.raises(SsdTrainError, match=expected):
        storage.write_bytes_atomic(path, NEW)
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["a.bin"]


def test_a_block_that_raises_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(OLD)
    with pytest.raises(KeyError):
        with storage.open_atomic(path) as file:
            file.write(NEW)
            raise KeyError("the caller's own")
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["a.bin"]


def test_an_error_of_another_file_keeps_its_own_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="other"):
        with storage.open_atomic(tmp_path / "out" / "a.bin"):
            open(tmp_path / "other" / "missing.jpg", "rb")


def test_a_kill_at_any_step_leaves_the_old_or_the_new_file(tmp_path, killed_at):
    path, step, seen = tmp_path / "a.bin", 0, set()
    died = True
    while died:
        path.write_bytes(OLD)
        step += 1
        died = killed_at(step, lambda: storage.write_bytes_atomic(path, NEW))
        seen.add(path.read_bytes())
        assert path.read_bytes() in (OLD, NEW)
        storage.write_bytes_atomic(path, NEW)
        assert names(tmp_path) == ["a.bin"], "what the kill left half done is still there"
    assert step > 3 and seen == {OLD, NEW}


def test_the_temporary_file_of_a_living_process_is_left_alone(tmp_path):
    living, stranger = tmp_path / f"a.bin.tmp-{os.getppid()}", tmp_path / "a.bin.tmp-notes"
    living.write_bytes(b"")
    stranger.write_bytes(b"")
    storage.write_bytes_atomic(tmp_path / "a.bin", NEW)
    assert living.exists() and stranger.exists()


@pytest.mark.parametrize(
    "free, expected",
    [
        pytest.param(0, (SsdTrainError, "at least 5000 bytes are needed, 0 are free"), id="full-disk"),
        pytest.param(1 << 30, (RuntimeError, "^FileStream.Write incomplete$"), id="another-fault"),
    ],
)
def test_a_librarys_own_error_on_a_full_disk_is_told_as_such(tmp_path, monkeypatch, free, expected):
    def write():
        raise RuntimeError("FileStream.Write incomplete")  # what MXNet says

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, free))
    with pytest.raises(expected[0], match=expected[1]):
        storage.guarded_write(tmp_path / "a.params", write, 5000)


def test_a_librarys_file_is_moved_into_place(tmp_path):
    temporary, path = tmp_path / "new", tmp_path / "a.params"
    path.write_bytes(OLD)
    storage.guarded_write(temporary, lambda: temporary.write_bytes(NEW), len(NEW))
    storage.move_into_place(temporary, path)
    assert path.read_bytes() == NEW
    assert names(tmp_path) == ["a.params"]


def test_a_file_system_without_directory_sync_is_no_error(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    storage.write_bytes_atomic(tmp_path / "a.bin", NEW)
    assert (tmp_path / "a.bin").read_bytes() == NEW


def test_sha256_of_a_known_text(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert storage.sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

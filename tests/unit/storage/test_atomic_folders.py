"""Folders that appear whole or not at all: a finished one is there after a kill at any step, and damage is named."""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from ssd_train.errors import CheckpointError, SsdTrainError
from ssd_train.storage import atomic
from ssd_train.storage.atomic import CHECKSUMS, finished_dirs, verify_checksums, write_dir_atomic

Usage = namedtuple("Usage", "total used free")


def write(text):
    """A writer of a folder that holds `text` twice, once in a sub-folder."""

    def fill(folder):
        (folder / "weights.bin").write_text(text)
        (folder / "more").mkdir()
        (folder / "more" / "notes.txt").write_text(text + text)

    return fill


def texts(target):
    return [(folder / "weights.bin").read_text() for folder in finished_dirs(target)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "keep, expected",
    [(0, ["c"]), (1, ["c", "b"]), (2, ["c", "b", "a"]), (9, ["c", "b", "a"])],
    ids=["none", "one", "two", "more-than-there-are"],
)
def test_publish_folder_keeps_the_newest_under_new_names(tmp_path, keep, expected):
    target = tmp_path / "state"
    places = [write_dir_atomic(target, write(text), keep) for text in "abc"]
    assert texts(target) == expected
    assert [place.name for place in places] == ["state-000001", "state-000002", "state-000003"]
    assert finished_dirs(target) == places[::-1][: len(expected)]
    assert names(tmp_path) == sorted(folder.name for folder in finished_dirs(target))
    for folder in finished_dirs(target):
        verify_checksums(folder)


@pytest.mark.parametrize("kind", ["folder", "file", "unfinished"])
def test_publish_folder_leaves_existing_files(tmp_path, kind):
    """Also a folder of ours without its checksums: a copy of it broke off."""
    other = tmp_path / ("state-000004" if kind == "unfinished" else "state")
    if kind == "file":
        other.write_text("mine")
    else:
        other.mkdir()
        (other / "weights.bin").write_text("mine")
    place = write_dir_atomic(tmp_path / "state", write("a"), 0)
    assert place.name == ("state-000005" if kind == "unfinished" else "state-000001")
    assert texts(tmp_path / "state") == ["a"]
    assert (other if kind == "file" else other / "weights.bin").read_text() == "mine"


def test_publish_folder_keeps_old_folders_with_user_files(tmp_path):
    target = tmp_path / "state"
    (write_dir_atomic(target, write("a"), 0) / "my notes.txt").write_text("mine")
    for text in "bc":
        write_dir_atomic(target, write(text), 0)
    assert [path.read_text() for path in tmp_path.glob("*/my notes.txt")] == ["mine"]
    assert texts(target) == ["c", "a"]


def test_publish_folder_error_of_the_writer_changes_nothing(tmp_path):
    def failing(folder):
        (folder / "weights.bin").write_text("half")
        raise KeyError("the writer's own")

    target = tmp_path / "state"
    write_dir_atomic(target, write("a"), 1)
    with pytest.raises(KeyError, match="the writer's own"):
        write_dir_atomic(target, failing, 1)
    assert texts(target) == ["a"] and names(tmp_path) == ["state-000001"]


def test_publish_folder_failed_rename_keeps_the_old_folder(tmp_path, monkeypatch):
    target = tmp_path / "state"
    write_dir_atomic(target, write("a"), 1)

    def rename(source, place):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(SsdTrainError, match="state: .*Device or resource busy"):
        write_dir_atomic(target, write("b"), 1)
    assert texts(target) == ["a"] and names(tmp_path) == ["state-000001"]


def full_for_the_writer(folder):
    (folder / "part.bin").write_bytes(b"x" * 1000)
    with open("/dev/full", "wb") as device:
        device.write(b"x")


def full_for_mxnet(folder):
    (folder / "part.bin").write_bytes(b"x" * 1000)
    raise RuntimeError("FileStream.Write incomplete")


@pytest.mark.parametrize("writer, free", [(full_for_the_writer, 1 << 30), (full_for_mxnet, 0)], ids=["system", "mxnet"])
def test_publish_folder_full_disk_keeps_the_old_folder(tmp_path, monkeypatch, writer, free):
    target = tmp_path / "state"
    write_dir_atomic(target, write("a"), 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, free))
    with pytest.raises(SsdTrainError, match=f"state: .* 1000 bytes .* {free} "):
        write_dir_atomic(target, writer, 1)
    assert texts(target) == ["a"] and names(tmp_path) == ["state-000001"]


@pytest.mark.parametrize("keep", [0, 1])
def test_publish_folder_kill_at_any_step_leaves_a_complete_folder(tmp_path, killed_at, keep):
    step, seen, died = 0, set(), True
    while died:
        step += 1
        target = tmp_path / str(step) / "state"
        write_dir_atomic(target, write("a"), keep)
        write_dir_atomic(target, write("b"), keep)
        died = killed_at(step, functools.partial(write_dir_atomic, target, write("c"), keep))
        newest = finished_dirs(target)[0]
        verify_checksums(newest)
        seen.add((newest / "weights.bin").read_text())
        write_dir_atomic(target, write("d"), keep)
        assert texts(target)[0] == "d" and len(names(target.parent)) == len(texts(target)) <= keep + 1
    assert step > 10 and seen == {"b", "c"}


def flip(folder):
    data = bytearray((folder / "weights.bin").read_bytes())
    data[0] ^= 1
    (folder / "weights.bin").write_bytes(data)


def listing(change):
    def rewrite(folder):
        document = json.loads((folder / CHECKSUMS).read_text())
        change(document["files"])
        atomic.write_json_atomic(folder / CHECKSUMS, document)

    return rewrite


@pytest.mark.parametrize(
    "damage, expected",
    [
        pytest.param(flip, "weights.bin: damaged: found SHA-256 ", id="bit-flip"),
        pytest.param(
            lambda folder: os.truncate(folder / "more" / "notes.txt", 3),
            "notes.txt: .* 3 bytes, 8 ",
            id="truncated",
        ),
        pytest.param(lambda folder: os.truncate(folder / "weights.bin", 0), "weights.bin: .* 0 bytes", id="emptied"),
        pytest.param(lambda folder: (folder / "weights.bin").unlink(), "weights.bin: ", id="file-missing"),
        pytest.param(lambda folder: (folder / CHECKSUMS).unlink(), f"{CHECKSUMS}: ", id="never-finished"),
        pytest.param(lambda folder: os.truncate(folder / CHECKSUMS, 9), f"{CHECKSUMS}: ", id="list-truncated"),
        pytest.param(lambda folder: (folder / CHECKSUMS).write_text("[]"), f"{CHECKSUMS}: ", id="list-other"),
        pytest.param(
            listing(lambda files: files.update({"../x": files["weights.bin"]})), f"{CHECKSUMS}: .*'../x'", id="dots"
        ),
        pytest.param(
            listing(lambda files: files.update({"/etc/passwd": files["weights.bin"]})),
            f"{CHECKSUMS}: .*'/etc/passwd'",
            id="absolute",
        ),
    ],
)
def test_verify_folder_damage_is_an_error_with_the_file(tmp_path, damage, expected):
    folder = write_dir_atomic(tmp_path / "state", write("text"), 1)
    verify_checksums(folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=expected):
        verify_checksums(folder)


@pytest.mark.parametrize("name", ["weights.bin", CHECKSUMS])
@pytest.mark.parametrize("call", ["stat", "open"])
def test_verify_folder_unreadable_file_is_an_error(tmp_path, monkeypatch, name, call):
    """A dying disk: the folder counts as published, and is damaged."""
    folder = write_dir_atomic(tmp_path / "state", write("text"), 1)
    calls = {"stat": (Path, Path.stat), "open": (io, io.open)}
    where, real = calls[call]

    def dying(path, *args, **more):
        if os.path.basename(str(path)) == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(where, call, dying)
    if call == "open":
        monkeypatch.setattr("builtins.open", dying)
    assert finished_dirs(tmp_path / "state") == [folder]
    if call == "open" or name != CHECKSUMS:
        with pytest.raises(CheckpointError, match=f"{name}: .*Input/output error"):
            verify_checksums(folder)


def test_publish_folder_syncs_before_the_rename(tmp_path, monkeypatch):
    """A power cut, unlike a kill, loses what was not flushed. It cannot be staged here; the order of the calls can."""
    events, fsync, rename = [], os.fsync, os.rename

    def record_fsync(descriptor):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def record_rename(source, place):
        events.append("RENAME")
        rename(source, place)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    write_dir_atomic(tmp_path / "state", write("a"), 0)

    new = f"state.tmp-{os.getpid()}"
    marker = events.index(f"{CHECKSUMS}.tmp-{os.getpid()}")
    assert set(events[:marker]) == {"weights.bin", "notes.txt", "more"}
    assert events[marker + 1 :] == [new, "RENAME", tmp_path.name]

"""Atomic writes of files: each step fails once, and the process is killed at each step."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from ssd_train.errors import ConfigError, SsdTrainError
from ssd_train.storage import atomic

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
        pytest.param(atomic.write_bytes_atomic, b"\0\xff", b"\0\xff", id="bytes"),
        pytest.param(atomic.write_text_atomic, "Käfer\n", "Käfer\n".encode(), id="text"),
        pytest.param(atomic.write_json_atomic, {"é": [1, 2.5]}, None, id="json"),
        pytest.param(atomic.write_bytes_atomic, b"", b"", id="empty"),
    ],
)
def test_write_atomic_writes_and_replaces_a_file(tmp_path, write, value, expected):
    path = tmp_path / "new" / "folder" / "file [1]"
    for _ in range(2):
        write(path, value)
        assert json.loads(path.read_text("utf-8")) == value if expected is None else path.read_bytes() == expected
    assert names(path.parent) == ["file [1]"]


def test_write_json_atomic_nan_is_an_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(OLD)
    with pytest.raises(ValueError, match="(?i)out of range float"):
        atomic.write_json_atomic(path, {"loss": float("nan")})
    assert path.read_bytes() == OLD


@pytest.mark.parametrize(
    "function, number, expected",
    [
        pytest.param("fsync", errno.ENOSPC, r"a\.bin: .* 19 bytes .* \d+ are free", id="full"),
        pytest.param("fsync", errno.EDQUOT, "a.bin: .* are free", id="quota"),
        pytest.param("replace", errno.EACCES, "a.bin: .*Permission denied", id="denied"),
        pytest.param("fsync", errno.EIO, "a.bin: .*Input/output error", id="broken-disk"),
    ],
)
def test_write_failed_keeps_the_old_file_only(tmp_path, monkeypatch, function, number, expected):
    path = tmp_path / "a.bin"
    path.write_bytes(OLD)
    fail(monkeypatch, function, number)
    with pytest.raises(SsdTrainError, match=expected):
        atomic.write_bytes_atomic(path, NEW)
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["a.bin"]


def test_open_atomic_exception_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(OLD)
    with pytest.raises(KeyError):
        with atomic.open_atomic(path) as file:
            file.write(NEW)
            raise KeyError("the caller's own")
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["a.bin"]


def test_write_kill_at_any_step_leaves_the_old_or_the_new_file(tmp_path, killed_at):
    path, step, seen = tmp_path / "a.bin", 0, set()
    died = True
    while died:
        path.write_bytes(OLD)
        step += 1
        died = killed_at(step, lambda: atomic.write_bytes_atomic(path, NEW))
        seen.add(path.read_bytes())
        assert path.read_bytes() in (OLD, NEW)
        atomic.write_bytes_atomic(path, NEW)
        assert names(tmp_path) == ["a.bin"], "what the kill left half done is still there"
    assert step > 3 and seen == {OLD, NEW}


def test_write_keeps_temporary_files_of_living_processes(tmp_path):
    living, stranger = tmp_path / f"a.bin.tmp-{os.getppid()}", tmp_path / "a.bin.tmp-notes"
    living.write_bytes(b"")
    stranger.write_bytes(b"")
    atomic.write_bytes_atomic(tmp_path / "a.bin", NEW)
    assert living.exists() and stranger.exists()


@pytest.mark.parametrize(
    "free, expected",
    [
        pytest.param(0, (SsdTrainError, " 5000 bytes .* 0 "), id="full-disk"),
        pytest.param(1 << 30, (RuntimeError, "^FileStream.Write incomplete$"), id="another-fault"),
    ],
)
def test_guarded_write_full_disk_replaces_the_librarys_error(tmp_path, monkeypatch, free, expected):
    def write():
        raise RuntimeError("FileStream.Write incomplete")  # what MXNet says

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, free))
    with pytest.raises(expected[0], match=expected[1]):
        atomic.write_checked(tmp_path / "a.params", write, 5000)


def test_write_without_directory_sync_succeeds(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    atomic.write_bytes_atomic(tmp_path / "a.bin", NEW)
    assert (tmp_path / "a.bin").read_bytes() == NEW


# How a place is written to: all at once, piece by piece, or by a library under another name.
def all_at_once(path, data):
    atomic.write_bytes_atomic(path, data)


def by_pieces(path, data):
    with atomic.open_atomic(path) as file:
        for start in range(0, len(data), 5):
            file.write(data[start : start + 5])


def by_a_library(path, data):
    with atomic.prepared_file(path) as prepared:
        prepared.write_bytes(data)


WAYS = [all_at_once, by_pieces, by_a_library]


@pytest.fixture(params=["absolute", "relative", "chain"])
def link(request, tmp_path):
    """A link in one folder that leads to `there/a.bin`, which need not exist."""
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    found = tmp_path / "here" / "link.bin"
    target = {"absolute": tmp_path / "there" / "a.bin", "relative": "../there/a.bin", "chain": "../there/b.bin"}
    found.symlink_to(target[request.param])
    if request.param == "chain":
        (tmp_path / "there" / "b.bin").symlink_to("a.bin")
    return found


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("dangling", [False, True])
def test_write_to_a_link_replaces_its_target(link, tmp_path, write, dangling):
    target = tmp_path / "there" / "a.bin"
    if not dangling:
        target.write_bytes(OLD)
        before = target.stat().st_ino
    write(link, NEW)
    assert link.is_symlink() and not target.is_symlink() and target.read_bytes() == NEW
    assert dangling or target.stat().st_ino != before, "replaced, not written over"
    assert names(link.parent) == ["link.bin"] and set(names(target.parent)) <= {"a.bin", "b.bin"}


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("name", ["", ".", "folder"])
def test_write_to_a_folder_is_a_config_error(tmp_path, monkeypatch, write, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=f"^{Path(name)}: "):
        write(Path(name), NEW)
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == []


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("linked", [False, True])
def test_write_to_a_fifo_goes_through_it(tmp_path, write, linked):
    fifo = place = tmp_path / "fifo"
    os.mkfifo(fifo)
    if linked:
        place = tmp_path / "link"
        place.symlink_to("fifo")
    read = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()), daemon=True)
    reader.start()
    write(place, NEW)
    reader.join(10)
    assert read == [NEW] and stat.S_ISFIFO(fifo.stat().st_mode)
    assert names(tmp_path) == (["fifo", "link"] if linked else ["fifo"])


def test_write_to_a_fifo_whose_reader_leaves_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    reader = threading.Thread(target=lambda: open(tmp_path / "fifo", "rb").close(), daemon=True)
    reader.start()
    with pytest.raises(SsdTrainError, match="fifo: .*Broken pipe"):
        with atomic.open_atomic(tmp_path / "fifo") as file:
            reader.join(10)
            for _ in range(1000):
                file.write(bytes(10_000))


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("linked", [False, True])
def test_write_to_a_device_leaves_the_device(tmp_path, write, linked):
    """A null device of the test's own where root can make one: a fault must not cost the machine its own."""
    device = place = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        device = Path("/dev/null")  # which nobody but root can replace
        if os.geteuid() == 0:
            pytest.skip("root that may not make devices could replace the machine's")
        linked = True
    if linked:
        place = tmp_path / "link"
        place.symlink_to(device)
    before = device.stat()
    write(place, NEW)
    after = device.stat()
    assert stat.S_ISCHR(after.st_mode) and (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)
    assert not linked or place.is_symlink()


def in_a_process(program, *arguments, **streams):
    command = [
        sys.executable,
        "-c",
        f"from pathlib import Path; import sys\nfrom ssd_train.storage import atomic\n{program}",
    ]
    return subprocess.run([*command, *map(str, arguments)], **streams)


WRITE = f"atomic.write_bytes_atomic(Path(sys.argv[1]), {NEW!r})"


@pytest.fixture(params=["/dev/stdout", "a link of our own", "/dev/fd/1"])
def standard_output(request, tmp_path):
    """Names of it; that the real /dev/stdout stays is tested on a link like it, which a fault may replace."""
    if request.param.startswith("/dev/"):
        return Path(request.param)
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    return tmp_path / "stdout"


def test_write_to_standard_output_that_is_a_file_appends(standard_output, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(OLD)
    before = log.stat().st_ino
    with open(log, "ab") as stream:
        found = in_a_process(WRITE, standard_output, stdout=stream)
    assert found.returncode == 0 and log.read_bytes() == OLD + NEW and log.stat().st_ino == before

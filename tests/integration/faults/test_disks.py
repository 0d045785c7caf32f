"""Disks that are full, read-only or gone, and slow or stuck ones: the answer, and that nothing is lost."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from helpers.data import shapes_set
from helpers.jobs import (
    SAVING,
    assert_loads_as_what_it_is,
    assert_same,
    ended,
    finish,
    flags,
    members,
    outcome,
    start,
    told,
)

pytestmark = pytest.mark.integration

STRACE = shutil.which("strace")


def mounted(place, size):
    """A tmpfs of `size` at `place`; skips where this process may not mount."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], stderr=subprocess.PIPE)
    if done.returncode:
        pytest.skip(f"may not mount a tmpfs: {done.stderr.decode().strip()}")


@pytest.fixture
def small_disk(tmp_path):
    """A disk on which three checkpoints fit, and four do not."""
    place = tmp_path / "disk"
    mounted(place, "70m")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.faults
def test_train_full_disk_names_the_bytes_and_keeps_files(data, tmp_path, unbroken, small_disk):
    command = flags(data, tmp_path, **{**SAVING, "checkpoint_dir": small_disk / "checkpoints"})
    process = start(command)
    printed = ended(process)
    assert process.returncode == 1
    full = r"^error: \S*/checkpoints/\S+: the disk is full: at least \d{6,} bytes are needed, \d+ are free; nothing was"
    assert re.search(full, printed, re.MULTILINE), printed
    states = sorted((small_disk / "checkpoints").glob("state-*"))
    assert states and not [path for path in states if "tmp" in path.name]
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    assert "resuming after epoch" in finish(command)
    assert_same(outcome(tmp_path, small_disk / "checkpoints"), unbroken.outcome)


@pytest.fixture
def open_folder():
    """One that every user may enter, as those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def nobody(open_folder):
    """What makes a run one of a user who may not write everything: (words before the command, its environment)."""
    if os.getuid():
        return [], {}
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed, and root may write everywhere")
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], {"HOME": str(open_folder)}


@pytest.mark.parametrize(
    "name, mode", [("checkpoints", 0o555), ("closed/checkpoints", 0o600)], ids=["read-only", "in-one-not-to-be-entered"]
)
def test_train_read_only_folder_is_an_error_before_the_first_step(open_folder, nobody, name, mode):
    folder = open_folder / name
    made = open_folder / name.split("/")[0]
    made.mkdir()
    made.chmod(mode)
    before, environ = nobody
    probe = subprocess.run([*before, sys.executable, "-c", "import numpy"], stderr=subprocess.PIPE)
    if probe.returncode:
        pytest.skip("another user may not read this Python")
    data = shapes_set(open_folder / "train", 4, seed=1), shapes_set(open_folder / "validation", 2, seed=2)
    for name in ("model", "output"):
        (open_folder / name).mkdir()
        (open_folder / name).chmod(0o777)
    process = start(flags(data, open_folder, **{**SAVING, "checkpoint_dir": folder}), before, **environ)
    printed = ended(process)
    assert process.returncode == 1
    assert re.match(rf"error: {re.escape(str(folder))}: cannot be written: Permission denied\n$", printed), printed


@pytest.mark.faults
@pytest.mark.parametrize("name", ["model", "checkpoints", "output"])
def test_train_output_folder_removed_during_the_run_can_be_resumed(command, tmp_path, unbroken, name):
    """The run goes on in a new one, or ends with one line; the same command then ends as if nothing had been."""
    process = start(command)
    told(process, "^epoch 1/2")
    shutil.rmtree(tmp_path / name, ignore_errors=True)
    printed = ended(process)
    assert process.returncode in (0, 1) and "Traceback" not in printed, printed
    if process.returncode:
        assert re.search(
            r"^error: .*: (the best model can no longer be read|cannot be written)", printed, re.MULTILINE
        ), printed
    assert_loads_as_what_it_is(tmp_path)
    finish(command)
    assert_same(outcome(tmp_path), unbroken.outcome)


class Stuck:
    """A file that no other process can open: the kernel lets them wait until this one gives up its lease, or its
    patience ends (/proc/sys/fs/lease-break-time, 45 s)."""

    def __init__(self, path):
        self._before = signal.signal(signal.SIGIO, signal.SIG_IGN)
        self._file = os.open(path, os.O_RDONLY)
        try:
            fcntl.fcntl(self._file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            self.close()
            pytest.skip(f"no leases on this file system: {error}")

    def close(self):
        os.close(self._file)
        signal.signal(signal.SIGIO, self._before)


@pytest.mark.parametrize("workers, on_bad", [(2, "error"), pytest.param(0, "skip", marks=pytest.mark.faults)])
def test_train_blocked_file_is_named_within_the_time_limit(data, tmp_path, unbroken, workers, on_bad):
    """Within its time limit, once with others and once alone, and what runs take on this machine: less than the
    kernel's patience."""
    images = shutil.copytree(data[0].images, tmp_path / "images")
    victim = sorted(images.iterdir())[2]
    stuck = Stuck(victim)
    sides = (data[0]._replace(images=images), data[1])
    settings = {**SAVING, "epochs": 1, "on_bad_data": on_bad, "num_workers": workers}
    try:
        process = start(flags(sides, tmp_path, **settings), SSD_TRAIN_READ_SECONDS="1")
        printed = ended(process, min(2 * 1 + 3 * unbroken.seconds, 40))
    finally:
        stuck.close()
    assert re.search(r"output.manifest:3\b", printed), printed
    if on_bad == "error":
        assert process.returncode == 2 and "nothing came within 1 s, expected a disk that answers" in printed, printed
    else:
        assert process.returncode == 0 and "train: 7 images" in printed, printed


def test_train_file_blocked_during_the_run_is_an_error(data, tmp_path):
    """Not at its beginning, when every file is looked at."""
    images = shutil.copytree(data[0].images, tmp_path / "images")
    victim = sorted(images.iterdir())[2]
    sides = (data[0]._replace(images=images), data[1])
    settings = {**SAVING, "epochs": 50, "cache_images": 0, "on_bad_data": "error"}
    process = start(flags(sides, tmp_path, **settings), SSD_TRAIN_READ_SECONDS="1")
    told(process, "^epoch 1/50")
    for _ in range(100):  # a lease is not given while the file is open
        try:
            stuck = Stuck(victim)
            break
        except BlockingIOError:
            time.sleep(0.01)
    try:
        printed = ended(process, 30)
    finally:
        stuck.close()
    expected = rf"error: \S*output.manifest:3: image .*{victim.name}.*: nothing came within 1 s"
    assert process.returncode == 2 and re.search(expected, printed), printed


@pytest.mark.faults
@pytest.mark.skipif(STRACE is None, reason="strace is not installed: apt-get install strace")
def test_train_slow_disk_gives_the_same_weights(data, tmp_path, unbroken):
    """Every image takes 0.3 s to open: the run goes on, and the waiting is in its history."""
    paths = [part for drawn in data for file in sorted(drawn.images.iterdir()) for part in ("-P", str(file))]
    before = [STRACE, "-f", "-qq", *paths, "-e", "inject=openat:delay_enter=300ms", "-o", os.devnull]
    process = start(flags(data, tmp_path, **SAVING), before)
    printed = ended(process)
    assert process.returncode == 0, printed
    assert_same(outcome(tmp_path), unbroken.outcome)


@pytest.mark.faults
def test_train_little_shared_memory_gives_the_same_weights(data, tmp_path, unbroken):
    """/dev/shm of 1 MB: images are prepared by threads, and nothing is put there."""
    probe = subprocess.run(["unshare", "-m", "true"], stderr=subprocess.PIPE)
    if probe.returncode:
        pytest.skip(f"may not mount: {probe.stderr.decode().strip()}")
    script = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    settings = {**SAVING, "num_workers": 4}
    process = start(flags(data, tmp_path, **settings), ["unshare", "-m", "sh", "-c", script, "sh"])
    printed = ended(process)
    assert process.returncode == 0, printed
    assert_same(outcome(tmp_path), unbroken.outcome)


def test_train_has_no_worker_processes(data, tmp_path):
    """Images are prepared by threads: there is no process beside the run's own that a memory killer could take."""
    process = start(flags(data, tmp_path, **{**SAVING, "epochs": 50, "num_workers": 4}))
    told(process, "^epoch 1/50")
    seen = set()
    for _ in range(50):
        seen.update(members(process.pid))
        time.sleep(0.01)
    process.kill()
    ended(process)
    assert seen == {process.pid}

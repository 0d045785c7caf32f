"""A folder is held by one process at a time, by the kernel: however that ends, and wherever the folder is copied to."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.data import HeardProgress

from ssd_train.errors import CheckpointError
from ssd_train.storage.lock import LOCK, exclusive_lock

HOLDER = """
import sys, time
from pathlib import Path
from ssd_train.storage.lock import exclusive_lock
from ssd_train.progress import Progress
with exclusive_lock(Path(sys.argv[1]), Progress()):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    source = Path(__file__).resolve().parents[3] / "src"
    environ = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "c")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environ)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def hold(folder):
    with exclusive_lock(folder, HeardProgress()):
        pass


def test_held_second_process_is_refused_until_the_first_is_killed(tmp_path, holder):
    with pytest.raises(CheckpointError, match=rf"^\S*/c: .*{LOCK}"):
        hold(tmp_path / "c")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    hold(tmp_path / "c")


@pytest.mark.parametrize("content", ["", "4711", "held"])
def test_held_ignores_the_content_of_the_lock_file(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    hold(tmp_path)
    assert (tmp_path / LOCK).read_text() == content


def test_held_releases_after_the_block_and_after_an_error(tmp_path):
    hold(tmp_path)
    with pytest.raises(ValueError), exclusive_lock(tmp_path, HeardProgress()):
        raise ValueError
    hold(tmp_path)
    with exclusive_lock(None, HeardProgress()):
        pass


def test_held_is_not_inherited_by_child_processes(tmp_path):
    with exclusive_lock(tmp_path, HeardProgress()):
        process = subprocess.Popen(["sleep", "60"], close_fds=False)
    hold(tmp_path)
    process.kill()
    process.wait()


@pytest.mark.parametrize("number, warned", [(errno.ENOLCK, True), (errno.EOPNOTSUPP, True), (errno.EBADF, False)])
def test_held_without_file_system_support_warns(tmp_path, monkeypatch, number, warned):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    progress = HeardProgress()
    if not warned:
        with pytest.raises(OSError), exclusive_lock(tmp_path, progress):
            pass
        return
    with exclusive_lock(tmp_path, progress):
        assert len(progress.warnings) == 1 and progress.warnings[0].startswith(f"{tmp_path}: ")


def test_lock_not_kept_leaves_no_file_and_no_new_folder(tmp_path):
    for folder in (tmp_path, tmp_path / "new"):
        with exclusive_lock(folder, HeardProgress(), keep=False):
            assert (folder / LOCK).is_file()
        assert not (folder / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_lock_within_its_own_process_is_reentrant(tmp_path):
    with exclusive_lock(tmp_path, HeardProgress(), keep=False):
        hold(tmp_path)
        assert (tmp_path / LOCK).is_file()


def test_lock_whose_file_another_process_removes_locks_the_next_one(tmp_path, monkeypatch):
    real, removed = fcntl.flock, []

    def remove(descriptor, operation):
        if not removed:
            removed.append((tmp_path / LOCK).unlink())
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove)
    with exclusive_lock(tmp_path, HeardProgress()):
        assert (tmp_path / LOCK).is_file()
        with open(tmp_path / LOCK) as file, pytest.raises(BlockingIOError):
            real(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

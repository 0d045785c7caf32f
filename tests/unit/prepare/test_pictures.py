"""Folders of pictures: what counts as done, what is refused, what is reported."""

from __future__ import annotations

import os
import threading

import pytest
from helpers.data import HeardProgress

from ssd_train.errors import ConfigError, DataError
from ssd_train.prepare.images import is_done, output_folder, process, write_image
from ssd_train.prepare.manifest import list_images
from ssd_train.resources import available_cpus


@pytest.mark.parametrize("make, expected", [(True, "found no images"), (False, "not found")], ids=["empty", "none"])
def test_folder_without_images(tmp_path, make, expected):
    if make:
        (tmp_path / "x").mkdir()

    with pytest.raises(DataError, match=expected):
        list_images(tmp_path / "x")


@pytest.mark.parametrize("output", ["in", "in/below", "in/../in/x"])
def test_output_among_the_sources_is_refused(tmp_path, output):
    with pytest.raises(ConfigError, match="expected a folder outside of it"):
        output_folder(tmp_path / output, tmp_path / "in")


def test_done_means_there_and_not_older(tmp_path):
    source, output = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"x")

    assert not is_done([output], source)
    write_image(output, b"y")
    assert is_done([output], source)
    os.utime(source, ns=(0, output.stat().st_mtime_ns + 1))
    assert not is_done([output], source)
    os.utime(source, ns=(0, 0))
    assert not is_done([output, tmp_path / "c"], source)


def test_killed_writer_leaves_nothing_under_the_name(tmp_path, monkeypatch):
    write_image(tmp_path / "a.jpg", b"old")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_image(tmp_path / "a.jpg", b"new")

    assert (tmp_path / "a.jpg").read_bytes() == b"old"
    write_image(tmp_path / "a.jpg", b"newer")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_unreadable_items_are_listed_and_the_others_done():
    def work(item):
        if item % 3 == 0:
            raise DataError(f"{item} is bad")
        return item % 3 == 1, "odd" if item == 7 else ""

    done = process(list(range(9)), work, HeardProgress(), "x")

    assert (done.written, done.skipped, done.notes) == (3, 3, ["odd"])
    assert done.failures == ["0 is bad", "3 is bad", "6 is bad"]


@pytest.mark.skipif(available_cpus() < 2, reason="one processor")
def test_work_is_done_side_by_side():
    meeting = threading.Barrier(2, timeout=20)

    def work(item):
        if item in (0, 40):  # far enough apart to be in two hands
            meeting.wait()
        return True, ""

    assert process(list(range(60)), work, HeardProgress(), "x").written == 60

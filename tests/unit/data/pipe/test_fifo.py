"""FIFOs that come late, are slow, empty, or never end."""

from __future__ import annotations

import os
import threading
import time

import pytest
from helpers.data import FifoWriter

from ssd_train.data.pipe.samples import ReadCancelled, fifo_path, open_fifo
from ssd_train.errors import DataError


def test_bytes_come_as_they_were_written(tmp_path):
    data = os.urandom(1_000_000)
    with FifoWriter(tmp_path / "train", [[data[:7], data[7:]]]) as writer:
        with open_fifo(fifo_path(tmp_path / "train", 0), 5) as file:
            assert file.read() == data
    assert writer.finished == [0]


def test_fifo_that_comes_late_is_waited_for(tmp_path):
    def later():
        time.sleep(0.3)
        (tmp_path / "train_0").write_bytes(b"x")

    threading.Thread(target=later).start()

    with open_fifo(tmp_path / "train_0", 5) as file:
        assert file.read() == b"x"


def test_empty_fifo_ends(tmp_path):
    with FifoWriter(tmp_path / "train", [[]]):
        with open_fifo(tmp_path / "train_0", 5) as file:
            assert file.read() == b""


def test_fifo_that_never_comes_is_an_error(tmp_path):
    with pytest.raises(DataError) as error:
        open_fifo(tmp_path / "train_0", 0.2)

    assert str(error.value).startswith(f"{tmp_path / 'train_0'}: no FIFO after 0.2 s")
    assert "is the channel called 'train'?" in str(error.value)


def test_writer_that_falls_silent_is_an_error(tmp_path):
    with FifoWriter(tmp_path / "train", [[b"a", b"b"]], delay=0.8):
        with open_fifo(tmp_path / "train_0", 0.3) as file, pytest.raises(DataError, match="no data for 0.3 s"):
            file.read(1)


@pytest.mark.parametrize("exists", [True, False])
def test_open_fifo_stop_ends_the_wait(tmp_path, exists):
    stop = threading.Event()
    if exists:
        os.mkfifo(tmp_path / "train_0")
    threading.Timer(0.2, stop.set).start()
    start = time.monotonic()

    with pytest.raises(ReadCancelled):
        open_fifo(tmp_path / "train_0", 30, stop).read()

    assert time.monotonic() - start < 5

"""What does not fit into memory goes to a file of limited size, comes back in order, and then the sender waits."""

from __future__ import annotations

import os
import threading
import time

import pytest

from ssd_train.data.pipe.channel import SpillFile, SpillImages, SpillQueue
from ssd_train.data.structures import LabeledImage
from ssd_train.errors import DataError, SsdTrainError


def queue(tmp_path, memory, limit, stop=None):
    return SpillQueue(memory, SpillFile(tmp_path, limit), stop or threading.Event())


def test_file_has_no_name_and_a_limit(tmp_path):
    file = SpillFile(tmp_path, 10)

    assert [file.append(b"abc"), file.append(b"defgh"), file.append(b"xyz"), file.append(b"ij")] == [0, 3, None, 8]
    assert (file.read(3, 5), file.read(8, 2)) == (b"defgh", b"ij")
    assert list(tmp_path.iterdir()) == []
    file.clear()
    assert file.append(b"0123456789") == 0 and file.read(0, 10) == b"0123456789"


def test_full_disk_is_our_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    file = SpillFile(tmp_path, 10)
    monkeypatch.setattr(os, "pwrite", full)

    with pytest.raises(SsdTrainError, match="disk is full"):
        file.append(b"abc")


def test_images_by_name(tmp_path):
    file = SpillFile(tmp_path, 10)
    images = SpillImages(file)
    images.add("a", (file.append(b"one"), 3))
    images.add("b", (file.append(b"two"), 3))

    assert images.read(LabeledImage("b", [], [])) == b"two"
    assert images.locate(LabeledImage("b", [], [], None, "train_0:3")) == "train_0:3"
    with pytest.raises(DataError, match="train_0:5: image 'c' not found"):
        images.read(LabeledImage("c", [], [], None, "train_0:5"))


@pytest.mark.parametrize("memory, limit", [(1000, 0), (10, 1000), (0, 1000)], ids=["memory", "both", "file"])
def test_items_come_in_order(tmp_path, memory, limit):
    passing = queue(tmp_path, memory, limit)
    data = [bytes([index]) * (1 + index % 5) for index in range(100)]
    for index, item in enumerate(data):
        passing.put(index, item)

    assert [passing.get() for _ in data] == list(enumerate(data))


def test_place_in_the_file_is_used_again(tmp_path):
    passing = queue(tmp_path, 4, 8)
    for round in range(50):  # 600 bytes through 12
        for _ in range(3):
            passing.put(round, b"abcd")
        assert [passing.get() for _ in range(3)] == [(round, b"abcd")] * 3


def test_sender_waits_while_all_is_full(tmp_path):
    passing = queue(tmp_path, 4, 4)
    sent = []

    def send():
        for index in range(6):
            passing.put(index, b"abcd")
            sent.append(index)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    time.sleep(0.3)
    assert sent == [0, 1]

    assert [passing.get()[0] for _ in range(6)] == list(range(6))
    thread.join(5)
    assert not thread.is_alive()


def test_spill_error_follows_earlier_samples(tmp_path):
    passing = queue(tmp_path, 10, 0)
    passing.put(0, b"a")
    passing.fail(DataError("broken"))

    assert passing.get()[0] == 0
    with pytest.raises(DataError, match="broken"):
        passing.get()

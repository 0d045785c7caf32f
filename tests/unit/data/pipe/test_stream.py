"""Epochs from FIFOs: each image once, in an order that the seed decides, in little memory, no writer stalled."""

from __future__ import annotations

import gc
import os
import re
import threading
import time
import tracemalloc
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from helpers.data import FifoWriter, HeardProgress, framed, label_set, memory_images, picture, samples

from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.image_io import encode, encode_png
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.loaders import EpochSampler
from ssd_train.data.pipe.channel import SpillFile, read_channel
from ssd_train.data.pipe.stream import DetectionStream, StreamedImage, StreamLoader, StreamOptions, shuffle_buffer
from ssd_train.data.structures import LabeledImage
from ssd_train.data.transforms import EvalTransform, TrainTransform
from ssd_train.errors import DataError

COUNT = 10
LABELS = label_set([[[1 + i, 2, 20 + i, 12]] for i in range(COUNT)])
IMAGES = memory_images(LABELS)
SAMPLES = samples(LABELS.records, IMAGES)
TABLE = {0: 0, 1: 1}


def stream(folder, epochs=2, buffer=10**6, spill=10**6, progress=None, **options):
    given = {"timeout": 5, "on_bad": "error", **options}
    return DetectionStream(
        folder / "train",
        TABLE,
        StreamOptions(epochs, buffer_bytes=buffer, spill=SpillFile(folder, spill), **given),
        progress,
    )


def loader(stream, batch_size=4, length=COUNT, workers=0):
    def encode(boxes, class_ids):
        return np.full(3, len(boxes), np.float32), np.zeros((3, 4), np.float32)

    labels = label_set([[]] * length)
    transform = TrainTransform(64, "flip", encode, False)
    return StreamLoader(stream, labels, transform, EpochSampler(length, batch_size, 7), 64, workers)


def left_edges(images):
    """Each image of LABELS is known by the left edge of its box."""
    return [int(image.record.boxes[0, 0]) - 1 for image in images]


def skip_first(writer):
    """The first pass, which made the set known."""
    with open(f"{writer.channel}_0", "rb") as file:
        file.read()


def test_each_epoch_is_read_from_its_own_fifo(tmp_path):
    with FifoWriter(tmp_path / "train", [[], SAMPLES, SAMPLES[::-1]]) as writer:
        skip_first(writer)
        source = stream(tmp_path)
        first, second = (left_edges(source.epoch((1, epoch))) for epoch in (0, 1))

    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second
    assert writer.finished == [0, 1, 2]


def test_hosts_share_the_images_of_a_stream_that_each_of_them_gets_whole(tmp_path):
    seen = []
    for name in ("0", "1", "whole"):
        (tmp_path / name).mkdir()
    for part in range(2):
        with FifoWriter(tmp_path / str(part) / "train", [[], SAMPLES]) as writer:
            skip_first(writer)
            one = loader(stream(tmp_path / str(part), epochs=1), batch_size=2)
            one.sampler = EpochSampler(COUNT, 2, 7, part, 2)
            seen.append([[record.name for record in batch.records] for batch in one.epoch(0)])
        assert writer.finished == [0, 1]
    with FifoWriter(tmp_path / "whole" / "train", [[], SAMPLES]) as writer:
        skip_first(writer)
        whole = [[r.name for r in batch.records] for batch in loader(stream(tmp_path / "whole", epochs=1)).epoch(0)]
    assert [first + second for first, second in zip(*seen)] == whole


def test_the_seed_decides_the_order(tmp_path):
    images = [StreamedImage(record, b"12345") for record in LABELS.records]

    def order(seed, size=20):
        return left_edges(shuffle_buffer(iter(images), size, seed))

    assert order((1, 0)) == order((1, 0)) != order((1, 1))
    assert sorted(order((1, 0))) == list(range(COUNT))
    early = [order((seed,), 10)[0] for seed in range(200)]
    assert set(early) == {0, 1, 2}  # of those that fill the buffer, each may be first


def test_memory_does_not_grow_with_the_stream(tmp_path):
    record = LABELS.records[0]
    large = encode_png(picture((250, 200)))  # 150 kB of noise
    sample = samples([replace(record, size_wh=None)], MemoryImages({record.name: large}))

    def peak(count):
        folder = tmp_path / str(count)
        folder.mkdir()
        with FifoWriter(folder / "train", [[], sample * count]) as writer:
            skip_first(writer)
            source = stream(folder, 1, buffer=4 * len(large), spill=10 * len(large))
            tracemalloc.start()
            passed = sum(1 for _ in source.epoch((1, 0)))
            used = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert passed == count
        return used

    few = peak(20)

    assert peak(200) < few + 10 * len(large)


def test_next_fifo_is_read_while_an_evaluation_takes_its_time(tmp_path):
    with FifoWriter(tmp_path / "train", [[], SAMPLES, SAMPLES]) as writer:
        skip_first(writer)
        source = stream(tmp_path)
        list(source.epoch((1, 0)))
        deadline = time.monotonic() + 5
        while 2 not in writer.finished and time.monotonic() < deadline:  # nobody asks for an image meanwhile
            time.sleep(0.02)
        assert writer.finished == [0, 1, 2]

        assert sorted(left_edges(source.epoch((1, 1)))) == list(range(COUNT))


def test_no_more_fifos_than_epochs_are_asked_for(tmp_path):
    with FifoWriter(tmp_path / "train", [[], SAMPLES, SAMPLES]) as writer:
        skip_first(writer)
        source = stream(tmp_path, epochs=1)
        list(source.epoch((1, 0)))
        time.sleep(0.3)
        assert writer.opened == [0, 1]
        with pytest.raises(DataError, match="was read for all of 1 epochs"):
            list(source.epoch((1, 1)))


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("train_")]


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_the_thread_ends_with_the_stream(tmp_path, how):
    os.mkfifo(tmp_path / "train_1")
    source = stream(tmp_path, timeout=30)
    source._start()
    assert reading_threads()
    if how == "closed":
        source.close()
    del source
    gc.collect()
    deadline = time.monotonic() + 5
    while reading_threads() and time.monotonic() < deadline:
        time.sleep(0.02)

    assert not reading_threads()


@pytest.mark.parametrize(
    "pieces, message",
    [
        pytest.param([SAMPLES[0], SAMPLES[1][:-9]], "train_1:.*cut off", id="dies-in-a-record"),
        pytest.param([], "train_1: found no record", id="empty"),
        pytest.param([SAMPLES[0], framed(b"GIF89a", b'{"annotations": []}')], "train_1:3: image: found a", id="bad"),
    ],
)
def test_broken_epochs(tmp_path, pieces, message):
    with FifoWriter(tmp_path / "train", [[], pieces]) as writer:
        skip_first(writer)
        with pytest.raises(DataError, match=message):
            list(stream(tmp_path).epoch((1, 0)))


def test_skipped_records_are_counted_and_listed(tmp_path):
    bad = framed(b"GIF89a", b'{"annotations": []}')
    good = samples(LABELS.records[:1], IMAGES)[0]
    unknown, outside = good.replace(b'"class_id": 0', b'"class_id": 5'), good.replace(b'"left": 1', b'"left":99')
    progress = HeardProgress()
    with FifoWriter(tmp_path / "train", [[], [SAMPLES[0], bad, bad, unknown, outside, SAMPLES[1]]]) as writer:
        skip_first(writer)
        images = list(stream(tmp_path, on_bad="skip", progress=progress).epoch((1, 0)))

    assert len(images) == 2
    assert progress.warnings[0].startswith("skipped 2: image: found a GIF image")
    assert progress.warnings[0].endswith("(train_1:3, train_1:5)")
    assert "class_id: found 5, expected one of the class-map" in progress.warnings[1]
    assert "no box of the image is usable (train_1:9)" in progress.warnings[2]


def test_an_image_cannot_be_asked_for(tmp_path):
    with pytest.raises(DataError, match="train_1:3: the image has passed"):
        stream(tmp_path).read(LabeledImage("a", [], [], None, "train_1:3"))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_an_epoch_are_full(tmp_path, workers):
    with FifoWriter(tmp_path / "train", [[], SAMPLES, SAMPLES]) as writer:
        skip_first(writer)
        made = loader(stream(tmp_path), workers=workers)
        batches = list(made.epoch(0))

        assert len(made) == len(batches) == 3
        assert [len(batch) for batch in batches] == [4, 4, 4]
        names = [record.name for batch in batches for record in batch.records]
        assert names[10:] == names[:2] and len(set(names)) == COUNT
        assert all((batch.class_targets == 1).all() for batch in batches)
        assert batches[0].images.shape == (4, 64, 64, 3)


def test_stream_images_do_not_depend_on_threads(tmp_path):
    def pictures(name, workers):
        (tmp_path / name).mkdir()
        with FifoWriter(tmp_path / name / "train", [[], SAMPLES]) as writer:
            skip_first(writer)
            return [batch.images for batch in loader(stream(tmp_path / name, 1), workers=workers).epoch(3)]

    for one, other in zip(pictures("a", 0), pictures("b", 2)):
        np.testing.assert_array_equal(one, other)


def test_stream_epoch_resumes_from_a_step(tmp_path):
    with FifoWriter(tmp_path / "train", [[], SAMPLES, SAMPLES]) as writer:
        skip_first(writer)
        whole = list(loader(stream(tmp_path)).epoch(0))
    (tmp_path / "again").mkdir()
    with FifoWriter(tmp_path / "again" / "train", [[], SAMPLES]) as writer:
        skip_first(writer)
        rest = list(loader(stream(tmp_path / "again", 1)).epoch(0, 2))

    assert len(rest) == 1
    np.testing.assert_array_equal(rest[0].images, whole[2].images)


@pytest.mark.parametrize("length, steps", [(7, 2), (14, 3)], ids=["longer", "shorter"])
def test_stream_loader_epoch_of_another_length_warns_and_reads_to_the_end(tmp_path, length, steps):
    progress = HeardProgress()
    with FifoWriter(tmp_path / "train", [[], SAMPLES]) as writer:
        skip_first(writer)
        batches = list(loader(stream(tmp_path, 1, progress=progress), length=length).epoch(0))

    assert [len(batch) for batch in batches] == [4] * steps
    (warning,) = progress.warnings
    assert [int(number) for number in re.findall(r"\d+", warning)] == [1, 10, length, steps, -(-length // 4)]
    assert writer.finished == [0, 1]


def test_stream_epoch_with_an_image_without_usable_box_leaves_it_out_as_the_first_pass_does(tmp_path):
    outside = SAMPLES[0].replace(b'"left": 1', b'"left":99')
    progress = HeardProgress()
    with FifoWriter(tmp_path / "train", [[outside, *SAMPLES[1:]]] * 2) as writer:
        spill = SpillFile(tmp_path, 10**6)
        first, _ = read_channel(tmp_path / "train", 5, spill).label_set(LABELS.class_names, TABLE, "error")
        second = list(stream(tmp_path, 1, progress=progress).epoch((1, 0)))
    assert writer.finished == [0, 1]

    assert len(first) == len(second) == COUNT - 1 and len(first.skipped) == 1
    assert len(progress.warnings) == 1 and "train_1:1" in progress.warnings[0]


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_large_image_is_seen_as_one_that_is_read_from_a_file(tmp_path, format):
    """By the rule of evaluation: nothing is enlarged here. Were the whole picture decoded, a JPEG would differ."""
    labels = label_set([[[10, 20, 400, 300]]], size_wh=(640, 500))
    data = encode(cv2.resize(picture((20, 16)), (640, 500)), format)
    images = MemoryImages({"0.png": data})

    def encode_targets(boxes, class_ids):
        return boxes[:, 0], boxes

    transform = TrainTransform(64, "none", encode_targets)
    with FifoWriter(tmp_path / "train", [[], samples(labels.records, images)]) as writer:
        skip_first(writer)
        made = StreamLoader(stream(tmp_path, 1), labels, transform, EpochSampler(1, 1, 7), 64, 0)
        (batch,) = made.epoch(0)
    expected = EvalTransform(64, encode_targets)(*DetectionDataset(labels, images, 64)[0])
    np.testing.assert_array_equal(batch.images[0], expected[0])
    np.testing.assert_allclose(batch.box_targets[0], expected[2], atol=1e-4)


def test_labels_without_a_size_keep_their_boxes(tmp_path):
    record = replace(LABELS.records[0], size_wh=None)
    images = MemoryImages({record.name: encode_png(picture((40, 30)))})
    with FifoWriter(tmp_path / "train", [[], samples([record], images)]) as writer:
        skip_first(writer)
        (image,) = stream(tmp_path, 1).epoch((1, 0))

    assert image.record.size_wh is None
    np.testing.assert_array_equal(image.record.boxes, record.boxes)


def test_stream_sample_is_that_of_a_file_with_the_same_random_numbers(tmp_path):
    transform = TrainTransform(64, "strong", lambda boxes, class_ids: (class_ids, boxes))
    with FifoWriter(tmp_path / "train", [[], SAMPLES]) as writer:
        skip_first(writer)
        made = StreamLoader(stream(tmp_path, 1), LABELS, transform, EpochSampler(COUNT, COUNT, 7), 64, 0)
        (batch,) = made.epoch(3)
    dataset = DetectionDataset(LABELS, IMAGES, 64)
    for record, image, boxes in zip(batch.records, batch.images, batch.box_targets):
        random = np.random.RandomState([7, 3, zlib.crc32(record.name.encode()), 0])
        expected = dataset.train_sample(int(record.boxes[0, 0]) - 1, transform, random)
        np.testing.assert_array_equal(image, expected[0])
        np.testing.assert_array_equal(boxes, expected[2])

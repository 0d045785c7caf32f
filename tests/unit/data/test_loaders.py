"""Batches: all full, every image once, the same for any number of workers; a worker's error comes out at once."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from helpers.data import label_set, memory_images, picture

from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.loaders import EpochSampler, EvalLoader, TrainLoader
from ssd_train.data.transforms import EvalTransform, TrainTransform
from ssd_train.errors import DataError

SIDE = 32


def counting(boxes, class_ids):
    """An encoder whose targets have one shape: the number of boxes, and the sum of them."""
    return np.array([len(boxes)], np.float32), boxes.sum(axis=0)[None].astype(np.float32)


def labels_of(count):
    return label_set([[[index % 20, 1, index % 20 + 10, 21]] * (index % 3) for index in range(count)])


def train_loader(count=10, batch_size=4, seed=1, workers=0, augmentation="strong", images=None):
    labels = labels_of(count)
    dataset = DetectionDataset(labels, images or memory_images(labels), SIDE)
    transform = TrainTransform(SIDE, augmentation, counting)
    return TrainLoader(dataset, transform, EpochSampler(count, batch_size, seed), workers)


def eval_loader(count=10, batch_size=4, workers=0, size_wh=(40, 30)):
    labels = label_set(
        [[[index % 20, 1, index % 20 + 10, 21]] * (index % 3) for index in range(count)], size_wh=size_wh
    )
    return EvalLoader(
        DetectionDataset(labels, memory_images(labels), SIDE), EvalTransform(SIDE, counting), batch_size, workers
    )


@pytest.mark.parametrize(
    "length, batch_size, steps", [(10, 4, 3), (8, 4, 2), (3, 8, 1), (1, 8, 1), (1, 1, 1), (5, 8, 1), (100, 7, 15)]
)
def test_batches_are_full_and_every_image_comes_once(length, batch_size, steps):
    sampler = EpochSampler(length, batch_size, seed=1)
    for epoch in range(5):
        batches = sampler.batches(epoch)
        assert sampler.steps == len(batches) == steps
        assert {len(batch) for batch in batches} == {batch_size}
        indices = [index for batch in batches for index in batch]
        assert sorted(indices[:length]) == list(range(length)), "first every image once"
        assert len(set(indices)) == len(indices), "a repeat has another index"
        again = [index % length for index in indices[length:]]
        assert again == [index % length for index in (indices[:length] * batch_size)[: len(again)]], (
            "then from the start"
        )
        assert all(index // length == 1 + place // length for place, index in enumerate(indices[length:]))


@pytest.mark.parametrize("length, batch_size, parts", [(10, 2, 2), (12, 3, 2), (7, 2, 3), (2, 4, 2), (1, 1, 3)])
def test_epoch_sampler_parts_together_equal_one_with_larger_batches(length, batch_size, parts):
    """Step by step, in the order of the parts; no image is in two parts of an epoch's first pass."""
    whole = EpochSampler(length, batch_size * parts, seed=3)
    samplers = [EpochSampler(length, batch_size, 3, part, parts) for part in range(parts)]
    for epoch in range(3):
        steps = list(zip(*(sampler.batches(epoch) for sampler in samplers)))
        assert [[index for part in step for index in part] for step in steps] == whole.batches(epoch)
        assert {sampler.steps for sampler in samplers} == {len(steps)}


def test_the_order_follows_from_seed_and_epoch():
    orders = {(seed, epoch): str(EpochSampler(20, 4, seed).batches(epoch)) for seed in range(4) for epoch in range(4)}
    assert len(set(orders.values())) == 16
    assert all(str(EpochSampler(20, 4, seed).batches(epoch)) == order for (seed, epoch), order in orders.items())
    np.random.seed(5)
    assert str(EpochSampler(20, 4, 1).batches(2)) == orders[1, 2]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a.arrays(), b.arrays())) and a.where() == b.where()


def test_the_same_batches_for_any_number_of_workers():
    expected = [list(train_loader(workers=0).epoch(epoch)) for epoch in range(2)]
    for workers in (1, 2, 4, 7):
        loader = train_loader(workers=workers)
        for epoch in range(2):
            found = list(loader.epoch(epoch))
            assert len(found) == len(loader) == 3
            assert all(same(a, b) for a, b in zip(found, expected[epoch]))


def test_an_epoch_may_be_entered_in_the_middle():
    whole = list(train_loader().epoch(3))
    assert all(same(a, b) for a, b in zip(train_loader(workers=2).epoch(3, first_step=1), whole[1:]))
    assert len(list(train_loader().epoch(3, first_step=1))) == 2


def test_epochs_seeds_and_repeats_are_augmented_anew():
    first, second = (next(iter(train_loader(1, 2, augmentation="strong").epoch(epoch))) for epoch in (0, 1))
    other = next(iter(train_loader(1, 2, seed=2).epoch(0)))
    pictures = [first.images[0], first.images[1], second.images[0], other.images[0]]
    assert len({p.tobytes() for p in pictures}) == 4
    assert first.records[0] is first.records[1], "the fill of a batch is the same image again"


def test_a_batch_knows_its_lines_and_its_positives():
    batch = next(iter(train_loader(4, 4, augmentation="none").epoch(0)))
    order = EpochSampler(4, 4, 1).batches(0)[0]
    assert batch.where() == ", ".join(f"train.manifest:{index + 1}" for index in order)
    assert batch.images.shape == (4, SIDE, SIDE, 3) and batch.images.dtype == np.uint8
    assert batch.class_targets.ravel().tolist() == [index % 3 for index in order]
    assert batch.positives == sum(index % 3 > 0 for index in order) and len(batch) == 4
    assert batch.class_targets.dtype == batch.box_targets.dtype == np.float32


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("count, sizes", [(10, [4, 4, 2]), (8, [4, 4]), (1, [1])])
def test_evaluation_sees_every_image_once_in_order(count, sizes, workers):
    loader = eval_loader(count, workers=workers)
    batches = list(loader)
    assert [len(batch) for batch in batches] == sizes and len(loader) == len(sizes)
    assert [r.name for batch in batches for r in batch.records] == [f"{index}.png" for index in range(count)]
    assert list(map(len, list(loader))) == sizes, "and again"


@pytest.mark.parametrize("told", [(40, 30), None], ids=["size-in-the-labels", "size-unknown"])
def test_evaluation_knows_the_size_its_boxes_refer_to(told):
    labels = label_set([[[10, 10, 300, 200]]], size_wh=told and (400, 300))
    source = memory_images(labels, [picture((400, 300))])
    dataset = DetectionDataset(labels, source, SIDE)  # decoded at an eighth or so
    (batch,) = EvalLoader(dataset, EvalTransform(SIDE, counting), 4)
    assert batch.sizes == ((400, 300),)
    np.testing.assert_allclose(batch.box_targets[0, 0], [0.8, 1.0667, 24, 21.333], rtol=1e-3)


class FailingImages(MemoryImages):
    """Images of which one cannot be read."""

    def __init__(self, labels, bad):
        super().__init__(memory_images(labels)._images)
        self.bad = bad
        self.reads = 0

    def read(self, record):
        self.reads += 1
        return b"no image" if record.name == self.bad else super().read(record)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_an_error_in_a_worker_comes_out_at_once_with_its_line(workers):
    source = FailingImages(labels_of(400), bad="250.png")
    loader = train_loader(400, 4, workers=workers, images=source)
    order = [index for batch in loader.sampler.batches(0) for index in batch]
    before, started, threads = order.index(250) // 4, time.monotonic(), threading.active_count()
    seen = 0
    with pytest.raises(DataError, match="^train.manifest:251: found .*, expected an image"):
        for _ in loader.epoch(0):
            seen += 1
    assert seen == before, "batches before it are handed on, none after it"
    assert time.monotonic() - started < 20 and threading.active_count() == threads
    assert source.reads <= (before + 1 + workers + 2) * 4, "and no more is prepared than was ahead"


def test_leaving_an_epoch_early_ends_its_threads():
    threads = threading.active_count()
    batches = train_loader(200, 4, workers=3).epoch(0)
    next(batches)
    batches.close()
    assert threading.active_count() == threads


def test_no_more_is_prepared_than_a_few_batches_ahead():
    source = FailingImages(labels_of(400), bad="")
    batches = train_loader(400, 4, workers=2, images=source).epoch(0)
    next(batches)
    time.sleep(0.3)
    assert source.reads <= (2 + 2) * 4
    batches.close()

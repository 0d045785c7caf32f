"""The same pictures and labels through every door give the same training: one epoch, the same loss to 1e-5."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import HeardProgress, shapes_set, small_config
from fifos import FifoWriter, options, samples

from ssd_train.config import TrainConfig
from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.labels import LabeledDataset, load_labels
from ssd_train.data.loaders import EpochSampler, TrainLoader
from ssd_train.data.pipe.stream import DetectionStream, StreamLoader
from ssd_train.data.structures import ClassNames
from ssd_train.data.transforms import TrainTransform
from ssd_train.devices import contexts
from ssd_train.environment import Environment
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.net import build_net
from ssd_train.model.targets import TargetEncoder
from ssd_train.prepare.convert import WRITERS, convert
from ssd_train.training.data_setup import load_splits
from ssd_train.training.engine import train_one_epoch
from ssd_train.training.schedule import epoch_learning_rates
from ssd_train.training.step import TrainStep

pytestmark = pytest.mark.integration

COUNT, SIZE_WH = 12, (160, 120)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Drawn pictures as PNG with boxes of whole pixels, and a folder for what is made of them."""
    folder = tmp_path_factory.mktemp("formats")
    made = shapes_set(folder, COUNT, size_wh=SIZE_WH)
    data = load_labels(made.images, made.manifest)
    return folder, LabeledDataset(in_order(data), data.images)


def in_order(data: LabeledDataset):
    """The labels in the order of the hashes of their images, which no format changes, all classes in one order."""
    keys = [hashlib.sha256(data.images.read(record)).hexdigest() for record in data.labels.records]
    order = np.argsort(keys, kind="stable")
    labels = replace(data.labels, records=tuple(data.labels.records[index] for index in order))
    return labels.remap_classes(ClassNames(tuple(sorted(labels.class_names))))


def write_yolo(folder, data):
    for record in data.labels.records:
        (folder / record.basename).write_bytes(data.images.read(record))
        x1, y1, x2, y2 = (record.boxes / np.array([*SIZE_WH] * 2, np.float64)).T
        rows = zip(record.class_ids, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        text = "\n".join("{} {:.9f} {:.9f} {:.9f} {:.9f}".format(*row) for row in rows)
        (folder / record.basename).with_suffix(".txt").write_text(text)
    (folder / "classes.txt").write_text("\n".join(data.labels.class_names))


def through(door: str, folder, data: LabeledDataset) -> LabeledDataset:
    """The data written as `door` has it and read again."""
    place = folder / door
    if door == "yolo beside":
        place.mkdir()
        write_yolo(place, data)
        return load_labels(place, None)
    place = place.with_suffix(WRITERS[door][0])
    convert(data, door, place)
    return load_labels(None if door == "recordio" else data.images.root, place)


def loader_of(data: LabeledDataset, config: TrainConfig) -> "TrainLoader | StreamLoader":
    """The batches of training, made by no thread."""
    side = config.image_shape
    encode = TargetEncoder(make_anchors(anchor_layout(config.base_network, side)))
    transform = TrainTransform(side, config.augmentation, encode, False)
    sampler = EpochSampler(COUNT, config.mini_batch_size, config.seed)
    if isinstance(data.images, DetectionStream):
        return StreamLoader(data.images, data.labels, transform, sampler, side, 0)
    return TrainLoader(DetectionDataset(data.labels, data.images, side), transform, sampler, 0)


def loss_of_an_epoch(data: LabeledDataset, **settings) -> "tuple[float, float]":
    """CrossEntropy and SmoothL1 of one epoch on all images, in the order of `data`, from the same weights."""
    config = small_config(epochs=1, **settings)
    loader = loader_of(data, config)
    net = build_net(config.base_network, config.image_shape, list(data.labels.class_names), config.seed)
    learner = TrainStep(net, config, contexts("cpu"))
    result = train_one_epoch(learner, loader.epoch(0), epoch_learning_rates(config, 0, len(loader)))
    return result["CrossEntropy"], result["SmoothL1"]


@pytest.fixture(scope="module")
def expected(drawn):
    """The loss of the data as it was drawn."""
    _, data = drawn
    return loss_of_an_epoch(data)


def test_two_runs_are_alike_and_other_labels_are_not(drawn, expected):
    _, data = drawn
    moved = [replace(record, boxes=record.boxes + np.float32(0.5)) for record in data.labels.records]

    assert loss_of_an_epoch(data) == pytest.approx(expected, abs=1e-5)
    other = LabeledDataset(replace(data.labels, records=tuple(moved)), data.images)
    assert loss_of_an_epoch(other) != pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("door", [*WRITERS, "yolo beside"])
def test_one_epoch_from_each_format_gives_the_same_loss(drawn, expected, door):
    folder, data = drawn

    found = through(door, folder, data)

    assert loss_of_an_epoch(LabeledDataset(in_order(found), found.images)) == pytest.approx(expected, abs=1e-5)


def test_one_epoch_from_a_pipe_gives_the_same_loss(drawn, expected, tmp_path):
    _, data = drawn
    with FifoWriter(tmp_path / "train", [pipe_pieces(data)]):
        found, _ = load_splits(pipe_config(), piped(tmp_path, drawn), HeardProgress())

    assert loss_of_an_epoch(LabeledDataset(in_order(found), found.images)) == pytest.approx(expected, abs=1e-5)


def test_a_stream_brings_the_same_pictures_and_targets(drawn, tmp_path):
    """Its order is its own, and the sums of BatchNorm depend on it by 1e-4: what is equal is the input of the loss."""
    _, data = drawn
    with FifoWriter(tmp_path / "train", [pipe_pieces(data)] * 2):
        found, _ = load_splits(pipe_config(pipe_spill_gb=1e-6), piped(tmp_path, drawn), HeardProgress())
        assert isinstance(found.images, DetectionStream)
        batches = list(loader_of(found, small_config(augmentation="none")).epoch(0))

    expected = {picture.tobytes(): (classes, boxes) for picture, classes, boxes in untouched(data)}
    assert len(batches) == 3 and len(expected) == COUNT
    for batch in batches:
        for picture, classes, boxes in zip(*batch.arrays()):
            np.testing.assert_array_equal(classes, expected[picture.tobytes()][0])
            np.testing.assert_array_equal(boxes, expected[picture.tobytes()][1])


def untouched(data: LabeledDataset):
    """(picture, class targets, box targets) of each image."""
    batches = loader_of(data, small_config(augmentation="none")).epoch(0)
    return [sample for batch in batches for sample in zip(*batch.arrays())]


def pipe_pieces(data: LabeledDataset):
    return samples(data.labels.records, data.images, data.labels.class_names)


def pipe_config(**settings):
    return small_config(**options(epochs=1, **settings))


def piped(folder, drawn):
    """A piped training channel, and the drawn files for validation."""
    images = Path(drawn[1].images.root)
    return Environment(train=folder / "train", validation=images, validation_labels=drawn[0] / "output.manifest")

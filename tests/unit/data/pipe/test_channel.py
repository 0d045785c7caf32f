"""One pass over a channel in Pipe mode: labels, class names and images, whatever the order and the length."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.data import FifoWriter, label_set, memory_images, samples

from ssd_train.data.pipe.channel import SpillFile, read_channel
from ssd_train.data.structures import ClassNames
from ssd_train.errors import DataError

LABELS = label_set([[[1, 2, 20, 12], [5.5, 5, 15, 25]], [[0, 0, 40, 30]], []], [[0, 1], [1], []])
IMAGES = memory_images(LABELS)
PLAIN, WITH_NAMES = samples(LABELS.records, IMAGES), samples(LABELS.records, IMAGES, LABELS.class_names)


def received(folder, pieces, limit=10**7, delay=0.0):
    with FifoWriter(folder / "train", [pieces], delay):
        return read_channel(folder / "train", 5, SpillFile(folder, limit))


def labels_of(channel, class_names=None, on_bad="error"):
    names, table = channel.class_table(class_names)
    return channel.label_set(names, table, on_bad)


def test_labels_and_images_of_a_channel(tmp_path):
    labels, images = labels_of(received(tmp_path, WITH_NAMES, delay=0.01))

    assert labels.class_names == LABELS.class_names
    assert sorted(record.where for record in labels.records) == ["train_0:1", "train_0:4", "train_0:7"]
    by_place = {record.where: record for record in labels.records}
    for number, expected in zip((1, 4, 7), LABELS.records):
        record = by_place[f"train_0:{number}"]
        np.testing.assert_array_equal(record.boxes, expected.boxes)
        np.testing.assert_array_equal(record.class_ids, expected.class_ids)
        assert record.size_wh == (40, 30) and images.read(record) == IMAGES.read(expected)


@pytest.mark.parametrize(
    "pieces, given, expected",
    [
        pytest.param(WITH_NAMES, None, ["cat", "dog"], id="metadata"),
        pytest.param(WITH_NAMES, ("dog", "emu", "cat"), ["dog", "emu", "cat"], id="metadata-in-given-order"),
        pytest.param(PLAIN, ("red", "blue"), ["red", "blue"], id="given"),
        pytest.param(PLAIN, None, ["class_0", "class_1"], id="numbered"),
        pytest.param(WITH_NAMES, ("dog",), "class 'cat' is unknown", id="metadata-of-another-class"),
        pytest.param(PLAIN, ("red",), "train_0:1: box 1: class_id: found 1, expected one of", id="too-few"),
    ],
)
def test_class_names(tmp_path, pieces, given, expected):
    channel = received(tmp_path, pieces)
    names = given and ClassNames(given)
    if isinstance(expected, str):
        with pytest.raises(DataError) as error:
            labels_of(channel, names)
        assert expected in str(error.value)
        return

    labels, _ = labels_of(channel, names)

    assert list(labels.class_names) == expected
    count = dict(zip(labels.class_names, labels.boxes_per_class()))
    assert sorted(count.values(), reverse=True)[:2] == [2, 1]
    assert count.get("dog", 2) == 2 and count.get("blue", 2) == 2


def test_class_maps_of_single_images_are_one(tmp_path):
    cat, dog = (ClassNames((name,)) for name in ("cat", "dog"))
    of_cats = dataclasses.replace(LABELS.records[1], class_ids=np.array([0]))
    pieces = samples([of_cats], IMAGES, cat) + samples([LABELS.records[2]], IMAGES, ClassNames(()))
    dogs = samples([LABELS.records[0]], IMAGES, dog)[0].replace(b'{"0": "dog"}', b'{"1": "dog"}')
    channel = received(tmp_path, [*pieces, dogs.replace(b'"class_id": 0', b'"class_id": 1')])

    labels, _ = labels_of(channel)

    assert list(labels.class_names) == ["cat", "dog"] and labels.boxes_per_class().tolist() == [1, 2]


def test_too_many_images_are_not_kept_and_the_labels_are(tmp_path):
    size = len(IMAGES.read(LABELS.records[0]))
    labels, images = labels_of(received(tmp_path, PLAIN, limit=2 * size))

    assert images is None and len(labels) == 3


def test_same_image_twice_is_two_records(tmp_path):
    labels, images = labels_of(received(tmp_path, [*PLAIN, PLAIN[0]]))

    assert len({record.name for record in labels.records}) == 4
    assert len({images.read(record) for record in labels.records}) == 3

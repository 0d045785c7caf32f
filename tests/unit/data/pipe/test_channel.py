"""One pass over a channel in Pipe mode: labels, class names and images, whatever the order and the length."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from builders import label_set, memory_images
from fifos import FifoWriter, framed, samples

from ssd_train.data.formats.builder import BAD_LINE
from ssd_train.data.formats.recordio import write_recordio
from ssd_train.data.pipe.channel import read_channel
from ssd_train.data.pipe.spill import SpillFile
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


@pytest.mark.parametrize("delay", [0, 0.05], ids=["fast", "slow"])
def test_labels_and_images_of_a_channel(tmp_path, delay):
    labels, images = labels_of(received(tmp_path, WITH_NAMES, delay=delay))

    assert labels.class_names == LABELS.class_names
    assert sorted(record.where for record in labels.records) == ["train_0:1", "train_0:4", "train_0:7"]
    by_place = {record.where: record for record in labels.records}
    for number, expected in zip((1, 4, 7), LABELS.records):
        record = by_place[f"train_0:{number}"]
        np.testing.assert_array_equal(record.boxes, expected.boxes)
        np.testing.assert_array_equal(record.class_ids, expected.class_ids)
        assert record.size_wh == (40, 30) and images.read(record) == IMAGES.read(expected)


def test_a_rec_in_a_pipe(tmp_path):
    write_recordio(tmp_path / "x.rec", LABELS.records, IMAGES)

    labels, images = labels_of(received(tmp_path, [(tmp_path / "x.rec").read_bytes()]), ClassNames(("cat", "dog")))

    assert labels.boxes_per_class().tolist() == [1, 2]
    assert {images.read(r) for r in labels.records} == {IMAGES.read(r) for r in LABELS.records}


def test_a_bad_record_of_a_rec_is_listed(tmp_path):
    write_recordio(tmp_path / "x.rec", LABELS.records, IMAGES)
    data = (tmp_path / "x.rec").read_bytes() + framed(b"short")

    labels, _ = labels_of(received(tmp_path, [data]), on_bad="skip")

    assert len(labels) == 3 and [line.where for line in labels.skipped] == ["train_0:4"]


def test_the_order_of_the_stream_makes_no_difference(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, _ = labels_of(received(tmp_path / "a", WITH_NAMES))
    other, _ = labels_of(received(tmp_path / "b", WITH_NAMES[::-1]))

    assert [r.name for r in one.records] == [r.name for r in other.records]
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(one.records, other.records))


@pytest.mark.parametrize(
    "pieces, given, expected",
    [
        pytest.param(WITH_NAMES, None, ["cat", "dog"], id="metadata"),
        pytest.param(WITH_NAMES, ("dog", "emu", "cat"), ["dog", "emu", "cat"], id="metadata-in-given-order"),
        pytest.param(PLAIN, ("red", "blue"), ["red", "blue"], id="given"),
        pytest.param(PLAIN, None, ["class_0", "class_1"], id="numbered"),
        pytest.param(WITH_NAMES, ("dog",), "class 'cat' is unknown", id="metadata-of-another-class"),
        pytest.param(PLAIN, ("red",), "train_0:1: class_id: found 1, expected one of", id="too-few"),
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


def test_bad_samples_are_listed(tmp_path):
    label = {"annotations": [{"class_id": 0, "left": 1, "top": 1, "width": -1, "height": 2}]}
    bad_box = framed(IMAGES.read(LABELS.records[0]), json.dumps(label).encode())
    bad_image = framed(b"GIF89a", b'{"annotations": []}')
    cut_off = framed(IMAGES.read(LABELS.records[2])[:-20], b'{"annotations": []}')
    pieces = [PLAIN[0], bad_box, bad_image, PLAIN[1], cut_off]
    channel = received(tmp_path, pieces)

    labels, _ = labels_of(channel, on_bad="skip")

    assert len(labels) == 2
    assert [line.where for line in labels.skipped] == ["train_0:3", "train_0:5", "train_0:9"]
    assert {line.reason for line in labels.skipped} == {BAD_LINE}
    with pytest.raises(DataError, match="3 bad lines: train_0:3: box 0: found width -1.*train_0:5: image: found a GIF"):
        labels_of(channel)


@pytest.mark.parametrize(
    "pieces, message",
    [
        pytest.param([], "train_0: found no record, expected samples: does the manifest have lines", id="empty"),
        pytest.param([b"".join(PLAIN)[:-4]], "train_0:6: .*cut off", id="dies-in-a-record"),
        pytest.param([PLAIN[0], b"garbage!"], "train_0:3: .*RecordIO framing", id="no-recordio"),
    ],
)
def test_broken_streams(tmp_path, pieces, message):
    with pytest.raises(DataError, match=message):
        received(tmp_path, pieces)

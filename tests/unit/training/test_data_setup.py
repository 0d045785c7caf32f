"""Training and validation from every door, in the same classes."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from helpers.data import (
    FifoWriter,
    HeardProgress,
    framed,
    label_set,
    memory_images,
    options,
    picture,
    samples,
    small_config,
)

from ssd_train.data.formats.ground_truth import box_label, write_ground_truth
from ssd_train.data.formats.image_json import write_image_json
from ssd_train.data.formats.recordio import write_recordio
from ssd_train.data.pipe.channel import SpillImages
from ssd_train.data.pipe.stream import DetectionStream
from ssd_train.data.structures import ClassNames
from ssd_train.environment import Environment
from ssd_train.errors import ConfigError, DataError
from ssd_train.training.data_setup import load_splits

COUNT = 8
LABELS = label_set([[[1 + i, 2, 20, 12]] for i in range(COUNT)], [[i % 2] for i in range(COUNT)])
HELD = label_set([[[1, 2, 20, 12]], [[3, 4, 9, 14]]], [[0], [1]])
HELD = replace(HELD, records=tuple(replace(r, name=f"v{r.name}") for r in HELD.records))
IMAGES = memory_images(LABELS)
HELD_IMAGES = memory_images(HELD, [picture((40, 30), 100 + i) for i in range(2)])
SIZE = len(IMAGES.read(LABELS.records[0]))


def sides(config=None, progress=None, **places):
    return load_splits(config or small_config(), Environment(**places), progress or HeardProgress())


def piped(progress=None, settings=None, **places):
    return sides(small_config(**options(**(settings or {}))), progress, **places)


def write_images(folder, labels=LABELS, images=IMAGES):
    (folder / "deep").mkdir(parents=True)
    for record in labels.records:
        (folder / "deep" / record.name).write_bytes(images.read(record))
    return folder


def names_of(side):
    return [side.labels.class_names[i] for record in side.labels.records for i in record.class_ids]


def test_recs_on_both_sides_and_the_number_of_classes(tmp_path):
    write_recordio(tmp_path / "train.rec", LABELS.records, IMAGES)
    write_recordio(tmp_path / "validation.rec", HELD.records[:1], HELD_IMAGES)
    config = small_config(num_classes=3, labels_format="application/x-recordio")

    train, validation = sides(config, train=tmp_path / "train.rec", validation=tmp_path / "validation.rec")

    assert list(train.labels.class_names) == list(validation.labels.class_names) == ["class_0", "class_1", "class_2"]
    assert (len(train.labels), len(validation.labels)) == (COUNT, 1)


def test_validation_images_without_labels_are_refused(tmp_path):
    write_ground_truth(tmp_path / "x.manifest", LABELS.records, LABELS.class_names)
    write_images(tmp_path / "train")
    write_images(tmp_path / "validation", HELD, HELD_IMAGES)

    with pytest.raises(DataError, match="validation: found 2 .png, expected labels"):
        sides(train=tmp_path / "train", labels=tmp_path / "x.manifest", validation=tmp_path / "validation")


@pytest.mark.parametrize("told", [True, False], ids=["named-by-the-environment", "found-by-looking"])
def test_both_sides_from_pipes(tmp_path, told):
    progress = HeardProgress()
    with ExitStack() as writers:
        for name, labels, images in (("train", LABELS, IMAGES), ("validation", HELD, HELD_IMAGES)):
            pieces = samples(labels.records, images, labels.class_names)
            writers.enter_context(FifoWriter(tmp_path / name, [pieces]))
        pipes = frozenset(["train", "validation"]) if told else frozenset()
        train, validation = piped(progress, train=tmp_path / "train", validation=tmp_path / "validation", pipes=pipes)

    assert sorted(names_of(train)) == ["cat"] * 4 + ["dog"] * 4 and sorted(names_of(validation)) == ["cat", "dog"]
    assert isinstance(train.images, SpillImages)
    assert {train.images.read(r) for r in train.labels.records} == {IMAGES.read(r) for r in LABELS.records}
    told = [line.split(",")[0] for line in progress.lines]
    assert told == ["train: received 8 images", "validation: received 2 images"]


def test_validation_without_metadata_has_the_ids_of_training(tmp_path):
    def with_gap(pieces):
        named = [piece.replace(b'"1": "dog"', b'"5": "dog"') for piece in pieces]
        return [piece.replace(b'"class_id": 1', b'"class_id": 5') for piece in named]

    with FifoWriter(tmp_path / "train", [with_gap(samples(LABELS.records, IMAGES, LABELS.class_names))]):
        with FifoWriter(tmp_path / "validation", [with_gap(samples(HELD.records, HELD_IMAGES))]):
            _, validation = piped(train=tmp_path / "train", validation=tmp_path / "validation")

    assert sorted(names_of(validation)) == ["cat", "dog"]
    assert {i for record in validation.labels.records for i in record.class_ids.tolist()} == {0, 5}
    assert validation.labels.class_names.names == ("cat", "class_1", "class_2", "class_3", "class_4", "dog")


def test_read_sides_validation_id_in_a_gap_of_training_is_that_class(tmp_path):
    gap = ClassNames.of_ids({0: "cat", 2: "dog"})
    about = json.dumps({"class-map": {"0": "cat", "2": "dog"}, "type": "groundtruth/object-detection"}).encode()
    records = [replace(record, class_ids=2 * record.class_ids) for record in LABELS.records]
    pieces = [framed(IMAGES.read(r), json.dumps(box_label(r)).encode(), about) for r in records]
    with FifoWriter(tmp_path / "train", [pieces]):
        with FifoWriter(tmp_path / "validation", [samples(HELD.records, HELD_IMAGES)]):
            train, validation = piped(train=tmp_path / "train", validation=tmp_path / "validation")

    assert train.labels.class_names == validation.labels.class_names == gap
    assert sorted(i for record in validation.labels.records for i in record.class_ids.tolist()) == [0, 1]


@pytest.mark.parametrize("names", [LABELS.class_names, None], ids=["named", "without-names"])
@pytest.mark.parametrize("spill", [None, 2.3 * SIZE / 1e9], ids=["kept", "streamed"])
def test_read_sides_pipe_with_more_classes_than_seen_has_them(tmp_path, names, spill):
    settings = {"num_classes": 4, **({} if spill is None else {"pipe_spill_gb": 4 * spill})}
    later = [replace(record, class_ids=np.array([3])) for record in LABELS.records]
    epochs = [samples(records, IMAGES, *([names] if names else [])) for records in (LABELS.records, later)]
    with FifoWriter(tmp_path / "train", epochs):
        with FifoWriter(tmp_path / "validation", [samples(HELD.records, HELD_IMAGES)]):
            train, validation = piped(
                settings={**settings, "epochs": 1}, train=tmp_path / "train", validation=tmp_path / "validation"
            )
        assert isinstance(train.images, DetectionStream) == (spill is not None)
        if spill is not None:
            assert {i for image in train.images.epoch((1, 0)) for i in image.record.class_ids.tolist()} == {3}

    expected = (*(names or ("class_0", "class_1")), "class_2", "class_3")
    assert train.labels.class_names.names == validation.labels.class_names.names == expected


def test_read_sides_given_class_names_hold_for_validation_too(tmp_path):
    """Image + JSON whose categories have other ids than the boxes in training, and by chance the same in validation."""
    for name, labels, images in (("train", LABELS, IMAGES), ("validation", HELD, HELD_IMAGES)):
        write_images(tmp_path / name, labels, images)
        inside = [replace(record, name=f"deep/{record.name}") for record in labels.records]
        write_image_json(tmp_path / f"{name}_annotation", inside, labels.class_names)
        for file in (tmp_path / f"{name}_annotation").rglob("*.json"):
            value = json.loads(file.read_text())
            other = [{"class_id": 17, "name": "cat"}] if name == "train" else value["categories"]
            file.write_text(json.dumps({**value, "categories": other}))
    places = {"train": tmp_path / "train", "labels": tmp_path / "train_annotation"}
    places.update(validation=tmp_path / "validation", validation_labels=tmp_path / "validation_annotation")

    train, validation = sides(small_config(class_names="red, blue"), **places)

    assert names_of(train) == ["red", "blue"] * (COUNT // 2) and names_of(validation) == ["red", "blue"]
    assert len(train.labels.repaired) == COUNT and not validation.labels.repaired


def test_a_stream_cannot_hold_images_out(tmp_path):
    with FifoWriter(tmp_path / "train", [samples(LABELS.records, IMAGES)]):
        with pytest.raises(DataError, match="train: holds more images than can be kept to hold some out"):
            piped(settings={"pipe_spill_gb": SIZE / 1e9}, train=tmp_path / "train")


def test_validation_that_cannot_be_kept_is_refused(tmp_path):
    with FifoWriter(tmp_path / "train", [samples(LABELS.records, IMAGES)]):
        with FifoWriter(tmp_path / "validation", [samples(HELD.records, HELD_IMAGES)]):
            with pytest.raises(DataError, match="validation: holds more images than can be kept"):
                piped(
                    settings={"pipe_spill_gb": SIZE / 1e9},
                    train=tmp_path / "train",
                    validation=tmp_path / "validation",
                )


def test_labels_beside_a_pipe_are_refused(tmp_path):
    with FifoWriter(tmp_path / "train", [samples(LABELS.records, IMAGES)]):
        with pytest.raises(ConfigError, match="labels: found .*, expected none: train is a pipe"):
            piped(train=tmp_path / "train", labels=tmp_path)


def test_a_broken_channel_does_not_wait_for_the_other(tmp_path):
    os.mkfifo(tmp_path / "train_0")  # nobody writes
    start = time.monotonic()
    with FifoWriter(tmp_path / "validation", [[b"garbage!"]]):
        with pytest.raises(DataError, match="validation_0:1: .*RecordIO"):
            piped(settings={"pipe_timeout": 60}, train=tmp_path / "train", validation=tmp_path / "validation")

    assert time.monotonic() - start < 20


def test_load_splits_pipe_order_and_images_equal_its_bytes(tmp_path):
    def read(name, pieces):
        (tmp_path / name).mkdir()
        with FifoWriter(tmp_path / name / "train", [pieces]):
            return piped(train=tmp_path / name / "train")[0]

    pieces = samples(LABELS.records, IMAGES)
    one, other = read("a", pieces), read("b", pieces[::-1])

    assert [r.name for r in one.labels.records] == [r.name for r in other.labels.records]
    for a, b in zip(one.labels.records, other.labels.records):
        assert one.images.read(a) == other.images.read(b)
        np.testing.assert_array_equal(a.boxes, b.boxes)

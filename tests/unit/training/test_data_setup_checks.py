"""Tests of loading data for a run: completed settings, warnings, garbage collection."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path

import pytest
from helpers.data import HeardProgress, label_set, memory_images, picture, small_config, write_files

from ssd_train.config import TrainConfig
from ssd_train.data.formats import ground_truth
from ssd_train.data.formats.ground_truth import write_ground_truth
from ssd_train.data.image_io import encode_png
from ssd_train.data.image_sources import FolderImages
from ssd_train.data.labels import LabeledDataset
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.environment import Environment
from ssd_train.errors import ConfigError, DataError
from ssd_train.progress import Progress
from ssd_train.training import data_setup


@pytest.mark.parametrize("at_work", [True, False], ids=["at-work", "switched-off-by-the-caller"])
def test_load_datasets_disables_gc_and_restores_it(monkeypatch, tmp_path, at_work):
    seen = []

    def read_sides(*_):
        seen.append(gc.isenabled())
        raise DataError("m:1: found nothing")

    monkeypatch.setattr(data_setup, "load_splits", read_sides)
    (gc.enable if at_work else gc.disable)()
    try:
        with pytest.raises(DataError, match="m:1"):
            data_setup.load_datasets(TrainConfig(), Environment(train=tmp_path), Progress())
        assert seen == [False] and gc.isenabled() == at_work
    finally:
        gc.enable()


def test_validate_images_names_images_without_labels_but_not_of_other_splits(tmp_path):
    for seed, name in enumerate(("a.png", "b.png", "other.png", "forgotten.png")):
        (tmp_path / name).write_bytes(encode_png(picture((40, 30), seed)))
    records = [LabeledImage(name, [[2, 2, 20, 20]], [0], (40, 30), name) for name in ("a.png", "b.png", "other.png")]
    source, names, progress = FolderImages(tmp_path), ClassNames(("x",)), HeardProgress()
    train = LabeledDataset(Labels(tuple(records[:1]), names, others=tuple(records[2:])), source)
    validation = LabeledDataset(Labels(tuple(records[1:2]), names), source)
    data_setup.validate_images((train, validation), TrainConfig(), progress, {})
    (warning,) = progress.warnings
    assert "forgotten.png" in warning and "other.png" not in warning and "1 pictures" in warning and "of 4 " in warning


def side(class_ids, names):
    labels = label_set([[[1, 2, 20, 12]] for _ in class_ids], [[i] for i in class_ids], class_names=names)
    return LabeledDataset(labels, memory_images(labels))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_completed_num_classes_other_than_the_labels_raises(count):
    with pytest.raises(ConfigError, match=f"num_classes: found {count}, expected 4"):
        data_setup.resolve_config_from_data(
            TrainConfig(num_classes=count), side([0, 3], ["a", "b", "class_2", "d"]), HeardProgress()
        )


def test_log_dataset_summary_gaps_and_classes_in_one_split_warn():
    progress = HeardProgress()
    names = ["a", "b", "class_2", "d", "class_4", "class_5"]
    data_setup.log_dataset_summary(side([0, 1, 5], names), side([0, 3], names), progress)
    few = [line for line in progress.warnings if "fewer than" in line or "at least" in line]
    gap, *one_side = [line for line in progress.warnings if line not in few]
    assert "2 (class_2), 4 (class_4)" in gap and "6 classes" in gap
    found = [([name for name in names if repr(name) in line], "none in training" in line) for line in one_side]
    assert found == [(["d"], True), (["b", "class_5"], False)]


def summary_of(train, validation):
    progress = HeardProgress()
    data_setup.log_dataset_summary(train, validation, progress)
    return progress.warnings


@pytest.mark.parametrize("images, warned", [(9, True), (10, False)])
def test_summary_of_few_validation_images_warns(images, warned):
    warnings = summary_of(side([0] * 20, ["a"]), side([0] * images, ["a"]))
    assert any(f"found {images} images" in line for line in warnings) == warned


def test_summary_of_few_boxes_of_a_class_warns_by_split():
    warnings = summary_of(side([0] * 20 + [1] * 9, ["a", "b"]), side([0] * 3 + [1] * 10, ["a", "b"]))
    assert [(line.split(":")[0], "b (9)" in line, "a (3)" in line) for line in warnings] == [
        ("train", True, False),
        ("validation", False, True),
    ]


@pytest.mark.parametrize("empty, warned", [(20, False), (21, True)])
def test_summary_of_many_images_without_objects_warns(empty, warned):
    labels = label_set([[[1, 2, 20, 12]]] * 20 + [[]] * empty, [[0]] * 20 + [[]] * empty, class_names=["a"])
    warnings = summary_of(LabeledDataset(labels, memory_images(labels)), side([0] * 20, ["a"]))
    assert any(f"{empty} of {20 + empty} images" in line for line in warnings) == warned


def test_load_datasets_that_splits_opens_each_file_once_and_parses_each_line_once(monkeypatch, tmp_path):
    names = [f"{index}.png" for index in range(8)]
    (tmp_path / "images").mkdir()
    for seed, name in enumerate(names):
        (tmp_path / "images" / name).write_bytes(encode_png(picture((40, 30), seed)))
    records = [LabeledImage(name, [[2, 2, 20, 20]], [0], (40, 30)) for name in names]
    write_ground_truth(tmp_path / "output.manifest", records, ClassNames(("x",)))
    opened, parsed, real_open, real_parse = Counter(), Counter(), open, ground_truth.parse_object

    def counted_open(file, *arguments, **options):
        opened[Path(file).name] += 1
        return real_open(file, *arguments, **options)

    def counted_parse(line):
        parsed[line] += 1
        return real_parse(line)

    monkeypatch.setattr("builtins.open", counted_open)
    monkeypatch.setattr(ground_truth, "parse_object", counted_parse)
    environment = Environment(train=tmp_path / "images", labels=tmp_path / "output.manifest")
    _, train, validation = data_setup.load_datasets(TrainConfig(), environment, Progress())
    assert len(train.labels) + len(validation.labels) == len(names)
    assert opened == dict.fromkeys(["output.manifest", *names], 1)
    assert set(parsed.values()) == {1} and len(parsed) == len(names)


@pytest.mark.parametrize("folders, warned", [(("train", "valid", "more"), True), (("a", "b", "test"), False)])
def test_load_splits_that_mixes_folders_named_as_sets_warns(tmp_path, folders, warned):
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    files = {}
    for index, folder in enumerate(folders):
        for number in range(4):
            files[f"{folder}/{number}{folder}.png"] = encode_png(picture((40, 30), 10 * index + number))
            text = f"<annotation><object><name>a</name>{box}</object></annotation>"
            files[f"{folder}/{number}{folder}.xml"] = text
    write_files(tmp_path, files)
    progress = HeardProgress()
    data_setup.load_splits(small_config(), Environment(tmp_path), progress)
    assert any("outside the folders train, valid, so all are mixed" in line for line in progress.warnings) == warned

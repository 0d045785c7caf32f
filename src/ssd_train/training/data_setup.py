"""Load, check and summarize the training and validation data of a run, and complete the settings from it."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections import Counter
from typing import Iterator, List, Sequence, Tuple

from ssd_train.config import TrainConfig
from ssd_train.data.check import Side, cheap_check, check_apart, refuse_errors, without_errors
from ssd_train.data.check_codes import Finding
from ssd_train.data.check_images import files_without_label
from ssd_train.data.check_labels import label_width
from ssd_train.data.check_statistics import remarks
from ssd_train.data.labels import LabelledImages
from ssd_train.data.sources import FolderImages
from ssd_train.data.split import classes_missing_from
from ssd_train.data.stream import DetectionStream
from ssd_train.environment import Environment
from ssd_train.errors import ConfigError, DataError
from ssd_train.progress import Progress
from ssd_train.training.sides import Sides, read_sides


def take_in(
    config: TrainConfig, environment: Environment, progress: Progress
) -> Tuple[TrainConfig, LabelledImages, LabelledImages]:
    """Load and check both splits; return the completed settings, training and validation data.

    Raises:
        DataError: the data cannot be used.
        ConfigError: a setting does not fit the data.
    """
    with _gc_disabled():
        train, validation = checked(read_sides(config, environment, progress), config, progress)
    config = completed(config, train, progress)
    tell_about(train, validation, progress)
    for name, split in (("training", train), ("validation", validation)):
        if not split.labels.boxes_per_class().sum():
            raise DataError(f"{split.labels.source}: found no box in the {name} images, expected at least one")
    return config, train, validation


@contextlib.contextmanager
def _gc_disabled() -> Iterator[None]:
    """Disable Python's garbage collector, which would take a sixth of the time to read a hundred thousand records."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def checked(sides: Sides, config: TrainConfig, progress: Progress) -> Sides:
    """Check every image file of both splits without decoding it; a stream is checked while it is read.

    Files that are missing, truncated, of the wrong size or in both splits are an error; with on_bad_data "skip" they
    are dropped with a warning.
    """
    named = [Side(name, s.labels, s.images) for name, s in zip(("train", "validation"), sides)]
    findings = {
        split.name: cheap_check(split.labels, data.images, progress)
        for split, data in zip(named, sides)
        if not isinstance(data.images, DetectionStream)
    }
    if len(findings) == 2:
        findings["validation"] += check_apart(*named)
    _warn_of_pictures_without_labels(sides, progress)
    if config.on_bad_data == "error":
        refuse_errors([finding for found in findings.values() for finding in found])
    for name, of_data in findings.items():
        _warn_of(name, of_data, progress)
    train, validation = (
        LabelledImages(without_errors(data.labels, findings.get(name, [])), data.images)
        for name, data in zip(("train", "validation"), sides)
    )
    return train, validation


def _warn_of_pictures_without_labels(sides: Sides, progress: Progress) -> None:
    records = [record for side in sides for record in (*side.labels.records, *side.labels.others)]
    roots = sorted({side.images.root for side in sides if isinstance(side.images, FolderImages)})
    found = [finding for root in roots for finding in files_without_label(FolderImages(root), records)]
    if found:
        places = [finding.where for finding in found]
        progress.warn(f"{len(places)} pictures without labels are left out ({_first(places)})")


def _warn_of(name: str, findings: Sequence[Finding], progress: Progress) -> None:
    for code in Counter(finding.code for finding in findings):
        locations = [finding.where for finding in findings if finding.code == code]
        progress.warn(f"{name}: {len(locations)} images: {code} ({_first(locations)})")


def _first(names: List[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def completed(config: TrainConfig, train: LabelledImages, progress: Progress) -> TrainConfig:
    """Return the settings with the values that the data determines.

    Raises:
        ConfigError: num_classes differs from the labels; the other settings only cause a warning.
    """
    labels = train.labels
    if config.num_classes and config.num_classes != len(labels.class_names):
        raise ConfigError(
            f"num_classes: found {config.num_classes}, expected {len(labels.class_names)}: "
            f"{labels.source} has {', '.join(map(repr, labels.class_names))}"
        )
    if config.num_training_samples and config.num_training_samples != len(labels):
        progress.warn(
            f"num_training_samples: found {config.num_training_samples}, the data has {len(labels)}, which is used"
        )
    if config.mini_batch_size > len(labels):
        progress.warn(
            f"mini_batch_size: found {config.mini_batch_size}, the data has {len(labels)} images: all are used"
        )
    width = label_width(max(len(record.boxes) for record in labels.records))
    if width > config.label_width:
        progress.warn(f"label_width: found {config.label_width}, the data needs {width}, which is used")
    return dataclasses.replace(
        config,
        num_classes=len(labels.class_names),
        num_training_samples=len(labels),
        mini_batch_size=min(config.mini_batch_size, len(labels)),
        label_width=max(width, config.label_width),
    )


def tell_about(train: LabelledImages, validation: LabelledImages, progress: Progress) -> None:
    """Log the numbers of images and boxes.

    Warn of skipped and repaired lines, and of classes that cannot be learned or scored.
    """
    for name, subset in (("train", train), ("validation", validation)):
        labels = subset.labels
        counts = ", ".join(f"{n} {c}" for n, c in zip(labels.class_names, labels.boxes_per_class()))
        empty = sum(record.is_background for record in labels.records)
        ignored = sum(len(record.ignored) for record in labels.records)
        more = f"; {ignored} difficult objects or crowds are ignored" if ignored else ""
        progress.say(f"{name}: {len(labels)} images, {empty} without objects; boxes: {counts}{more}")
        for line in remarks(labels) if subset is train else ():
            progress.warn(f"{name}: {line}")
        for action, lines in (("skipped", labels.skipped), ("repaired", labels.mended)):
            for reason in sorted({line.reason for line in lines}):
                locations = [line.where for line in lines if line.reason == reason]
                progress.warn(f"{name}: {action} {len(locations)}: {reason} ({_first(locations)})")
    scored = validation.labels.boxes_per_class()
    unused = [class_id for class_id in train.labels.unused_ids() if not scored[class_id]]
    if unused:
        named = _first([f"{class_id} ({train.labels.class_names[class_id]})" for class_id in unused])
        progress.warn(
            f"train: {len(unused)} class ids without a name and a box: {named}; all ids are kept, "
            f"so the network has {len(train.labels.class_names)} classes"
        )
    for name in classes_missing_from(train.labels, validation.labels):
        progress.warn(f"class {name!r} has boxes in validation but none in training, so it cannot be learned")
    unscored = classes_missing_from(validation.labels, train.labels)
    if unscored:  # one line: a small validation set may lack many
        progress.warn(
            f"{len(unscored)} classes have boxes in training but none in validation, "
            f"so they are not part of the scores: {', '.join(map(repr, unscored))}"
        )

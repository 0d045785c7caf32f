"""What is taken into a job: both sides of the data, looked at, counted and told about, and the settings they decide."""

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
    """The settings, completed, and training and validation data, read and looked at.

    Raises:
        DataError: data that cannot be used; ConfigError: a setting that does not fit it.
    """
    with _collector_at_rest():
        train, validation = checked(read_sides(config, environment, progress), config, progress)
    config = completed(config, train, progress)
    tell_about(train, validation, progress)
    for name, side, purpose in (("training", train, "learn from"), ("validation", validation, "score with")):
        if not side.labels.boxes_per_class().sum():
            raise DataError(f"{side.labels.source}: found no box among the {name} images, expected some to {purpose}")
    return config, train, validation


@contextlib.contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Without Python's search for cycles of objects, which goes through all there are again and again while those of
    a hundred thousand images are made, which have no cycles: it would take a sixth of the time."""
    at_work = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if at_work:
            gc.enable()


def checked(sides: Sides, config: TrainConfig, progress: Progress) -> Sides:
    """Both sides after a look at every image, none decoded: one that is missing, cut off or wrong, or on both sides,
    is an error, or with on_bad_data 'skip' left out and counted. A stream is looked at as it comes."""
    named = [Side(name, s.labels, s.images) for name, s in zip(("train", "validation"), sides)]
    found = {
        side.name: cheap_check(side.labels, whole.images, progress)
        for side, whole in zip(named, sides)
        if not isinstance(whole.images, DetectionStream)
    }
    if len(found) == 2:
        found["validation"] += check_apart(*named)
    _warn_of_pictures_without_labels(sides, progress)
    if config.on_bad_data == "error":
        refuse_errors([finding for findings in found.values() for finding in findings])
    for name, findings in found.items():
        _warn_of(name, findings, progress)
    train, validation = (
        LabelledImages(without_errors(side.labels, found.get(name, [])), side.images)
        for name, side in zip(("train", "validation"), sides)
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
        places = [finding.where for finding in findings if finding.code == code]
        progress.warn(f"{name}: {len(places)} images: {code} ({_first(places)})")


def _first(places: List[str]) -> str:
    return ", ".join(places[:3]) + (", …" if len(places) > 3 else "")


def completed(config: TrainConfig, train: LabelledImages, progress: Progress) -> TrainConfig:
    """The settings with those that the data decides. A num_classes that the labels do not have (`with_class_count`) is
    an error, the others only warn."""
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
    """Say how many images and boxes there are, and warn of lines left out or mended and of what cannot be learned."""
    for name, subset in (("train", train), ("validation", validation)):
        labels = subset.labels
        counts = ", ".join(f"{n} {c}" for n, c in zip(labels.class_names, labels.boxes_per_class()))
        empty = sum(record.is_background for record in labels.records)
        ignored = sum(len(record.ignored) for record in labels.records)
        more = f"; {ignored} difficult objects or crowds are ignored" if ignored else ""
        progress.say(f"{name}: {len(labels)} images, {empty} without objects; boxes: {counts}{more}")
        for line in remarks(labels) if subset is train else ():
            progress.warn(f"{name}: {line}")
        for what, lines in (("skipped", labels.skipped), ("mended", labels.mended)):
            for reason in sorted({line.reason for line in lines}):
                places = [line.where for line in lines if line.reason == reason]
                progress.warn(f"{name}: {what} {len(places)}: {reason} ({_first(places)})")
    scored = validation.labels.boxes_per_class()
    unused = [class_id for class_id in train.labels.unused_ids() if not scored[class_id]]
    if unused:
        called = _first([f"{class_id} ({train.labels.class_names[class_id]})" for class_id in unused])
        progress.warn(
            f"train: {len(unused)} class ids without a name and a box: {called}; all ids stay as they are, "
            f"so the network has {len(train.labels.class_names)} classes"
        )
    for name in classes_missing_from(train.labels, validation.labels):
        progress.warn(f"class {name!r} has boxes in validation and none in training, so it cannot be learned")
    unscored = classes_missing_from(validation.labels, train.labels)
    if unscored:  # one line: a small validation set may lack many
        progress.warn(
            f"{len(unscored)} classes have boxes in training and none in validation, "
            f"so they are not part of the scores: {', '.join(map(repr, unscored))}"
        )

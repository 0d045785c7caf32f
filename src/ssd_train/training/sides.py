"""Read the training and validation data of a job, with the same classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Optional, Tuple

from ssd_train.config import TrainConfig
from ssd_train.data.labels import (
    LabelledImages,
    LabelOptions,
    matched_to,
    parse_class_names,
    read_labelled,
    with_class_count,
)
from ssd_train.data.official_sets import described, for_training, for_validation, of_split
from ssd_train.data.sources import Fetch
from ssd_train.data.split import hash_of_image, split_by_hash
from ssd_train.data.stream import DetectionStream
from ssd_train.environment import Environment
from ssd_train.errors import ConfigError, DataError
from ssd_train.progress import Progress
from ssd_train.remote import image_fetcher
from ssd_train.training.pipes import Pipes, piped_paths

Sides = Tuple[LabelledImages, LabelledImages]


def require_inputs(environment: Environment) -> None:
    """Raise DataError if a path of the data does not exist; nothing is read."""
    piped = piped_paths(environment)
    paths = {
        "images": [environment.train, environment.validation],
        "labels": [environment.labels, environment.validation_labels],
    }
    for content, given in paths.items():
        for path in given:
            if path is not None and path not in piped.values() and not path.exists():
                raise DataError(f"{path}: not found, expected {content}")


def read_sides(config: TrainConfig, environment: Environment, progress: Progress) -> Sides:
    """Return training and validation data, split if there is no validation data.

    Both have the classes of the training labels.

    Raises:
        DataError: the data are unusable.
        ConfigError: a setting does not fit the data.
    """
    pipes = Pipes(config, piped_paths(environment), progress)
    fetch = image_fetcher(progress) if environment.fetch_images else None
    if "train" in pipes:
        if environment.labels is not None:
            raise ConfigError(f"labels: found {environment.labels}, expected none: train is a pipe that brings labels")
        train = pipes.train()
    else:
        train = read_labelled(environment.train, environment.labels, _options(config, fetch))
        if not config.class_names:
            train = LabelledImages(with_class_count(train.labels, config.num_classes), train.images)
    if "validation" in pipes:
        return train, pipes.validation(train.labels.class_names)
    alone = environment.validation is None and environment.validation_labels is None
    train, own = _of_sets(train, config, alone, progress)
    if own is not None:
        return train, own
    if alone:
        return hold_out(train, config, progress)
    images: Optional[Path] = environment.validation or environment.train
    validation = read_labelled(images, environment.validation_labels, _options(config, fetch))
    scored = matched_to(for_validation(validation.labels), train.labels.class_names)
    return train, LabelledImages(scored, validation.images)


def _of_sets(
    train: LabelledImages, config: TrainConfig, alone: bool, progress: Progress
) -> Tuple[LabelledImages, Optional[LabelledImages]]:
    """Return the named sets of the data to train on and to validate with.

    The second is None if the data have no set for it.
    """
    labels = train.labels
    sets = described(labels)
    if config.split:
        learned, scored = of_split(labels, config.split), None
    else:
        learned, scored = for_training(labels, alone)
    if sets:
        with_what = f"{len(scored)} to score with" if scored is not None else "a share held out" if alone else "all"
        progress.say(f"train: {sets}; {len(learned)} are taken, {with_what}, the others are left alone")
    return (
        LabelledImages(learned, train.images),
        None if scored is None else LabelledImages(scored, train.images),
    )


def hold_out(whole: LabelledImages, config: TrainConfig, progress: Optional[Progress] = None) -> Sides:
    """Hold out a fraction of the images for validation."""
    if isinstance(whole.images, DetectionStream):
        raise DataError(
            f"{whole.images.path}: holds more images than can be kept to hold some out for validation, expected a "
            "channel validation, or a larger --pipe_spill_gb"
        )
    group = config.split_group or None
    content = hash_of_image(whole.images)
    train, held_out = split_by_hash(whole.labels, config.validation_fraction, content, group, progress)
    # skipped and repaired lines belong to the whole file, so they are reported once, with the training data
    train = dataclasses.replace(train, skipped=whole.labels.skipped, mended=whole.labels.mended)
    held_out = dataclasses.replace(held_out, others=())  # reported with the training data
    return LabelledImages(train, whole.images), LabelledImages(held_out, whole.images)


def _options(config: TrainConfig, fetch: Optional[Fetch]) -> LabelOptions:
    names, verified = parse_class_names(config.class_names), config.verified
    format, attribute, on_bad = config.labels_format, config.label_attribute, config.on_bad_data
    return LabelOptions(format, attribute, on_bad, names, fetch, verified=verified)

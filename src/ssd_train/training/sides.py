"""The two sides of a job's data: what is trained on and what it is scored with, in the same classes."""

from __future__ import annotations

import dataclasses
from typing import Tuple

from ssd_train.config import TrainConfig
from ssd_train.data.labels import (
    LabelledImages,
    LabelOptions,
    matched_to,
    parse_class_names,
    read_labelled,
    with_class_count,
)
from ssd_train.data.split import hash_of_image, split_by_hash
from ssd_train.environment import Environment


def read_sides(config: TrainConfig, environment: Environment) -> Tuple[LabelledImages, LabelledImages]:
    """Training and validation data, split where validation is not given; their classes are the training labels'."""
    options = LabelOptions(
        config.labels_format, config.label_attribute, config.on_bad_data, parse_class_names(config.class_names)
    )
    train = read_labelled(environment.train, environment.labels, options)
    train = LabelledImages(with_class_count(train.labels, config.num_classes), train.images)
    if environment.validation is None and environment.validation_labels is None:
        return hold_out(train, config)
    own = dataclasses.replace(options, class_names=None)  # its names are matched with those of training
    validation = read_labelled(environment.validation or environment.train, environment.validation_labels, own)
    labels = matched_to(validation.labels, train.labels.class_names)
    return train, LabelledImages(labels, validation.images)


def hold_out(whole: LabelledImages, config: TrainConfig) -> Tuple[LabelledImages, LabelledImages]:
    """A share of the images kept for validation."""
    group = config.split_group or None
    train, held_out = split_by_hash(whole.labels, config.validation_fraction, hash_of_image(whole.images), group)
    # what was skipped belongs to the file, so it is told with the larger part
    train = dataclasses.replace(train, skipped=whole.labels.skipped, mended=whole.labels.mended)
    return LabelledImages(train, whole.images), LabelledImages(held_out, whole.images)

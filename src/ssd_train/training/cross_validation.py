"""Detect objects in every image of a data set with models that were trained on the other images."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Callable, Iterator

from ssd_train.config import TrainConfig
from ssd_train.data.labels import LabeledDataset
from ssd_train.data.split import fold_of_each, image_hash
from ssd_train.environment import Environment
from ssd_train.evaluation.predictions import prediction_line
from ssd_train.progress import Progress
from ssd_train.storage.atomic import open_atomic
from ssd_train.training.engine import Evaluation
from ssd_train.training.trainer import open_trainer

DETECTIONS = "detections.jsonl"


def out_of_fold(
    data: LabeledDataset,
    folds: int,
    config: TrainConfig,
    environment: Environment,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> Iterator[Path]:
    """Train a network for each fold on the images of the others; yield the file with the detections of the fold.

    The last epoch is used, so that the labels of a fold do not choose its model. Below `environment.output_dir`, each
    fold has a folder with its checkpoints while it is trained, then with its detections; a repeated call resumes.

    Args:
        data: images and labels.
        folds: number of folds, at least 2.
        config: settings of each training.
        environment: output folder, initial weights and devices.
        progress: receives log lines and warnings.
        should_stop: called between steps; training stops when it returns True.

    Raises:
        SsdTrainError: bad settings or data.
        TrainingInterrupted: `should_stop` returned True; the state is saved.
    """
    fold_of = fold_of_each(data.labels, folds, image_hash(data.images), config.split_group or None, progress)
    config = dataclasses.replace(config, validation_interval=config.epochs)
    for fold in range(folds):
        folder = environment.output_dir / f"fold_{fold + 1}"
        detections = folder / DETECTIONS
        if detections.exists():
            progress.info(f"fold {fold + 1} of {folds}: detections of an earlier run")
        else:
            progress.info(f"fold {fold + 1} of {folds}: training on the other {folds - 1}")
            held_out = [number == fold for number in fold_of]
            splits = _subset(data, [not held for held in held_out]), _subset(data, held_out)
            own = dataclasses.replace(
                environment, model_dir=folder / "model", output_dir=folder, checkpoint_dir=folder / "checkpoints"
            )
            with open_trainer(config, own, progress, should_stop, splits) as trainer:
                evaluation = trainer.fit()
                assert isinstance(evaluation, Evaluation)  # one process
            with open_atomic(detections) as file:
                for image, predicted in evaluation.predictions:
                    file.write(prediction_line(image.name, predicted, data.labels.class_names))
        for used in ("model", "checkpoints"):
            shutil.rmtree(folder / used, ignore_errors=True)
        yield detections


def _subset(data: LabeledDataset, keep: "list[bool]") -> LabeledDataset:
    return LabeledDataset(dataclasses.replace(data.labels.subset(keep), others=()), data.images)

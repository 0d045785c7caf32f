"""The functions of the Python API; they do what the commands of the same names do."""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
from typing import Any, Callable, ContextManager, Iterator, Optional, Sequence, Tuple, Union

from ssd_train.cli.arguments import label_options
from ssd_train.cli.evaluate import score, warn_of_training_images
from ssd_train.cli.paths import input_path, local_dir, staged_s3_paths
from ssd_train.cli.train import StopRequests, TrainingResult, make_parser
from ssd_train.cli.train import train as run_training
from ssd_train.config import TrainConfig
from ssd_train.data import labels as label_files
from ssd_train.data.structures import Labels
from ssd_train.deploy.detector import Detector
from ssd_train.environment import Environment, detect_launcher
from ssd_train.errors import ConfigError
from ssd_train.evaluation.results import Scores
from ssd_train.progress import Progress

AnyPath = Union[str, "os.PathLike[str]"]


def train(
    train: AnyPath,
    labels: Optional[AnyPath] = None,
    *,
    validation: Optional[AnyPath] = None,
    validation_labels: Optional[AnyPath] = None,
    model_dir: AnyPath = "model",
    output_dir: AnyPath = "output",
    checkpoint_dir: Optional[AnyPath] = None,
    pretrained: Optional[AnyPath] = None,
    weights_dir: Optional[AnyPath] = None,
    overwrite: bool = False,
    fetch_images: bool = False,
    devices: str = "auto",
    verbose: bool = True,
    **settings: Any,
) -> TrainingResult:
    """Train a detector, export the best model and write the report, as `python -m ssd_train train` does.

    In the main thread, Ctrl-C ends the training after the step that is running.

    Args:
        train: folder of images, or a .rec with images and labels; this and other inputs may be s3:// URLs.
        labels: labels, a file or folder; None: those found in `train`.
        validation: validation images; None: those of `train`.
        validation_labels: validation labels; without both, a fraction of the images is held out.
        model_dir: folder of the model.
        output_dir: folder of the report.
        checkpoint_dir: folder of checkpoints, from which a run resumes; None: none are written.
        pretrained: weights to start from; None: those of GluonCV's model zoo that the setting zoo names.
        weights_dir: folder with files of the model zoo, which is searched first.
        overwrite: True: the model of an earlier run, and the report of another one, in these folders are replaced.
        fetch_images: True: images that labels name on S3 and the folder lacks are downloaded.
        devices: auto (all GPUs, or else the CPU), cpu, gpu, gpu:1, or gpu:0,gpu:1.
        verbose: False: neither log lines nor progress are shown.
        **settings: settings of the training by name, such as epochs=30; see docs/settings.md.

    Raises:
        SsdTrainError: settings or data cannot be used, before the first step.
        TrainingDiverged: the loss, the gradient or the weights are not finite.
        TrainingInterrupted: Ctrl-C was pressed; the best model so far is saved.
    """
    launcher, processes = detect_launcher()
    if processes > 1:
        raise ConfigError(
            f"train: found {processes} processes of {launcher}, expected one: use python -m ssd_train train"
        )
    inputs = {"train": train, "labels": labels, "validation": validation, "validation_labels": validation_labels}
    outputs = {"model_dir": model_dir, "output_dir": output_dir, "checkpoint_dir": checkpoint_dir}
    weights = {"pretrained": pretrained, "weights_dir": weights_dir}
    paths = {**_parsed(input_path, {**inputs, **weights}), **_parsed(local_dir, outputs)}
    with _staged(verbose, paths) as (flags, progress), _stop_requests() as should_stop:
        config = TrainConfig.from_mapping(settings, progress.warning, make_parser().names)
        environment = Environment(**vars(flags), overwrite=overwrite, fetch_images=fetch_images, devices=devices)
        trained = run_training(config, environment, progress, should_stop)
    assert isinstance(trained, TrainingResult)  # one process
    return trained


def evaluate(
    model: "Optional[AnyPath | Detector]" = None,
    labels: Optional[AnyPath] = None,
    images: Optional[AnyPath] = None,
    *,
    predictions: Optional[AnyPath] = None,
    labels_format: str = "",
    split: str = "",
    verified: str = "",
    label_attribute: str = "",
    class_names: Sequence[str] = (),
    fetch_images: bool = False,
    overlap_threshold: float = 0.5,
    devices: str = "auto",
    engine: str = "auto",
    verbose: bool = True,
) -> Scores:
    """Score a model, or a file of predictions, against labels, as `python -m ssd_train evaluate` does.

    Args:
        model: a model folder, its model.tar.gz, an .onnx file, or a Detector; with `predictions`, only its class names
            are used.
        labels: labels of any format, a file or folder.
        images: folder of the images; None: those in or beside the labels.
        predictions: predictions instead of a model's: JSON Lines, COCO results, a .out file or a folder of these.
        labels_format: format of the labels; "": detected.
        split: use only this split of those that the data names: train, val, test, ...
        verified: use only images whose labels a Ground Truth verification job called so.
        label_attribute: label attribute of a manifest; "": by type and date.
        class_names: names for labels without (RecordIO), in order of ids.
        fetch_images: True: images that labels name on S3 and the folder lacks are downloaded.
        overlap_threshold: IoU of a true positive, for the VOC scores.
        devices: of MXNet: auto, cpu, gpu, gpu:1.
        engine: what runs the model: auto, mxnet, symbol, onnxruntime, openvino, openvino_bf16.
        verbose: False: no progress is shown.

    Raises:
        DataError: labels, images or predictions cannot be used.
        WeightsError: the model cannot be used.
    """
    if labels is None or (model is None and predictions is None):
        raise ConfigError(
            "evaluate: found no labels, or neither model nor predictions; expected labels and one of them"
        )
    given = {"labels": labels, "images": images, "predictions": predictions}
    if not isinstance(model, Detector):
        given["model"] = model
    with _staged(verbose, _parsed(input_path, given)) as (flags, progress):
        reading = {"split": split, "verified": verified, "label_attribute": label_attribute}
        _add_label_options(flags, class_names, labels_format=labels_format, fetch_images=fetch_images, **reading)
        data = label_files.load_labels(flags.images, flags.labels, label_options(flags, progress))
        detector = model if isinstance(model, Detector) else None
        if detector is None and flags.model is not None:
            detector = Detector(flags.model, devices, engine)
            if predictions is None:
                warn_of_training_images(flags.model, data, progress)
        return score(data, detector, flags.predictions, overlap_threshold, progress)


def load_labels(
    labels: AnyPath,
    images: Optional[AnyPath] = None,
    *,
    labels_format: str = "",
    split: str = "",
    verified: str = "",
    label_attribute: str = "",
    class_names: Sequence[str] = (),
) -> Labels:
    """Load labels of any format.

    Args:
        labels: labels, a file or folder.
        images: folder of the images, which formats with one label file for each image need if it is another folder.
        labels_format: format of the labels; "": detected.
        split: use only this split of those that the data names: train, val, test, ...
        verified: use only images whose labels a Ground Truth verification job called so.
        label_attribute: label attribute of a manifest; "": by type and date.
        class_names: names for labels without (RecordIO), in order of ids.

    Raises:
        DataError: the labels cannot be used; the message begins with file:line.
    """
    with _staged(False, _parsed(input_path, {"labels": labels, "images": images})) as (flags, progress):
        reading = {"split": split, "verified": verified, "label_attribute": label_attribute}
        _add_label_options(flags, class_names, labels_format=labels_format, fetch_images=False, **reading)
        return label_files.load_labels(flags.images, flags.labels, label_options(flags, progress)).labels


def _parsed(parse: "Callable[[str], Any]", paths: "dict[str, Optional[AnyPath]]") -> "dict[str, Any]":
    return {name: None if path is None else parse(os.fspath(path)) for name, path in paths.items()}


@contextlib.contextmanager
def _staged(verbose: bool, paths: "dict[str, Any]") -> "Iterator[Tuple[argparse.Namespace, Progress]]":
    """Yield the paths, s3:// ones as local copies, and the progress to report to."""
    flags = argparse.Namespace(**paths)
    with staged_s3_paths(flags) as progress:
        yield flags, progress if verbose else Progress()


def _stop_requests() -> "ContextManager[Callable[[], bool]]":
    """Return a handler of Ctrl-C; outside the main thread, where Python allows none, it never requests a stop."""
    if threading.current_thread() is threading.main_thread():
        return StopRequests()
    return contextlib.nullcontext(lambda: False)


def _add_label_options(flags: argparse.Namespace, class_names: Sequence[str], **options: Any) -> None:
    """Add the values that `label_options` reads, as the flags of the command line have them."""
    names = class_names if isinstance(class_names, str) else ",".join(class_names)
    vars(flags).update(options, class_names=names)

"""The command audit: find likely label errors.

The detections in each image are those of a model that was trained on the other images (cross-validation).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import numpy as np

from ssd_train.cli.arguments import (
    MODEL_HELP,
    Parser,
    add_engine_flags,
    add_fetch_flag,
    add_number,
    label_options,
    number_in_range,
    program,
)
from ssd_train.cli.evaluate import warn_of_training_images
from ssd_train.cli.paths import add_input, add_output_dir, staged_s3_paths
from ssd_train.cli.train import StopRequests, command_line, run_id
from ssd_train.config import TrainConfig, current_names
from ssd_train.data.formats.json_lines import dump_json
from ssd_train.data.image_io import EncodedImage
from ssd_train.data.labels import LabeledDataset, align_classes, load_labels
from ssd_train.data.split import fold_of_each, image_hash
from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.evaluate import image_refs, read_detections
from ssd_train.environment import Environment
from ssd_train.errors import ConfigError, DataError
from ssd_train.evaluation.label_errors import KINDS, LabelError, find_label_errors
from ssd_train.evaluation.metrics import score_detections
from ssd_train.evaluation.predictions import prediction_line
from ssd_train.prepare.convert import convert
from ssd_train.prepare.manifest import read_lines, write_lines
from ssd_train.progress import Progress
from ssd_train.storage.atomic import open_atomic, require_writable, write_json_atomic, write_text_atomic
from ssd_train.storage.lock import exclusive_lock

SETTINGS = {"recipe": "fast"}
WEAK = 0.3  # mAP@0.5 of detections that find more errors of the model than of the labels
RUN, PAGE, ERRORS, DOUBTFUL = "audit.json", "audit.html", "label_errors.jsonl", "doubtful.manifest"
DETECTIONS = "detections.jsonl"  # of --model, and of each fold
# settings that --model uses, too: they say how labels are read
OF_LABELS = ("labels_format", "label_attribute", "class_names", "split", "verified", "on_bad_data")

Images = List[Tuple[LabeledImage, Detections]]


def run(arguments: Sequence[str]) -> int:
    """Write the likely label errors, the page to look through them, and the manifest of the images."""
    parser = make_parser()
    flags, settings = parser.parse_settings(arguments)
    config = TrainConfig.from_mapping({**SETTINGS, **current_names(settings)}, flags=parser.names - parser.settings)
    _check(flags, settings)
    with staged_s3_paths(flags) as progress:
        flags.labels = flags.labels or flags.images
        reading = argparse.Namespace(**dataclasses.asdict(config), fetch_images=flags.fetch_images)
        data = load_labels(flags.images, flags.labels, label_options(reading, progress, config.on_bad_data))
        if not data.labels.boxes_per_class().sum():
            raise DataError(f"{data.labels.source}: found no box, expected at least one")
        require_writable(flags.output)
        with exclusive_lock(flags.output, progress, "output", keep=False):
            _claim(flags, config, data)
            model = "a model that was not trained on it"
            if flags.model is None:
                images = _by_folds(flags, config, data, progress)
            else:
                images, data, model = _by_model(flags, config, data, progress)
            _report_scores(images, data.labels.class_names, progress)
            errors = find_label_errors(images, data.labels.class_names)
            _write(flags, data, images, errors, model, command_line("audit", arguments), progress)
    return 0


def make_parser() -> Parser:
    """Return the parser of audit."""
    parser = Parser(
        prog=program("audit"),
        description="Find likely label errors: objects without a label, labels without an object, wrong classes, boxes "
        "that do not fit, objects labelled twice, labels of another image. They are found by detections of a model "
        "that was not trained on these labels: of --model, or of one that is trained for each fold on the others. "
        "Takes all settings of train.",
    )
    add_input(parser, "--images", metavar="FOLDER", help="the images (default: those in or beside the labels)")
    add_input(parser, "--labels", help="labels of any format, as for train (default: those found in --images)")
    add_fetch_flag(parser)
    add_input(parser, "--model", help=f"{MODEL_HELP}, which was not trained on these images")
    parser.add_argument(
        "--folds",
        type=number_in_range(int, 2, 20),
        metavar="N",
        help="without --model: number of parts; for each a model is trained on the others; default: 3",
    )
    add_output_dir(
        parser,
        "--output",
        default=Path("audit"),
        help=f"for {PAGE}, {ERRORS} and {DOUBTFUL}; a stopped run resumes from it",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace another audit in --output")
    add_number(
        parser,
        "--threshold",
        float,
        (0, 1),
        0.5,
        f"lowest score of an error in {PAGE} and {DOUBTFUL}; {ERRORS} has all",
    )
    add_number(parser, "--max_shown", int, (1, 10_000), 200, f"most errors in {PAGE}", metavar="N")
    add_input(parser, "--pretrained", help="weights that each training starts from, as for train")
    add_input(parser, "--weights_dir", metavar="FOLDER", help="folder with files of the model zoo, as for train")
    add_engine_flags(parser)
    parser.add_settings(hidden=True)
    return parser


def _check(flags: argparse.Namespace, settings: Dict[str, str]) -> None:
    """Raise a ConfigError for flags that conflict, and set the default number of folds."""
    if flags.model is None:
        flags.folds = flags.folds or 3
        return
    of_training = [name for name in ("folds", "pretrained", "weights_dir") if getattr(flags, name)]
    of_training += [name for name in current_names(settings) if name not in OF_LABELS]
    if of_training:
        raise ConfigError(f"--{of_training[0]}: found --model, too, which is not trained; expected one of the two")


def _claim(flags: argparse.Namespace, config: TrainConfig, data: LabeledDataset) -> None:
    """Write the identity of this audit into --output, after that of the same audit; earlier results are removed.

    Raises:
        ConfigError: the folder has another audit, or a file of that name, and --overwrite is not given.
    """
    from ssd_train.training.checkpoint import fingerprint

    sources = {name: str(getattr(flags, name) or "") for name in ("model", "folds", "pretrained")}
    marks = {"run": run_id({**fingerprint(config, data.labels, data.labels), **sources})}
    earlier = flags.output / RUN
    if earlier.exists() or any((flags.output / name).exists() for name in (PAGE, ERRORS, DOUBTFUL)):
        same = _read_marks(earlier) == marks
        if not same and not flags.overwrite:
            raise ConfigError(
                f"{flags.output}: found an audit of other labels or settings, expected none: use another --output, "
                "or --overwrite to replace it"
            )
        for folder in [] if same and not flags.overwrite else flags.output.glob("fold_*"):
            shutil.rmtree(folder)
    write_json_atomic(earlier, marks)


def _read_marks(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _by_folds(flags: argparse.Namespace, config: TrainConfig, data: LabeledDataset, progress: Progress) -> Images:
    """Return labels and detections of each image by models that were trained on the other folds."""
    environment = Environment(
        flags.labels,
        output_dir=flags.output,
        pretrained=flags.pretrained,
        weights_dir=flags.weights_dir,
        devices=flags.devices,
        overwrite=True,
    )
    detections: Dict[str, Detections] = {}
    with StopRequests() as requests:
        for file in out_of_fold(data, flags.folds, config, environment, progress, requests):
            detections.update(read_detections(file, data)[0])
    return [(record, detections[record.name]) for record in data.labels.records if record.name in detections]


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
    from ssd_train.training.engine import Evaluation
    from ssd_train.training.trainer import open_trainer

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


def _by_model(
    flags: argparse.Namespace, config: TrainConfig, data: LabeledDataset, progress: Progress
) -> "tuple[Images, LabeledDataset, str]":
    """Return labels and detections of each image by --model, the labels with its classes, and what the model saw."""
    detector = Detector.load(flags.model, flags.devices, flags.engine)
    trained = warn_of_training_images(flags.model, data, progress)
    labels = align_classes(data.labels, detector.class_names)
    images: Images = []
    predictions = detector.predict_iter(image_refs(labels, data.images))
    for record, prediction in zip(labels.records, progress.track(predictions, len(labels), "images")):
        if prediction.error and config.on_bad_data == "skip":
            progress.warning(f"left out: {prediction.error}")
        else:
            images.append((record, prediction.decoded()[1]))
    with open_atomic(flags.output / DETECTIONS) as file:
        for record, detections in images:
            file.write(prediction_line(record.name, detections, labels.class_names))
    known = "" if trained is None else f", which was trained on {trained} of these images and may repeat their errors"
    return images, LabeledDataset(labels, data.images), f"{flags.model}{known}"


def _report_scores(images: Images, class_names: ClassNames, progress: Progress) -> None:
    """Print how well the detections fit the labels, and warn if they are too poor to judge them."""
    scores = score_detections(images, class_names)
    fit = ", ".join(
        f"{name} {'none' if value is None else f'{value:.3f}'}"
        for name, value in (("COCO mAP", scores.coco), ("mAP@0.5", scores.ap50))
    )
    progress.info(f"detections of {len(images)} images against their labels: {fit}")
    if (scores.ap50 or 0) < WEAK:
        progress.warning(f"most errors may be those of the model: mAP@0.5 is below {WEAK}; more --epochs may help")


def _write(
    flags: argparse.Namespace,
    data: LabeledDataset,
    images: Images,
    errors: Sequence[LabelError],
    model: str,
    command: str,
    progress: Progress,
) -> None:
    """Write the errors as JSON Lines, the page, and the manifest of the doubtful images; print the counts."""
    from ssd_train.visualization.label_error_page import render_label_errors

    names = data.labels.class_names
    with open_atomic(flags.output / ERRORS) as file:
        for error in errors:
            file.write(dump_json(_line(error, images, names)) + b"\n")
    likely = [error for error in errors if error.score >= flags.threshold]
    counts = Counter(error.kind for error in likely)
    page = render_label_errors(
        f"Likely label errors in {flags.labels.name}",
        command,
        model,
        counts,
        likely[: flags.max_shown],
        images,
        names,
        lambda record: EncodedImage(data.images.read(record), record.where).decode(record.size_wh),
        lambda shown: progress.track(shown, len(shown), "page"),
    )
    write_text_atomic(flags.output / PAGE, page)
    doubtful = list(dict.fromkeys(error.image for error in likely))
    _write_manifest(flags.output / DOUBTFUL, data, [images[index][0] for index in doubtful])
    for kind in KINDS:
        progress.info(f"{kind}: {counts[kind]} likely, of {sum(error.kind == kind for error in errors)} with any sign")
    progress.info(f"{len(doubtful)} of {len(images)} images are doubtful (score {flags.threshold:g} or more)")
    for name in (PAGE, ERRORS, *([DOUBTFUL] if doubtful else [])):
        progress.info(f"written: {flags.output / name}")


def _line(error: LabelError, images: Images, names: ClassNames) -> Dict[str, Any]:
    """Return an error as a JSON object."""
    record, detections = images[error.image]
    line: Dict[str, Any] = {
        "image": record.name,
        "kind": error.kind,
        "score": round(error.score, 4),
        "reason": error.reason,
    }
    if error.label is not None:
        line["label"] = _box(record.boxes, record.class_ids, error.label, names)
    if error.detection is not None:
        line["detection"] = _box(detections.boxes, detections.class_ids, error.detection, names)
        line["detection"]["score"] = round(float(detections.scores[error.detection]), 4)
    if error.kind == "duplicate" and error.other is not None:
        line["other_label"] = _box(record.boxes, record.class_ids, error.other, names)
    elif error.other is not None:
        line["other_image"] = images[error.other][0].name
    return line


def _box(boxes: np.ndarray, class_ids: np.ndarray, index: int, names: ClassNames) -> Dict[str, Any]:
    corners = [round(float(value), 2) for value in boxes[index]]
    return {"index": index, "class": names[int(class_ids[index])], "box": corners}


def _write_manifest(path: Path, data: LabeledDataset, doubtful: Sequence[LabeledImage]) -> None:
    """Write a manifest of the images in order: the lines of the input, if it is one; remove it if there are none."""
    if not doubtful:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    elif data.labels.details.get("format") == "ground_truth":
        lines = {line.where: line.raw for line in read_lines(data.labels.source)}
        write_lines(path, [lines[record.where] for record in doubtful])
    else:
        chosen = dataclasses.replace(data.labels, records=tuple(doubtful), skipped=(), repaired=())
        convert(LabeledDataset(chosen, data.images), "ground_truth", path)

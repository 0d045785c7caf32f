"""The command evaluate: score a model, or a file of predictions, against labels."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Optional, Sequence, Tuple

from ssd_train.artifacts.model_config import find_model_config
from ssd_train.cli.arguments import MODEL_HELP, Parser, add_engine_flags, add_label_flags, label_options, program
from ssd_train.cli.paths import add_input, add_output, staged_s3_paths
from ssd_train.config import TrainConfig
from ssd_train.data.labels import LabeledDataset, load_labels
from ssd_train.data.split import describe_splits, image_hash, split_by_hash, training_split
from ssd_train.data.structures import ImageSource, Labels
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.evaluate import score_images, score_predictions
from ssd_train.errors import ConfigError, SsdTrainError
from ssd_train.evaluation.results import Scores
from ssd_train.progress import Progress
from ssd_train.storage import atomic


def run(arguments: Sequence[str]) -> int:
    """Print the scores, and write them as JSON if requested."""
    flags = make_parser().parse_args(list(arguments))
    if flags.model is None and flags.predictions is None:
        raise ConfigError("evaluate: expected --model FOLDER or --predictions FILE.jsonl")
    with staged_s3_paths(flags) as progress:
        data = load_labels(flags.images, flags.labels, label_options(flags, progress))
        sets = describe_splits(data.labels)
        if sets:
            progress.info(f"{sets}; all are scored, --split NAME for one of them")
        detector = None if flags.model is None else Detector(flags.model, flags.devices, flags.engine)
        if flags.model is not None and flags.predictions is None:
            warn_of_training_images(flags.model, data, progress)
        scores = score(data, detector, flags.predictions, flags.overlap_threshold, progress)
        for line in scores.lines():
            progress.info(line)
        if flags.json:
            atomic.write_json_atomic(flags.json, scores.to_json())
            progress.info(f"written: {flags.json}")
    return 0


def make_parser() -> Parser:
    """Return the parser of evaluate."""
    parser = Parser(prog=program("evaluate"), description="Score a model, or a file of predictions, against labels.")
    add_input(parser, "--model", help=MODEL_HELP)
    add_input(
        parser,
        "--predictions",
        help="predictions instead of a model's: JSON Lines, COCO results, a .out file or a folder of these; class ids "
        "without names are --model's, or else those of the labels",
    )
    add_input(parser, "--images", metavar="FOLDER", help="the images (default: those in or beside the labels)")
    add_input(parser, "--labels", help="labels of any format, as for train (default: those found in --images)")
    add_label_flags(parser)
    parser.add_argument("--overlap_threshold", type=float, default=0.5, help="IoU of a hit, for the VOC figures")
    add_output(parser, "--json", help="write the scores there, too")
    add_engine_flags(parser)
    return parser


def warn_of_training_images(model: Path, data: LabeledDataset, progress: Progress) -> Optional[int]:
    """Warn if the model was trained on images of `data`, as far as the model folder or archive `model` knows.

    Returns:
        The number of these images; None if it is not known, or if other images are in the training data, too.
    """
    known, config = _training_of(model)
    if not known:
        return None
    trained = data.labels
    if trained.sha256() != known:
        trained = training_split(data.labels, alone=True)[0]
    if trained.sha256() != known and config is not None:
        trained = _without_held_out(trained, data.images, config)
    if trained.sha256() != known:
        return None
    progress.warning(
        f"{data.labels.source}: the model was trained on {len(trained)} of these {len(data.labels)} images, so it "
        "scores higher than on images that it has not seen"
    )
    return len(trained)


def _training_of(model: Path) -> Tuple[str, Optional[TrainConfig]]:
    """Return the SHA-256 of the training labels and the settings, "" and None if the model does not state them.

    A config.json that is damaged, of a newer version or of another program states none: an ONNX file beside it runs.
    """
    document = find_model_config(model)
    digests, settings = document.get("labels_sha256"), document.get("settings")
    if not isinstance(digests, dict) or not isinstance(digests.get("training"), str):
        return "", None
    with contextlib.suppress(ConfigError):
        return digests["training"], TrainConfig.from_saved(settings) if isinstance(settings, dict) else None
    return digests["training"], None


def _without_held_out(labels: Labels, images: ImageSource, config: TrainConfig) -> Labels:
    """Return the labels that a run trains on if it is given only `labels`; all of them if it had no fewer images."""
    if len(labels) <= config.num_training_samples:  # no image is read in vain
        return labels
    with contextlib.suppress(SsdTrainError):  # none can be held out
        return split_by_hash(labels, config.validation_fraction, image_hash(images), config.split_group or None)[0]
    return labels


def score(
    data: LabeledDataset,
    detector: Optional[Detector],
    predictions: Optional[Path],
    overlap_threshold: float,
    progress: Progress,
) -> Scores:
    """Score `predictions` against labels, with the detector's class names if there is one; None: score the detector."""
    if predictions is None:
        assert detector is not None
        return score_images(detector, data, overlap_threshold, progress)
    names = None if detector is None else detector.class_names
    return score_predictions(predictions, data, names, overlap_threshold)

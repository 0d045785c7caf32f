"""The command evaluate: score a model, or a file of predictions, against labels."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Sequence

from ssd_train.cli.arguments import MODEL_HELP, Parser, add_engine_flags, add_label_flags, label_options, program
from ssd_train.cli.paths import add_input, add_output, staged_s3_paths
from ssd_train.data.labels import LabeledDataset, load_labels
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.evaluate import score_images, score_predictions
from ssd_train.errors import ConfigError
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
        detector = None if flags.model is None else Detector(flags.model, flags.devices, flags.engine)
        scores = score(data, detector, flags.predictions, flags.overlap_threshold, progress)
        for line in scores.lines():
            progress.info(line)
        if flags.json:
            atomic.write_json_atomic(flags.json, scores.to_json())
            progress.info(f"written: {flags.json}")
    return 0


def make_parser() -> Parser:
    """Return the parser of evaluate."""
    parser = Parser(prog=program("evaluate"), description="Score a model, or a file of answers, against labels.")
    add_input(parser, "--model", help=MODEL_HELP)
    add_input(
        parser,
        "--predictions",
        help="answers in place of a model's: JSON Lines, COCO results, a .out file or a folder of these; class ids "
        "without names are --model's, or else those of the labels",
    )
    add_input(parser, "--images", metavar="FOLDER", help="the images (default: those in or beside the labels)")
    add_input(parser, "--labels", required=True, help="labels of any format, as for train")
    add_label_flags(parser)
    parser.add_argument("--overlap_threshold", type=float, default=0.5, help="IoU of a hit, for the VOC figures")
    add_output(parser, "--json", help="write the scores there, too")
    add_engine_flags(parser)
    return parser


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

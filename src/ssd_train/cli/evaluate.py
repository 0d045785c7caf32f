"""The command evaluate: score a model, or a file of predictions, against labels."""

from __future__ import annotations

import argparse
from typing import Sequence

from ssd_train import storage
from ssd_train.cli.console import Parser
from ssd_train.cli.flags import MODEL_HELP, add_engine_flags, add_label_flags, label_options
from ssd_train.cli.places import localised, source, target
from ssd_train.data.images import read_header
from ssd_train.data.labels import LabelledImages, read_labelled
from ssd_train.data.records import Record
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.scoring import score_images, score_predictions
from ssd_train.errors import ConfigError
from ssd_train.training.scores import Scores


def run(arguments: Sequence[str]) -> int:
    """Print the scores, and write them as JSON if requested."""
    flags = make_parser().parse_args(list(arguments))
    if flags.model is None and flags.predictions is None:
        raise ConfigError("evaluate: expected --model FOLDER or --predictions FILE.jsonl")
    with localised(flags) as progress:
        data = read_labelled(flags.images, flags.labels, label_options(flags, progress))
        if flags.predictions:
            scores = _score_file(flags, data)
        else:
            scores = score_images(_load(flags), data, flags.overlap_threshold, progress)
        for line in scores.lines():
            progress.say(line)
        if flags.json:
            storage.write_json_atomic(flags.json, scores.to_json())
            progress.say(f"written: {flags.json}")
    return 0


def make_parser() -> Parser:
    """Return the parser of evaluate."""
    parser = Parser(
        prog="python -m ssd_train evaluate", description="Score a model, or a file of answers, against labels."
    )
    parser.add_argument("--model", type=source, metavar="PATH", help=MODEL_HELP)
    parser.add_argument(
        "--predictions",
        type=source,
        metavar="PATH",
        help="answers in place of a model's: JSON Lines, COCO results, a .out file or a folder of these; class ids "
        "without names are --model's, or else those of the labels",
    )
    parser.add_argument(
        "--images", type=source, metavar="FOLDER", help="the images (default: those in or beside the labels)"
    )
    parser.add_argument(
        "--labels", type=source, required=True, metavar="PATH", help="labels of any format, as for train"
    )
    add_label_flags(parser)
    parser.add_argument(
        "--overlap_threshold", type=float, default=0.5, help="IoU of a hit, for the VOC figures; default: 0.5"
    )
    parser.add_argument("--json", type=target, metavar="FILE", help="write the scores there, too")
    add_engine_flags(parser)
    return parser


def _score_file(flags: argparse.Namespace, data: LabelledImages) -> Scores:
    def size_of(record: Record) -> "tuple[int, int]":
        """Return the upright (width, height) from the image header."""
        return read_header(data.images.read(record), record.where).shown_wh

    names = None if flags.model is None else _load(flags).class_names
    return score_predictions(flags.predictions, data.labels, size_of, names, flags.overlap_threshold)


def _load(flags: argparse.Namespace) -> Detector:
    return Detector.load(flags.model, flags.devices, flags.engine)

"""evaluate: score a model, or a file of answers, against labels."""

from __future__ import annotations

import argparse
from typing import Iterator, Sequence

from ssd_train import storage
from ssd_train.cli.console import Parser
from ssd_train.cli.flags import add_label_flags, label_options
from ssd_train.cli.places import localised, source, target
from ssd_train.data.images import read_header
from ssd_train.data.labels import LabelledImages, matched_to, read_labelled
from ssd_train.data.records import ImageSource, LabelSet, Record
from ssd_train.deploy.scoring import score_predictions
from ssd_train.errors import ConfigError, DataError
from ssd_train.progress import Progress
from ssd_train.training.scores import Scores


def run(arguments: Sequence[str]) -> int:
    """Print the scores, and write them as JSON where asked."""
    flags = make_parser().parse_args(list(arguments))
    if flags.model is None and flags.predictions is None:
        raise ConfigError("evaluate: expected --model FOLDER or --predictions FILE.jsonl")
    with localised(flags) as progress:
        data = read_labelled(flags.images, flags.labels, label_options(flags, progress))
        scores = _score_file(flags, data) if flags.predictions else _score_model(flags, data, progress)
        for line in scores.lines():
            progress.say(line)
        if flags.json:
            storage.write_json_atomic(flags.json, scores.to_json())
            progress.say(f"written: {flags.json}")
    return 0


def make_parser() -> Parser:
    """The flags of evaluate."""
    parser = Parser(
        prog="python -m ssd_train evaluate", description="Score a model, or a file of answers, against labels."
    )
    parser.add_argument("--model", type=source, metavar="PATH", help="a model folder, or a model.tar.gz")
    parser.add_argument(
        "--predictions",
        type=source,
        metavar="FILE",
        help="answers as JSON Lines, in place of a model's; their class ids are --model's, or else those of the labels",
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
    parser.add_argument("--devices", default="auto", help="auto, cpu, gpu; default: auto")
    return parser


def _score_file(flags: argparse.Namespace, data: LabelledImages) -> Scores:
    def size_of(record: Record) -> "tuple[int, int]":
        return read_header(data.images.read(record), record.where).shown_wh

    names = None
    if flags.model is not None:
        from ssd_train.training.saved_model import SavedModel

        names = SavedModel.load(flags.model).class_names
    return score_predictions(flags.predictions, data.labels, size_of, names, flags.overlap_threshold)


def _score_model(flags: argparse.Namespace, data: LabelledImages, progress: Progress) -> Scores:
    from ssd_train.deploy.detector import Detector, Picture
    from ssd_train.training.metrics import MeanAveragePrecision

    detector = Detector.load(flags.model, flags.devices)
    labels = matched_to(data.labels, detector.class_names)
    metric = MeanAveragePrecision(detector.class_names)
    answers = detector.stream(_pictures(labels, data.images, Picture))
    for record, answer in zip(labels.records, progress.track(answers, len(labels), "images")):
        if answer.detections is None:
            raise DataError(answer.fault)
        metric.update(answer.detections, record)
    return metric.compute(flags.overlap_threshold)


def _pictures(labels: LabelSet, images: ImageSource, make: type) -> Iterator[object]:
    for record in labels.records:
        yield make(record.name, lambda record=record: images.read(record), record.where, record.size_wh)

"""predict: what a model finds in pictures."""

from __future__ import annotations

import argparse
import contextlib
import datetime
from pathlib import Path
from typing import Iterable, Iterator, List, Mapping, Sequence

from ssd_train import storage
from ssd_train.cli.console import Parser, within
from ssd_train.cli.flags import MODEL_HELP, add_engine_flags
from ssd_train.cli.pictures import find_pictures, overlay_paths
from ssd_train.cli.places import localised, source, target, target_folder
from ssd_train.data.images import encode_jpeg
from ssd_train.data.predictions import write_predictions
from ssd_train.deploy.detector import Answer, Detector
from ssd_train.errors import DataError
from ssd_train.progress import Progress
from ssd_train.view.draw import draw_detections
from ssd_train.view.pages import Page, TitlePage, write_pdf


def run(arguments: Sequence[str]) -> int:
    """Write answers, overlays and a PDF; 2 when some pictures could not be looked at, after all others were."""
    flags = make_parser().parse_args(list(arguments))
    if not (flags.output or flags.overlays or flags.pdf):
        flags.output = Path("predictions.jsonl")
    with localised(flags) as progress:
        detector = Detector.load(flags.model, flags.devices, flags.engine)
        pictures = find_pictures(flags.paths)
        overlays = overlay_paths(flags.overlays, {p.name: Path(p.where) for p in pictures}) if flags.overlays else {}
        answers = progress.track(detector.stream(pictures), len(pictures), "pictures")
        faults: List[str] = []
        with contextlib.ExitStack() as stack:
            found = _sound(answers, faults, progress)
            if flags.overlays:
                found = _with_overlays(found, overlays, flags.threshold, detector)
            if flags.output:
                found = _with_lines(found, stack.enter_context(storage.open_atomic(flags.output)))
            _consume(found, flags, detector)
        for what in filter(None, (flags.output, flags.overlays, flags.pdf)):
            progress.say(f"written: {what}")
        if faults:
            raise DataError(f"{len(faults)} of {len(pictures)} pictures could not be looked at, the first: {faults[0]}")
    return 0


def make_parser() -> Parser:
    """The flags of predict."""
    parser = Parser(prog="python -m ssd_train predict", description="Find objects in pictures.")
    parser.add_argument("paths", nargs="+", type=source, metavar="PATH", help="picture, or folder of pictures")
    parser.add_argument("--model", type=source, required=True, metavar="PATH", help=MODEL_HELP)
    parser.add_argument(
        "--output",
        type=target,
        metavar="FILE",
        help="answers as JSON Lines, all candidates; default: predictions.jsonl",
    )
    parser.add_argument("--overlays", type=target_folder, metavar="FOLDER", help="pictures with boxes drawn on them")
    parser.add_argument("--pdf", type=target, metavar="FILE", help="all pictures with boxes, 15 a page")
    parser.add_argument(
        "--threshold",
        type=within(float, 0, 1),
        default=0.3,
        help="least score of a box in pictures, 0 to 1; default: 0.3",
    )
    add_engine_flags(parser)
    return parser


def _sound(answers: Iterable[Answer], faults: List[str], progress: Progress) -> Iterator[Answer]:
    """The answers of pictures that could be looked at; of the others each gets its line, and is counted."""
    for answer in answers:
        if answer.fault:
            faults.append(answer.fault)
            progress.warn(answer.fault)
        else:
            yield answer


def _with_overlays(
    answers: Iterable[Answer], overlays: Mapping[str, Path], threshold: float, detector: Detector
) -> Iterator[Answer]:
    for answer in answers:
        drawn = draw_detections(answer.image, answer.detections, detector.class_names, threshold)
        storage.write_bytes_atomic(overlays[answer.picture.name], encode_jpeg(drawn))
        yield answer


def _with_lines(answers: Iterable[Answer], file: object) -> Iterator[Answer]:
    for answer in answers:
        write_predictions(file, [(answer.picture.name, answer.detections)])
        yield answer


def _consume(answers: Iterable[Answer], flags: argparse.Namespace, detector: Detector) -> None:
    if not flags.pdf:
        for _ in answers:
            pass
        return
    pages = (Page(answer.picture.name, answer.image, answer.detections) for answer in answers)
    lines = [f"model: {flags.model}", f"date: {datetime.date.today().isoformat()}"]
    write_pdf(flags.pdf, pages, TitlePage("Predictions", lines, detector.class_names, flags.threshold))

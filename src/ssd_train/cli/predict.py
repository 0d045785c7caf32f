"""The command predict: write predictions for images, overlays or a PDF."""

from __future__ import annotations

import argparse
import contextlib
import datetime
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from ssd_train.artifacts.model_config import find_model_config
from ssd_train.cli.arguments import (
    MODEL_HELP,
    Parser,
    add_engine_flags,
    add_label_flags,
    add_number,
    add_threshold_flag,
    label_options,
    number_in_range,
    program,
    score_threshold,
)
from ssd_train.cli.paths import (
    S3Path,
    add_input,
    add_output,
    add_output_dir,
    find_images,
    input_path,
    overlay_paths,
    staged_s3_paths,
    write_overlay,
)
from ssd_train.cli.predict_video import check_video_flags, predict_videos
from ssd_train.data.formats.coco import is_coco_file, read_ids
from ssd_train.data.labels import align_classes, load_labels
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.deploy.codec import RequestError, RequestLimits, negotiate_accept
from ssd_train.deploy.detector import Detector, ImageRef, Prediction, Tiling
from ssd_train.deploy.evaluate import match_names
from ssd_train.deploy.handlers import handle_request
from ssd_train.deploy.tiling import MAX_OVERLAP, check_tile
from ssd_train.environment import payload_limit
from ssd_train.errors import ConfigError, DataError, locate_errors
from ssd_train.evaluation.predictions import DEFAULTS, CocoIds, Writer
from ssd_train.progress import Progress
from ssd_train.storage import atomic
from ssd_train.visualization.draw import size_of
from ssd_train.visualization.pdf import Page, TitlePage, draw_page, write_pdf

NO_LABELS = "no labels"
JSON = "application/json"


class View(NamedTuple):
    """Settings for drawing predictions.

    Attributes:
        class_names: the model's classes.
        threshold: lowest score of a box.
        truth: labels by image name; None if no labels were requested.
    """

    class_names: ClassNames
    threshold: float
    truth: Optional[Mapping[str, LabeledImage]]

    def page(self, prediction: Prediction) -> Page:
        """Return the PDF page entry of a prediction."""
        name = prediction.image_ref.name
        note = NO_LABELS if self.truth is not None and name not in self.truth else ""
        return Page(name, *prediction.decoded(), (self.truth or {}).get(name), note)


def run(arguments: Sequence[str]) -> int:
    """Write predictions, overlays and a PDF.

    Raises:
        DataError: some images cannot be read; the others have been written.
    """
    flags = make_parser().parse_args(list(arguments))
    _check(flags)
    videos = check_video_flags(flags)
    with staged_s3_paths(flags) as progress:
        detector = Detector.load(flags.model, flags.devices, flags.engine)
        images = [] if videos else find_images(flags.paths, progress)
        faults: List[str] = []
        if videos:
            predict_videos(detector, flags.paths, flags, score_threshold(flags, detector, progress), progress)
        elif flags.transform_output:
            _transform(detector, images, flags, faults, progress)
        else:
            _predict(detector, images, flags, faults, progress)
        for what in filter(None, (flags.output, flags.overlays, flags.pdf, flags.transform_output)):
            progress.info(f"written: {what}")
        if faults:
            raise incomplete(faults, len(images))
    return 0


def make_parser() -> Parser:
    """Return the parser of predict."""
    parser = Parser(prog=program("predict"), description="Find objects in images.")
    parser.add_positional(
        "paths",
        "--images",
        "--source",
        nargs="+",
        type=input_path,
        metavar="PATH",
        help="image or folder of images; or a video (mp4, avi, mov, mkv, webm)",
    )
    add_input(parser, "--model", required=True, help=MODEL_HELP)
    add_output(
        parser,
        "--output",
        help="predictions, all candidates; -: standard output; default: predictions.jsonl, or as --format has it",
    )
    parser.add_argument(
        "--format",
        choices=tuple(DEFAULTS),
        default="jsonl",
        help="of --output: jsonl (JSON Lines), coco (COCO results), csv, or out (a folder with NAME.out for each "
        "image)",
    )
    add_output_dir(parser, "--overlays", help="images with boxes drawn on them")
    add_output(parser, "--pdf", help="all images with boxes, 15 a page")
    add_input(parser, "--labels", help="labels of these images, of any format: drawn beside the detections")
    add_label_flags(parser)
    add_threshold_flag(parser)
    add_number(parser, "--every", int, (1, 1_000_000), 1, "of a video, each n-th frame")
    parser.add_argument(
        "--tile",
        type=number_in_range(int, 0, 10_000),
        default=0,
        metavar="PIXELS",
        help="side of overlapping tiles that the network sees one by one, for objects that are small in large images; "
        "default: 0, the whole image at once",
    )
    add_number(
        parser,
        "--tile_overlap",
        float,
        (0, MAX_OVERLAP),
        Tiling().overlap,
        "share of its side that a tile has in common with the next",
    )
    add_output_dir(
        parser,
        "--transform_output",
        help="instead of all that: NAME.out for each image, as a batch transform job writes them",
    )
    parser.add_argument(
        "--accept",
        default=JSON,
        metavar="TYPE",
        help="of these files, as an endpoint's Accept header",
    )
    add_engine_flags(parser)
    return parser


def _check(flags: argparse.Namespace) -> None:
    """Raise a ConfigError for flags that conflict, and set the default output."""
    pictured = flags.overlays or flags.pdf
    if flags.transform_output and (flags.output or pictured or flags.labels):
        raise ConfigError("transform_output: found --output, --overlays, --pdf or --labels, too; expected it alone")
    if flags.transform_output and (flags.format != "jsonl" or flags.threshold is not None):
        raise ConfigError("transform_output: found --format or --threshold, too; the files have all candidates as JSON")
    if flags.accept != JSON and not flags.transform_output:
        raise ConfigError("accept: found no --transform_output, whose files it is for")
    if flags.transform_output and flags.tile:
        raise ConfigError("transform_output: found --tile, too; an endpoint sees whole images")
    check_tile(flags.tile, flags.tile_overlap)
    if flags.labels and not pictured and flags.format != "coco":
        raise ConfigError("labels: found neither --pdf nor --overlays, expected one of them to draw the labels in")
    if atomic.is_standard_output(flags.output) and atomic.is_standard_output(flags.pdf):
        raise ConfigError("pdf: found standard output for --output, too; expected a file for one of them")
    for folder in filter(None, (flags.overlays, flags.transform_output)):
        _refuse_file(folder)
    if not (flags.output or pictured or flags.transform_output):
        flags.output = Path(DEFAULTS[flags.format])
    if flags.format == "out" and flags.output:
        if not isinstance(flags.output, Path) or flags.output == atomic.STANDARD_OUTPUT:
            raise ConfigError(f"output: found {flags.output}, expected a local folder for --format out")
        _refuse_file(flags.output)


def _refuse_file(folder: "Path | S3Path") -> None:
    """Raise a ConfigError if `folder` or one of its parents is a file."""
    for parent in (folder, *folder.parents) if isinstance(folder, Path) else ():
        if parent.is_file():
            raise ConfigError(f"{parent}: found a file, expected a folder")


def _transform(
    detector: Detector, images: Sequence[ImageRef], flags: argparse.Namespace, faults: List[str], progress: Progress
) -> None:
    """Write <image>.out with the endpoint's response for each image, as a batch transform job of SageMaker does."""
    try:
        negotiate_accept(flags.accept)
    except RequestError as error:
        raise ConfigError(str(error)) from None
    limits = RequestLimits(payload_limit())
    for image in progress.track(images, len(images), "images"):
        try:
            body: Any = image.read()  # bytes: the images are files
            text, _ = handle_request(detector, body, "application/x-image", flags.accept, limits)
        except (RequestError, OSError) as error:
            reason = f"cannot be read ({error.strerror or error})" if isinstance(error, OSError) else error
            faults.append(f"{image.where}: {reason}")
            progress.warning(faults[-1])
        else:
            atomic.write_bytes_atomic(flags.transform_output / f"{image.name}.out", text.encode("utf-8"))
    if len(faults) == len(images):
        raise incomplete(faults, len(images))


def _predict(
    detector: Detector, images: Sequence[ImageRef], flags: argparse.Namespace, faults: List[str], progress: Progress
) -> None:
    threshold = score_threshold(flags, detector, progress)
    labels = load_labels(None, flags.labels, label_options(flags, progress)).labels if flags.labels else None
    view = View(
        detector.class_names, threshold, _truth(flags, labels, images, detector) if labels is not None else None
    )
    overlays = overlay_paths(flags.overlays, {p.name: Path(p.where) for p in images}) if flags.overlays else {}
    truth = view.truth or {}
    with_sizes = (p._replace(expected_wh=truth[p.name].size_wh) if p.name in truth else p for p in images)
    predictions: Iterator[Prediction] = detector.predict_iter(with_sizes, tiling=Tiling(flags.tile, flags.tile_overlap))
    predictions = sound_predictions(progress.track(predictions, len(images), "images"), faults, progress)
    scores: List[np.ndarray] = []
    with contextlib.ExitStack() as stack:
        writer = None
        if flags.output:
            target = flags.output if flags.format == "out" else stack.enter_context(atomic.open_atomic(flags.output))
            ids = _coco_ids(flags.model, labels, images) if flags.format == "coco" else None
            writer = Writer(flags.format, target, detector.class_names, ids)
        pages = _pages(predictions, view, scores, overlays, writer)
        if flags.pdf:
            write_pdf(flags.pdf, pages, _title_page(flags, view, len(images)))
        else:
            deque(pages, maxlen=0)
    if writer is not None and writer.left_out:
        reason = f"{flags.labels} has no id for their image or class"
        progress.warning(f"{flags.output}: {writer.left_out} detections are left out: {reason}")
    if scores:
        progress.info(_summary(scores, view.threshold))
    if flags.labels and len(truth) < len(images):
        progress.info(f"{len(images) - len(truth)} of {len(images)} images have no labels")


def _truth(
    flags: argparse.Namespace, read: Labels, images: Sequence[ImageRef], detector: Detector
) -> Dict[str, LabeledImage]:
    """Return the labels by image name, with the class ids of the detector."""
    records = {record.name: record for record in align_classes(read, detector.class_names).records}
    with locate_errors(flags.labels):
        named = match_names(list(records), [image.name for image in images])
    return {name: records[label_name] for label_name, name in named.items()}


def sound_predictions(predictions: Iterable[Prediction], faults: List[str], progress: Progress) -> Iterator[Prediction]:
    """Yield the predictions of readable images; report and collect other errors.

    Raises:
        DataError: no image is readable; earlier outputs are kept.
    """
    count = 0
    for prediction in predictions:
        count += 1
        if prediction.error:
            faults.append(prediction.error)
            progress.warning(prediction.error)
        else:
            yield prediction
    if count == len(faults):
        raise incomplete(faults, count)


def incomplete(faults: Sequence[str], count: int) -> DataError:
    """Return the error of a command that could not read some of `count` images."""
    return DataError(f"{len(faults)} of {count} images could not be read, the first: {faults[0]}")


def _pages(
    predictions: Iterable[Prediction],
    view: View,
    scores: List[np.ndarray],
    overlays: Mapping[str, Path],
    writer: Optional[Writer],
) -> Iterator[Page]:
    """Append the scores, write the overlay and the prediction of each image, and yield its page of the PDF."""
    for prediction in predictions:
        _, detections = prediction.decoded()
        scores.append(detections.scores)
        page, name = view.page(prediction), prediction.image_ref.name
        if overlays:
            full = replace(page, image=_full_size(prediction))
            write_overlay(overlays[name], draw_page(full, view.class_names, view.threshold, size_of(full.image)))
        if writer:
            writer.add(name, detections)
        yield page
    if writer:
        writer.close()


def _summary(scores: Sequence[np.ndarray], threshold: float) -> str:
    """Summarise the detections, given the scores (N,) of each image."""
    counts = [int((of_image >= threshold).sum()) for of_image in scores]
    highest = [of_image.max() for of_image in scores if len(of_image)]
    if not highest:
        return "nothing was found, whatever the --threshold"
    if not any(counts):
        return f"no box scores {threshold:.3g} or more; the highest score is {max(highest):.3f} (--threshold)"
    shown = sum(map(bool, counts))
    return f"boxes that score {threshold:.3g} or more: {sum(counts)}, in {shown} of {len(counts)} images"


def _full_size(prediction: Prediction) -> np.ndarray:
    """Return the image of a prediction at its full size; it is decoded again if it was downscaled."""
    image, _ = prediction.decoded()
    return image if size_of(image) == prediction.image_ref.expected_wh else prediction.image_ref.decode()


def _coco_ids(model: Path, labels: Optional[Labels], images: Sequence[ImageRef]) -> CocoIds:
    """Return the image and category ids of labels that are a COCO file; else the category ids of the model."""
    if labels is None or not is_coco_file(labels):
        categories = find_model_config(model).get("category_ids")
        return CocoIds(None, categories if isinstance(categories, dict) else {})
    names, categories = read_ids(labels.source)
    by_name = {name: key for key, name in names.items()}
    named = match_names(list(by_name), [image.name for image in images])
    return CocoIds(
        {name: by_name[label_name] for label_name, name in named.items()},
        {name: key for key, name in categories.items()},
    )


def _title_page(flags: argparse.Namespace, view: View, count: int) -> TitlePage:
    lines = [f"model: {flags.model}", f"date: {datetime.date.today().isoformat()}"]
    if view.truth is not None:
        lines.append(f"labels: {flags.labels} ({len(view.truth)} of {count} images have some)")
    return TitlePage("Predictions", lines, view.class_names, view.threshold, bool(flags.labels))

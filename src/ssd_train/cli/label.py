"""The command label: pre-labels of a model, for people to adjust in a Ground Truth job."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import List, Sequence, Tuple

import numpy as np

from ssd_train.cli.arguments import (
    MODEL_HELP,
    Parser,
    add_engine_flags,
    add_threshold_flag,
    program,
    score_threshold,
)
from ssd_train.cli.paths import S3Path, add_input, add_output_dir, find_images, staged_s3_paths
from ssd_train.cli.predict import incomplete, sound_predictions
from ssd_train.data.formats.ground_truth import check_attribute, write_ground_truth, write_label_categories
from ssd_train.data.formats.json_lines import dump_json
from ssd_train.data.structures import Detections, LabeledImage
from ssd_train.deploy.detector import Detector
from ssd_train.errors import ConfigError
from ssd_train.prepare.manifest import SOURCE, check_prefix, with_prefix
from ssd_train.progress import Progress
from ssd_train.storage.atomic import require_writable, write_bytes_atomic

PRE_LABELS, UNLABELLED, CATEGORIES = "pre-labels.manifest", "unlabelled.manifest", "label-categories.json"
ATTRIBUTE = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,126}")  # LabelAttributeName of CreateLabelingJob


def run(arguments: Sequence[str]) -> int:
    """Write the manifests of a labelling job.

    Raises:
        DataError: some images cannot be read; the others have been written.
    """
    flags = make_parser().parse_args(list(arguments))
    if not ATTRIBUTE.fullmatch(flags.label_attribute):
        raise ConfigError(f"label_attribute: found {flags.label_attribute!r}, expected letters, digits and hyphens")
    check_attribute(flags.label_attribute)
    check_prefix(flags.prefix)
    if isinstance(flags.images, S3Path):
        if flags.prefix:
            raise ConfigError(f"prefix: found {flags.prefix!r} for images on S3, which have addresses, expected none")
        flags.prefix = str(flags.images)
    with staged_s3_paths(flags) as progress:
        if flags.images.is_file() and flags.prefix.endswith(f"/{flags.images.name}"):
            flags.prefix = flags.prefix.rpartition("/")[0]
        _label(flags, progress)
    return 0


def make_parser() -> Parser:
    """Return the parser of label."""
    parser = Parser(
        prog=program("label"),
        description="Pre-label images with the boxes of a model, as the input of a Ground Truth adjustment job. Images "
        "without a box of at least --threshold are left to people.",
        epilog=f"files in --output:\n  {PRE_LABELS:<22} images with the model's boxes\n"
        f"  {UNLABELLED:<22} the other images, for a job without existing labels\n"
        f"  {CATEGORIES:<22} the classes, as label category configuration of both jobs",
    )
    add_input(parser, "--model", required=True, help=MODEL_HELP)
    add_input(parser, "--images", required=True, help="folder of images, or an image")
    add_output_dir(parser, "--output", default=Path("pre-labels"), help="folder of the manifests; default: pre-labels")
    parser.add_argument(
        "--prefix",
        default="",
        metavar="s3://BUCKET/PATH",
        help="where the images of a local folder are on S3, for Ground Truth; default: the address of --images",
    )
    add_threshold_flag(parser)
    parser.add_argument(
        "--label_attribute",
        default="pre-labels",
        metavar="NAME",
        help="label attribute of the boxes, from which that of the adjustment job must differ; default: pre-labels",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the manifests of an earlier run in --output")
    add_engine_flags(parser)
    return parser


def _label(flags: argparse.Namespace, progress: Progress) -> None:
    _refuse_earlier(flags)
    require_writable(flags.output)
    detector = Detector.load(flags.model, flags.devices, flags.engine)
    images = find_images([flags.images], progress)
    faults: List[str] = []
    threshold = score_threshold(flags, detector, progress)
    labelled: List[Tuple[LabeledImage, List[float]]] = []
    others: List[str] = []
    predictions = progress.track(detector.predict_iter(images), len(images), "images")
    for prediction in sound_predictions(predictions, faults, progress):
        name = with_prefix(prediction.image_ref.name, flags.prefix)
        record, scores = _pre_labels(name, prediction.decoded()[1].above(threshold))
        if scores:
            labelled.append((record, scores))
        else:
            others.append(name)
    _write(flags, detector, labelled, others)
    boxes = sum(len(scores) for _, scores in labelled)
    progress.info(
        f"{PRE_LABELS}: {len(labelled)} of {len(images)} images, {boxes} boxes that score {threshold:.3g} or more"
    )
    progress.info(f"{UNLABELLED}: {len(others)} images without such a box, left to people")
    if not flags.prefix:
        progress.warning("names of images are no addresses on S3, which Ground Truth needs: --prefix s3://BUCKET/PATH")
    progress.info(f"written: {flags.output}")
    if faults:
        raise incomplete(faults, len(images))


def _refuse_earlier(flags: argparse.Namespace) -> None:
    """Raise a ConfigError if --output has a file that the command writes, and --overwrite is not given."""
    existing = [name for name in (PRE_LABELS, UNLABELLED, CATEGORIES) if os.path.lexists(flags.output / name)]
    if existing and not flags.overwrite:
        raise ConfigError(
            f"{flags.output}: found {', '.join(existing)}, expected none: use another --output, or --overwrite to "
            "replace them"
        )


def _pre_labels(name: str, detections: Detections) -> Tuple[LabeledImage, List[float]]:
    """Return the boxes of an image in whole pixels, as people's labels have them, and their scores."""
    boxes = np.rint(detections.boxes)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    record = LabeledImage(name, boxes[kept], detections.class_ids[kept], detections.size_wh)
    return record, [round(float(score), 4) for score in detections.scores[kept]]


def _write(
    flags: argparse.Namespace,
    detector: Detector,
    labelled: Sequence[Tuple[LabeledImage, List[float]]],
    others: Sequence[str],
) -> None:
    records, scores = [record for record, _ in labelled], [of_image for _, of_image in labelled]
    names = detector.class_names
    write_ground_truth(flags.output / PRE_LABELS, records, names, flags.label_attribute, confidences=scores)
    write_bytes_atomic(flags.output / UNLABELLED, b"".join(dump_json({SOURCE: name}) + b"\n" for name in others))
    write_label_categories(flags.output / CATEGORIES, names)

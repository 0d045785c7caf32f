"""The command check: report errors in labels and images before training."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from ssd_train.cli.arguments import Parser, add_label_flags, label_options, program
from ssd_train.cli.paths import add_input, add_output, staged_s3_paths
from ssd_train.config import FINE_STRIDES, TrainConfig
from ssd_train.data.checks.codes import CODES, SEVERITIES
from ssd_train.data.checks.runner import CheckResult, Split, check_data, unreadable_labels_result
from ssd_train.data.file_names import describe_unread
from ssd_train.data.image_sources import FolderImages
from ssd_train.data.labels import LabelOptions, load_labels
from ssd_train.data.split import describe_mixed_folders, describe_splits, training_split
from ssd_train.errors import DataError
from ssd_train.model.anchors import layout_of, make_anchors
from ssd_train.progress import Progress
from ssd_train.redaction import redact
from ssd_train.storage.atomic import write_text_atomic

LISTED = 3  # findings shown per code; --json has all
SHAPES = (300, 512, 768, 1024)  # candidates for the recommended image_shape
EXIT_ERRORS = 2


def run(arguments: Sequence[str]) -> int:
    """Check, print the findings, and return 0, or 2 if there are errors."""
    parser = make_parser()
    flags = parser.parse_args(list(arguments))
    given = {name: value for name, value in vars(flags).items() if value != parser.get_default(name)}
    config = TrainConfig.from_mapping({"image_shape": flags.image_shape, "base_network": flags.base_network})
    finer = replace(config, feature_strides=FINE_STRIDES)
    anchors, fine_anchors = (
        {side: make_anchors(layout_of(replace(c, image_shape=side))) for side in {config.image_shape, *SHAPES}}
        for c in (config, finer)
    )
    if layout_of(config) == layout_of(finer):
        fine_anchors = {}
    with staged_s3_paths(flags) as progress:
        for images in filter(None, (flags.images, flags.validation)):
            if not images.exists():
                raise DataError(f"{images}: not found, expected a folder of images")
        try:
            read = read_splits(flags, progress)
        except DataError as fault:
            result = unreadable_labels_result(fault)
        else:
            for line in filter(None, map(sets_line, read)):
                progress.info(line)
            mixed = describe_mixed_folders(read[0].labels) if len(read) == 1 else ""
            if mixed:
                progress.warning(mixed)
            roots = dict.fromkeys(data.images.root for data in read if isinstance(data.images, FolderImages))
            for line in filter(None, map(describe_unread, roots)):
                progress.warning(line)
            result = check_data(read, config.image_shape, anchors, progress, fine_anchors)
        for line in report_lines(result, given):
            progress.info(line)
        if flags.json:
            text = json.dumps(result.to_json(), indent=2, allow_nan=False, ensure_ascii=False)
            write_text_atomic(flags.json, redact(text) + "\n")  # labels may name images by signed addresses
            progress.info(f"all findings: {flags.json}")
        return EXIT_ERRORS if result.number("error") else 0


def make_parser() -> Parser:
    """Return the parser of check."""
    parser = Parser(
        prog=program("check"),
        description="Read labels and images once and tell what is wrong with them. Exit code 0, or 2 where there are "
        "errors. The codes and what to do about each: docs/check-codes.md.",
    )
    add_input(parser, "--images", "--train", help="folder of images, or a .rec with images and labels")
    add_input(parser, "--labels", help="their labels (default: those found in --images); alone: only checks these")
    add_input(parser, "--validation", help="validation images, as --images (default: those)")
    add_input(parser, "--validation_labels", help="validation labels, as --labels")
    add_label_flags(parser)
    parser.add_argument("--image_shape", default="300", metavar="PX", help="side that training will use")
    parser.add_argument("--base_network", default="mobilenet1.0", metavar="NAME", help="that training will use")
    add_output(parser, "--json", help="write all findings and statistics here")
    return parser


def read_splits(flags: argparse.Namespace, progress: Progress) -> List[Split]:
    """Read the training labels, the validation labels if any, and their images."""
    options = label_options(flags, progress, on_bad="skip")
    splits = [_read("train", flags.images, flags.labels, options)]
    if flags.validation or flags.validation_labels:
        splits.append(_read("validation", flags.validation or flags.images, flags.validation_labels, options))
    return splits


def _read(name: str, images: Optional[Path], labels: Optional[Path], options: LabelOptions) -> Split:
    read = load_labels(images, labels, options)
    own = not isinstance(read.images, FolderImages)  # a file that contains its images
    return Split(name, read.labels, read.images if own or images else None)


def sets_line(split: Split) -> str:
    """Return a line about the sets that the data names and how training uses them.

    "" if the data names no sets.
    """
    sets = describe_splits(split.labels)
    if not sets or split.name != "train":
        return f"{split.name}: {sets}" if sets else ""
    trained, scored = training_split(split.labels, alone=True)
    with_what = "a part of these" if scored is None else f"{len(scored)} of val"
    return f"{split.name}: {sets}; all are checked, train learns from {len(trained)}, scores with {with_what}"


def report_lines(result: CheckResult, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield the report: statistics, findings by rising severity, and counts.

    The worst findings and the counts come last, where a terminal shows them.

    Args:
        result: The result.
        given: The flags that were given; those of the advised command.
    """
    yield from _statistics_lines(result.statistics)
    advised = result.statistics.get("advised")
    if advised:
        data = {
            "train": given.get("images", "IMAGES"),
            **{n: v for n, v in given.items() if n not in ("images", "json")},
        }
        words = [word for name, value in {**data, **advised}.items() for word in (f"--{name}", str(value))]
        yield f"advised, for small objects: {program('train')} {' '.join(map(shlex.quote, words))}"
    for severity in reversed(SEVERITIES):
        of_it = [finding for finding in result.findings if finding.severity == severity]
        for name, group in groupby(of_it, key=lambda finding: finding.code):
            code, findings = CODES[name], list(group)
            yield ""
            yield f"{severity}: {name}: {code.condition} ({len(findings)})"
            for finding in findings[:LISTED]:
                yield f"  {finding.where}: {_short(finding.detail)}"
            if len(findings) > LISTED:
                yield f"  and {len(findings) - LISTED} more"
            yield f"  what to do: {code.remedy}"
    counts = ", ".join(_number(result.number(severity), severity) for severity in SEVERITIES)
    yield ""
    yield f"found {counts}"


def _statistics_lines(figures: Dict[str, Any]) -> Iterator[str]:
    for name in ("train", "validation"):
        if name in figures:
            yield from _split_lines(name, figures[name])
    shape = figures.get("image_shape", {})
    if shape.get("recommended"):
        served = ", ".join(f"{side}: {fraction:.1%}" for side, fraction in shape["served"].items())
        yield f"image_shape {shape['recommended']} is recommended (boxes large enough at {served})"
    if "label_width" in figures:
        yield f"label_width {figures['label_width']} is enough"


def _split_lines(name: str, figures: Dict[str, Any]) -> Iterator[str]:
    yield (
        f"{name}: {_number(figures['images'], 'image')}, {figures['background_images']} without objects; "
        f"{_number(figures['boxes'], 'box')} ({figures['labels']})"
    )
    ignored = [f"{count} {what}" for what, count in figures["ignored"].items() if count]
    if ignored:
        yield f"  neither objects to find nor background: {', '.join(ignored)}"
    sizes = figures["image_sizes"]
    if "largest" in sizes:
        yield f"  image sizes: {sizes['smallest']} to {sizes['largest']}, {sizes['different']} different"
    spread = figures["objects_per_image"]
    yield f"  objects in an image: {', '.join(f'{key} {value:g}' for key, value in spread.items())}"
    width = max((len(label) for label in figures["classes"]), default=0)
    yield from (f"  {line}" for line in figures["remarks"])
    for label, class_figures in figures["classes"].items():
        counts = ", ".join(f"{count} of {key}" for key, count in class_figures["shares"].items() if count)
        boxes, images = _number(class_figures["boxes"], "box"), _number(class_figures["images"], "image")
        yield f"  {label:<{width}}  {boxes} in {images}; their side in the image's: {counts or 'unknown'}"


def _number(count: int, noun: str) -> str:
    plural = {"box": "boxes"}.get(noun, f"{noun}s")
    return f"{count} {noun if count == 1 else plural}"


def _short(text: str, length: int = 200) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"

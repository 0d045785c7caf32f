"""The command prepare and its steps."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import re
from pathlib import Path, PurePosixPath
from typing import Callable, List, NamedTuple, Sequence, Tuple

from ssd_train.cli.arguments import (
    Parser,
    add_label_flags,
    key_value,
    label_options,
    number_in_range,
    overview,
    program,
    unique_keys,
)
from ssd_train.cli.paths import add_input, add_output, add_output_dir, input_path, staged_s3_paths
from ssd_train.data.file_names import describe_unread
from ssd_train.data.formats.ground_truth import find_manifest
from ssd_train.data.formats.video import read_video_frames
from ssd_train.data.formats.yolo import image_parts
from ssd_train.data.image_io import encode
from ssd_train.data.image_sources import FolderImages, key_parts
from ssd_train.data.labels import LabeledDataset, LabelOptions, detect_format, load_labels
from ssd_train.errors import ConfigError, DataError
from ssd_train.prepare.augment import OPERATIONS, augment_images, augment_labels, sizes_of_images
from ssd_train.prepare.convert import WRITERS, convert, copy_images, with_sizes
from ssd_train.prepare.filter import EMPTY_IMAGE_ACTIONS, ConfidenceFilter, LineFilter, keep, read_ids
from ssd_train.prepare.frames import FRAME_FORMATS, Choice, extract_frames
from ssd_train.prepare.images import ProcessResult, WriteOptions, grayscale
from ssd_train.prepare.manifest import write_listing
from ssd_train.prepare.merge import ON_DUPLICATE, join
from ssd_train.prepare.relabel import EMPTY_LINE_ACTIONS, RelabelRules, relabel
from ssd_train.prepare.split import SplitOptions, split
from ssd_train.progress import Progress
from ssd_train.storage.atomic import write_bytes_atomic
from ssd_train.visualization.draw import Layout, labelled_sheet


def add_manifest(parser: Parser) -> None:
    """Add the flag for an input manifest."""
    parser.add_positional(
        "manifest",
        "--labels",
        type=input_path,
        metavar="MANIFEST",
        help="a manifest, or the output folder of a labeling job",
    )


def add_attribute(parser: Parser) -> None:
    """Add the flag for the label attribute."""
    parser.add_argument("--label_attribute", metavar="NAME", help="label attribute (default: that of the newest job)")


def add_writing(parser: Parser) -> None:
    """Add flags for writing images."""
    quality = number_in_range(int, 1, 100)
    parser.add_argument("--quality", type=quality, default=95, help="quality of JPEG and WebP, 1 to 100")
    parser.add_argument("--overwrite", action="store_true", help="overwrite existing files")


def manifest(source: Path, *outputs: "str | Path") -> str:
    """Return the path of a manifest, or of that in a folder.

    Raises:
        ConfigError: it is one of `outputs`.
        DataError: there is none; for labels in another format the message says how to convert them.
    """
    other = ""
    with contextlib.suppress(DataError):  # of an unclear file, what reads it says more
        other = detect_format(source).format
    if other not in ("", "ground_truth"):
        raise DataError(
            f"{source}: found labels in the format {other}, expected a manifest; prepare convert --to ground_truth "
            "makes one"
        )
    path = find_manifest(source)
    for output in outputs:
        refuse_own_input(output, path)
    return str(path)


def refuse_own_input(output: "str | Path", *inputs: "str | Path") -> None:
    """Raise a ConfigError if `output` is the same file as one of `inputs`, to protect labels."""
    if os.path.realpath(output) in [os.path.realpath(path) for path in inputs]:
        raise ConfigError(f"output: found {output}, which is an input, expected another path")


def report(done: ProcessResult, output: "str | Path", progress: Progress) -> None:
    """Report processed images; raises a DataError (exit code 2) if some could not be read."""
    for line in [*done.notes, *done.failures]:
        progress.warning(line)
    skipped = f", {done.skipped} skipped, which exist" if done.skipped else ""
    progress.info(f"{done.written} images written{skipped}: {output}")
    if done.failures:
        total = done.written + done.skipped + len(done.failures)
        raise DataError(f"{len(done.failures)} of {total} images could not be read, the first: {done.failures[0]}")


def add_augment_flags(parser: Parser) -> None:
    """Add the flags of the step augment."""
    add_manifest(parser)
    add_input(parser, "--images", metavar="FOLDER", help="folder of the images")
    add_output_dir(parser, "--output", required=True, help="for augmented.manifest and images/")
    parser.add_argument("--operations", nargs="+", default=list(OPERATIONS), metavar="NAME", help=", ".join(OPERATIONS))
    parser.add_argument(
        "--annotations_only", action="store_true", help="write the manifest only, with the image sizes of the labels"
    )
    add_writing(parser)


def run_augment(flags: argparse.Namespace, progress: Progress) -> None:
    """Write five versions of each labelled image: original, two mirrored, two rotated."""
    if flags.annotations_only == bool(flags.images):
        raise ConfigError("augment: expected either --images FOLDER or --annotations_only")
    output = f"{flags.output}/augmented.manifest"
    labels = manifest(flags.manifest, output)
    if flags.images:
        folders, options = (flags.images, f"{flags.output}/images"), WriteOptions(flags.quality, flags.overwrite)
        report(augment_images(labels, folders, flags.operations, options, progress), folders[1], progress)
    size_of = sizes_of_images(flags.images) if flags.images else None
    progress.info(f"{augment_labels(labels, output, flags.operations, size_of)} lines written: {output}")


VIDEO = "video"


def add_convert_flags(parser: Parser) -> None:
    """Add the flags of the step convert."""
    add_input(parser, "--labels", help="labels, a file or folder (default: those found in --images)")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=", ".join(WRITERS))
    add_output(parser, "--output", required=True, metavar="PATH", help="the new file, or folder (image_json, voc)")
    add_input(parser, "--images", metavar="FOLDER", help="the images (default: those in or beside the labels)")
    add_output_dir(parser, "--output_images", help="write the images, too, into this new folder")
    parser.add_argument("--on_bad_data", default="error", help="error or skip: what unusable lines do")
    add_label_flags(parser, "--from")


def run_convert(flags: argparse.Namespace, progress: Progress) -> None:
    """Write labels of one format as another.

    --from video reads the frames of a Ground Truth video job. Images are written only into RecordIO, and where
    --output_images says.
    """
    flags.labels = flags.labels or flags.images
    if flags.labels is None:
        raise ConfigError("convert: found neither --labels nor --images, expected one of them")
    if flags.labels_format == VIDEO:
        data = _read_video(flags)
    else:
        data = load_labels(flags.images, flags.labels, label_options(flags, progress, flags.on_bad_data))
    refuse_own_input(flags.output, flags.labels, data.labels.source)
    # YOLO's images folder lies in the output folder, which `convert` must create first
    if flags.output_images and flags.to != "yolo":
        data = _with_images(data, flags, progress)
    for line in convert(data, flags.to, flags.output, progress):
        progress.warning(line)
    if flags.output_images and flags.to == "yolo":
        _with_images(data, flags, progress)
    elif flags.to == "yolo":
        folder = f"{flags.output}/images"
        progress.warning(f"data.yaml names the images in {folder}, which are not written: --output_images {folder}")
    progress.info(f"{len(data.labels)} images converted to {flags.to}: {flags.output}")


def check_convert(flags: argparse.Namespace) -> None:
    """Raise a ConfigError if data.yaml of YOLO, which names the folder images beside it, would name none."""
    if flags.to != "yolo" or not flags.output_images:
        return
    images, output = (
        os.path.abspath(path) if isinstance(path, Path) else str(path).rstrip("/")
        for path in (flags.output_images, flags.output)
    )
    if images != f"{output}/images":
        raise ConfigError(f"output_images: found {images}, expected {output}/images, the folder that data.yaml names")


def _with_images(data: LabeledDataset, flags: argparse.Namespace, progress: Progress) -> LabeledDataset:
    data = copy_images(data, flags.output_images, progress, image_parts if flags.to == "yolo" else key_parts)
    progress.info(f"{len(data.labels)} images written: {flags.output_images}")
    return data


def _read_video(flags: argparse.Namespace) -> LabeledDataset:
    if flags.class_names:
        raise ConfigError("class_names: a video job names its classes itself, expected none")
    path = flags.labels
    labels = read_video_frames(path, flags.label_attribute or None, flags.on_bad_data)
    labels = dataclasses.replace(labels, details={**labels.details, "format": VIDEO})
    if flags.images is None:  # a new manifest needs neither frames nor their sizes
        return LabeledDataset(labels, FolderImages(path if path.is_dir() else path.parent))
    data = LabeledDataset(labels, FolderImages(flags.images))
    return LabeledDataset(with_sizes(data), data.images)


def add_frames_flags(parser: Parser) -> None:
    """Add the flags of the step frames."""
    add_input(parser, "videos", nargs="+", metavar="VIDEO")
    add_output_dir(parser, "--output", required=True)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="write every N-th frame")
    parser.add_argument("--format", choices=FRAME_FORMATS, default="jpg", help="of the frames")
    add_writing(parser)


def run_frames(flags: argparse.Namespace, progress: Progress) -> None:
    """Extract frames of videos as <video>_000000.jpg, numbered over all frames."""
    options = WriteOptions(flags.quality, flags.overwrite)
    for done in extract_frames(flags.videos, flags.output, Choice(flags.every, flags.format), options, progress):
        if done.read < done.promised:
            progress.warning(
                f"{done.video}: {done.read} of {done.promised} frames are readable; the video may be truncated"
            )
        skipped = f", {done.skipped} skipped, which exist" if done.skipped else ""
        progress.info(f"{done.video}: {done.read} frames, {done.written} written{skipped}: {flags.output}")


def add_grayscale_flags(parser: Parser) -> None:
    """Add the flags of the step grayscale."""
    add_input(parser, "--images", required=True, metavar="FOLDER", help="folder of images, with subfolders")
    add_output_dir(parser, "--output", required=True, help="output folder, not --images")
    add_writing(parser)


def run_grayscale(flags: argparse.Namespace, progress: Progress) -> None:
    """Convert images to grayscale, with the same names and formats, so that labels stay valid.

    Resumes an interrupted run.
    """
    done = grayscale(flags.images, flags.output, WriteOptions(flags.quality, flags.overwrite), progress)
    report(done, flags.output, progress)


def add_join_flags(parser: Parser) -> None:
    """Add the flags of the step join."""
    parser.add_positional(
        "manifests",
        "--labels",
        nargs="+",
        type=input_path,
        metavar="MANIFEST",
        help="manifest, or folder of a labeling job",
    )
    add_output(parser, "--output", required=True, help="merged manifest")
    parser.add_argument("--on_duplicate", choices=ON_DUPLICATE, default="error", help="for images in several manifests")
    parser.add_argument("--label_attribute", metavar="NAME", help="label attribute in the merged manifest")


def run_join(flags: argparse.Namespace, progress: Progress) -> None:
    """Merge the manifests of several labeling jobs. Lines are not changed."""
    paths = [manifest(path, flags.output) for path in flags.manifests]
    done = join(paths, flags.output, flags.on_duplicate, flags.label_attribute)
    for path, count in zip(paths, done.lines_in):
        progress.info(f"{count} lines read: {path}")
    if done.duplicates:
        progress.warning(f"{done.duplicates} duplicate images: {flags.on_duplicate}")
    if done.renumbered:
        ids = ", ".join(f"{class_id} {name}" for name, class_id in done.renumbered.items())
        progress.warning(f"a class id had several names; new ids: {ids}")
    progress.info(f"{done.lines_out} lines written: {flags.output}")


def add_keep_flags(parser: Parser) -> None:
    """Add the flags of the step keep."""
    _add_flags(parser)
    parser.add_argument("--min_confidence", type=float, metavar="NUMBER", help="minimum confidence of boxes, 0 to 1")
    parser.add_argument(
        "--when_empty",
        choices=EMPTY_IMAGE_ACTIONS,
        default="drop",
        help="for images whose boxes are all below --min_confidence; default: drop, since they show objects",
    )


def run_keep(flags: argparse.Namespace, progress: Progress) -> None:
    """Keep the lines that match all conditions, and their boxes with enough confidence."""
    _select(flags, progress, invert=False)


def add_drop_flags(parser: Parser) -> None:
    """Add the flags of the step drop."""
    _add_flags(parser)
    parser.set_defaults(min_confidence=None, when_empty="drop")


def run_drop(flags: argparse.Namespace, progress: Progress) -> None:
    """Drop the lines that match all conditions."""
    _select(flags, progress, invert=True)


def _add_flags(parser: Parser) -> None:
    add_manifest(parser)
    add_output(parser, "--output", required=True, help="the new manifest")
    add_attribute(parser)
    parser.add_argument(
        "--ids",
        default="",
        metavar="LIST",
        help="source-refs or file names, separated by commas, or a file with one per line",
    )
    parser.add_argument(
        "--source_regex", default="", metavar="REGEX", help="regular expression searched in the source-ref"
    )
    parser.add_argument(
        "--where", nargs="+", action="extend", type=key_value, metavar="KEY=VALUE", help="values of keys of the line"
    )
    parser.add_argument("--verified", default="", metavar="NAME", help="class-name from a verification job")
    parser.add_argument(
        "--verification", default="", metavar="NAME", help="attribute of the verification job, if there are several"
    )


def _select(flags: argparse.Namespace, progress: Progress, invert: bool) -> None:
    ids: Tuple[str, ...] = read_ids(flags.ids)
    conditions = LineFilter(ids, flags.source_regex, flags.where or (), flags.verified, flags.verification)
    confidence = None
    if flags.min_confidence is not None:
        confidence = ConfidenceFilter(flags.min_confidence, flags.when_empty, flags.label_attribute)
    done = keep(manifest(flags.manifest, flags.output), flags.output, conditions, confidence, invert)
    if confidence:
        progress.info(f"{done.boxes_dropped} boxes dropped with confidence below {flags.min_confidence:g}")
    progress.info(f"{done.lines_in} lines read, {done.lines_in - done.lines_out} dropped")
    progress.info(f"{done.lines_out} lines written: {flags.output}")


def add_manifest_flags(parser: Parser) -> None:
    """Add the flags of the step manifest."""
    parser.add_positional(
        "sources",
        "--images",
        nargs="+",
        type=input_path,
        metavar="SOURCE",
        help="a folder, an image, or a file with one name per line",
    )
    add_output(parser, "--output", required=True, help="output manifest")
    parser.add_argument("--prefix", default="", metavar="s3://BUCKET/PATH", help="S3 prefix of the images")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use every N-th image")
    parser.add_argument(
        "--name_regex",
        default="",
        metavar="REGEX",
        help="regular expression whose named groups become keys: (?P<color>[a-z]+)_(?P<object>[a-z]+)",
    )


def run_manifest(flags: argparse.Namespace, progress: Progress) -> None:
    """Write the input manifest of a labeling job."""
    refuse_own_input(flags.output, *flags.sources)
    for line in filter(None, (describe_unread(source) for source in flags.sources if os.path.isdir(source))):
        progress.warning(line)
    count = write_listing(flags.sources, flags.output, flags.prefix, flags.every, flags.name_regex)
    progress.info(f"{count} lines written: {flags.output}")


def add_relabel_flags(parser: Parser) -> None:
    """Add the flags of the step relabel."""
    add_manifest(parser)
    add_output(parser, "--output", required=True, help="the new manifest")
    add_attribute(parser)
    parser.add_argument(
        "--from_keys",
        default="",
        metavar="KEY,KEY",
        help="name the boxes of a line by the values of its keys: color,object -> blue box",
    )
    parser.add_argument(
        "--rename",
        nargs="+",
        action="extend",
        type=key_value,
        metavar="OLD=NEW",
        help="the same NEW several times: merge",
    )
    parser.add_argument("--drop", nargs="+", action="extend", default=[], metavar="NAME", help="drop its boxes")
    parser.add_argument(
        "--when_empty",
        choices=EMPTY_LINE_ACTIONS,
        default="background",
        help="for images without boxes after --drop",
    )
    parser.add_argument(
        "--renumber", action="store_true", help="renumber classes from 0 without gaps (default: keep ids)"
    )


def run_relabel(flags: argparse.Namespace, progress: Progress) -> None:
    """Change classes: --from_keys first, then --rename, then --drop."""
    keys = [key.strip() for key in flags.from_keys.split(",") if key.strip()]
    rules = RelabelRules(keys, unique_keys("rename", flags.rename or ()), flags.drop, flags.when_empty, flags.renumber)
    done = relabel(manifest(flags.manifest, flags.output), flags.output, rules, flags.label_attribute)
    for name, class_id in done.ids.items():
        progress.info(f"class {class_id}: {name}, {done.boxes[name]} boxes")
    if done.boxes_dropped:
        progress.info(f"{done.boxes_dropped} boxes dropped, {done.lines_in - done.lines_out} lines dropped")
    progress.info(f"{done.lines_out} lines written: {flags.output}")


FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def add_sheet_flags(parser: Parser) -> None:
    """Add the flags of the step sheet."""
    parser.add_positional(
        "labels", "--labels", type=input_path, metavar="LABELS", help="a manifest, or labels of another format"
    )
    add_input(parser, "--images", metavar="FOLDER", help="folder of the images; default: that of the labels")
    add_output(parser, "--output", required=True, help="*.png or *.jpg")
    parser.add_argument("--count", type=int, default=24, help="number of images, evenly spaced in the labels")
    parser.add_argument("--columns", type=int, default=4, help="number of columns")
    parser.add_argument(
        "--cell", type=_size, default=(360, 300), metavar="WxH", help="size of a cell in pixels; default: 360x300"
    )
    add_attribute(parser)


def run_sheet(flags: argparse.Namespace, progress: Progress) -> None:
    """Draw labelled images with their boxes on a contact sheet."""
    format = FORMATS.get(flags.output.suffix.lower())
    if format is None:
        raise ConfigError(f"output: found {str(flags.output)!r}, expected a suffix among {', '.join(FORMATS)}")
    data = load_labels(flags.images, flags.labels, LabelOptions(attribute=flags.label_attribute or ""))
    labels, images = data.labels, data.images
    sheet, failures = labelled_sheet(labels, images, Layout(flags.count, flags.columns, flags.cell), progress)
    write_bytes_atomic(flags.output, encode(sheet, format))
    progress.info(f"{min(flags.count, len(labels)) - len(failures)} of {len(labels)} images: {flags.output}")
    for failure in failures:
        progress.warning(failure)
    if failures:
        raise DataError(f"{len(failures)} images could not be read, the first: {failures[0]}")


def _size(text: str) -> Tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise ConfigError(f"cell: found {text!r}, expected WIDTHxHEIGHT in pixels")
    return int(match.group(1)), int(match.group(2))


NAMES = {2: ["train", "validation"], 3: ["train", "validation", "test"]}


def add_split_flags(parser: Parser) -> None:
    """Add the flags of the step split."""
    add_manifest(parser)
    add_output_dir(parser, "--output", required=True, help="folder for <name>.manifest of each split")
    parser.add_argument(
        "--fractions",
        nargs="+",
        type=float,
        default=[0.9, 0.1],
        metavar="FRACTION",
        help="of the splits; one more has the rest if their sum is below 1; default: 0.9 0.1",
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="default: train validation (test)")
    parser.add_argument("--seed", type=int, default=0, help="random seed; default: 0")
    parser.add_argument(
        "--group",
        default="",
        metavar="REGEX",
        help="regular expression; images whose names have the same match (or the same first group, if it has "
        "groups) stay in the same split, for example the frames of a video",
    )
    parser.add_argument(
        "--stratify", action="store_true", help="distribute classes, and empty images, evenly over the splits"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the manifests of an earlier split")
    add_attribute(parser)


def run_split(flags: argparse.Namespace, progress: Progress) -> None:
    """Split a manifest at random. Lines of the same image stay in the same split."""
    options = SplitOptions(flags.fractions, flags.seed, flags.group, flags.stratify, flags.label_attribute)
    outputs = [f"{flags.output}/{name}.manifest" for name in _names(flags.names, len(options.fractions))]
    source = manifest(flags.manifest, *outputs)
    existing = [output for output in outputs if os.path.lexists(output)]
    if existing and not flags.overwrite:
        raise ConfigError(f"output: found {', '.join(existing)}, expected another folder, or --overwrite")
    counts = split(source, outputs, options, progress)
    for output, count in zip(outputs, counts):
        progress.info(f"{count} lines written: {output}")


def _names(names: "List[str] | None", count: int) -> List[str]:
    chosen = names or NAMES.get(count, [])
    if len(chosen) != count or any(PurePosixPath(name).name != name for name in chosen):
        raise ConfigError(f"names: found {' '.join(chosen) or 'none'}, expected {count} file names without a folder")
    return chosen


class Step(NamedTuple):
    """A step: its line in the list of steps, and functions that add its flags and run it."""

    summary: str
    add_flags: Callable[[Parser], None]
    run: Callable[[argparse.Namespace, Progress], None]


STEPS = {
    "manifest": Step("write the input manifest of a labeling job for images", add_manifest_flags, run_manifest),
    "frames": Step("extract every n-th frame of videos", add_frames_flags, run_frames),
    "join": Step("merge manifests of several labeling jobs", add_join_flags, run_join),
    "keep": Step("keep the lines and boxes that match conditions", add_keep_flags, run_keep),
    "drop": Step("drop the lines that match conditions", add_drop_flags, run_drop),
    "relabel": Step("change classes: take names from keys, rename, merge, drop", add_relabel_flags, run_relabel),
    "split": Step("split a manifest into train, validation and test", add_split_flags, run_split),
    "grayscale": Step("convert images to grayscale", add_grayscale_flags, run_grayscale),
    "augment": Step("write mirrored and rotated copies of labelled images", add_augment_flags, run_augment),
    "convert": Step("convert labels to another format", add_convert_flags, run_convert),
    "sheet": Step("draw labelled images on a contact sheet", add_sheet_flags, run_sheet),
}


def make_parser(step: str) -> Parser:
    """Return the parser of a step, described by the docstring of its function."""
    description = " ".join((STEPS[step].run.__doc__ or "").split())
    parser = Parser(prog=program("prepare", step), description=description)
    STEPS[step].add_flags(parser)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run a step; its name is the first argument."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("--help", "-h", "help"):
        steps = {name: step.summary for name, step in STEPS.items()}
        print(overview("prepare STEP [flags]", steps, f"{program('prepare STEP')} --help lists the flags of a step"))
        return 0
    if name not in STEPS:
        raise ConfigError(f"prepare: found {name!r}, expected one of {', '.join(STEPS)}")
    flags = make_parser(name).parse_args(list(rest))
    if name == "convert":
        check_convert(flags)  # before paths on S3 become local ones
    with staged_s3_paths(flags) as progress:
        STEPS[name].run(flags, progress)
    return 0

"""Flags, path checks and reports shared by the steps of prepare."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from pathlib import Path, PurePosixPath
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ssd_train.cli.arguments import Parser, add_label_flags, label_options, overview, program
from ssd_train.cli.paths import input_path, output_dir, output_path, staged_s3_paths
from ssd_train.data.formats.ground_truth import find_manifest
from ssd_train.data.formats.video import read_video_frames
from ssd_train.data.image_io import encode
from ssd_train.data.image_sources import FolderImages
from ssd_train.data.labels import LabeledDataset, load_labels, read_labels
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
from ssd_train.visualization.contact_sheet import Layout, labelled_sheet


def make_step_parser(step: str, description: str) -> Parser:
    """Return the parser of a step, without flags."""
    return Parser(prog=program("prepare", step), description=description)


def add_manifest(parser: Parser) -> None:
    """Add flags for an input manifest, an output manifest and the label attribute."""
    parser.add_positional(
        "manifest",
        "--labels",
        type=input_path,
        metavar="MANIFEST",
        help="a manifest, or the output folder of a labeling job",
    )
    parser.add_argument("--output", type=output_path, required=True, metavar="FILE", help="the new manifest")
    add_attribute(parser)


def add_attribute(parser: Parser) -> None:
    """Add the flag for the label attribute."""
    parser.add_argument("--label_attribute", metavar="NAME", help="label attribute (default: that of the newest job)")


def add_writing(parser: Parser) -> None:
    """Add flags for writing images."""
    parser.add_argument("--quality", type=int, default=95, help="quality of JPEG and WebP, 1 to 100; default: 95")
    parser.add_argument("--overwrite", action="store_true", help="overwrite existing files")


def writing(quality: int, overwrite: bool) -> WriteOptions:
    """Return the options of `add_writing`; raises ConfigError for an invalid quality."""
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality: found {quality}, expected 1 to 100")
    return WriteOptions(quality, overwrite)


def manifest(source: Path, *outputs: "str | Path") -> str:
    """Return the path of a manifest, or of that in a folder; raises ConfigError if it is one of `outputs`."""
    path = find_manifest(source)
    for output in outputs:
        refuse_own_input(output, path)
    return str(path)


def refuse_own_input(output: "str | Path", *inputs: "str | Path") -> None:
    """Raise a ConfigError if `output` is the same file as one of `inputs`, to protect labels."""
    if os.path.realpath(output) in [os.path.realpath(path) for path in inputs]:
        raise ConfigError(f"output: found {output}, which is an input, expected another path")


def pairs(texts: Optional[Sequence[str]], flag: str) -> Tuple[Tuple[str, str], ...]:
    """Parse KEY=VALUE texts; the first equals sign separates."""
    parts = [text.partition("=") for text in texts or ()]
    bad = [key for key, equals, _ in parts if not key or not equals]
    if bad:
        raise ConfigError(f"--{flag}: found {bad[0]!r}, expected KEY=VALUE")
    return tuple((key, value) for key, _, value in parts)


def mapping(texts: Optional[Sequence[str]], flag: str) -> Dict[str, str]:
    """Parse KEY=VALUE texts with unique keys into a dictionary."""
    values: Dict[str, str] = {}
    for key, value in pairs(texts, flag):
        if key in values:
            raise ConfigError(f"--{flag}: found {key!r} twice, expected each once")
        values[key] = value
    return values


def report(done: ProcessResult, output: "str | Path", progress: Progress) -> None:
    """Report processed images; raises a DataError (exit code 2) if some could not be read."""
    for line in [*done.notes, *done.failures]:
        progress.warning(line)
    skipped = f", {done.skipped} skipped, which exist" if done.skipped else ""
    progress.info(f"{done.written} images written{skipped}: {output}")
    if done.failures:
        total = done.written + done.skipped + len(done.failures)
        raise DataError(f"{len(done.failures)} of {total} images could not be read, the first: {done.failures[0]}")


def augment_parser() -> Parser:
    """Return the parser of the step augment."""
    parser = make_step_parser(
        "augment", "Write five versions of each labelled image: original, two mirrored, two rotated."
    )
    parser.add_positional(
        "manifest",
        "--labels",
        type=input_path,
        metavar="MANIFEST",
        help="a manifest, or the output folder of a labeling job",
    )
    parser.add_argument("--images", type=input_path, metavar="FOLDER", help="folder of the images")
    parser.add_argument(
        "--output", type=output_dir, required=True, metavar="FOLDER", help="for augmented.manifest and images/"
    )
    parser.add_argument("--operations", nargs="+", default=list(OPERATIONS), metavar="NAME", help=", ".join(OPERATIONS))
    parser.add_argument(
        "--annotations_only", action="store_true", help="write the manifest only, with the image sizes of the labels"
    )
    add_writing(parser)
    return parser


def run_augment(flags: argparse.Namespace) -> int:
    """Write augmented images, then their manifest; if an image is unreadable, no manifest is written."""
    with staged_s3_paths(flags) as progress:
        if flags.annotations_only == bool(flags.images):
            raise ConfigError("augment: expected either --images FOLDER or --annotations_only")
        output = f"{flags.output}/augmented.manifest"
        labels = manifest(flags.manifest, output)
        if flags.images:
            folders, options = (flags.images, f"{flags.output}/images"), writing(flags.quality, flags.overwrite)
            report(augment_images(labels, folders, flags.operations, options, progress), folders[1], progress)
        size_of = sizes_of_images(flags.images) if flags.images else None
        progress.info(f"{augment_labels(labels, output, flags.operations, size_of)} lines written: {output}")
    return 0


VIDEO = "video"


def convert_parser() -> Parser:
    """Return the parser of the step convert."""
    parser = make_step_parser(
        "convert",
        "Labels of one format as another; --from video reads the frames of a Ground Truth video job. Images are "
        "written only into RecordIO, and where --output_images says.",
    )
    parser.add_argument("--labels", type=input_path, required=True, metavar="PATH", help="labels, a file or folder")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=", ".join(WRITERS))
    parser.add_argument(
        "--output", type=output_path, required=True, metavar="PATH", help="the new file, or folder (image_json, voc)"
    )
    parser.add_argument(
        "--images", type=input_path, metavar="FOLDER", help="the images (default: those in or beside the labels)"
    )
    parser.add_argument(
        "--output_images", type=output_dir, metavar="FOLDER", help="write the images, too, into this new folder"
    )
    parser.add_argument("--on_bad_data", default="error", help="error or skip: what unusable lines do; default: error")
    add_label_flags(parser, "--from")
    return parser


def run_convert(flags: argparse.Namespace) -> int:
    """Convert labels, and print the number of images and of lost properties."""
    with staged_s3_paths(flags) as progress:
        data = _read_video(flags) if flags.labels_format == VIDEO else _read(flags, progress)
        refuse_own_input(flags.output, flags.labels, data.labels.source)
        # YOLO's images folder may lie in the output folder, which `convert` must create first
        inside = flags.output_images and flags.to == "yolo" and flags.output in flags.output_images.parents
        if flags.output_images and not inside:
            data = _with_images(data, flags, progress)
        for line in convert(data, flags.to, flags.output, progress):
            progress.warning(line)
        if inside:
            _with_images(data, flags, progress)
        progress.info(f"{len(data.labels)} images converted to {flags.to}: {flags.output}")
    return 0


def _with_images(data: LabeledDataset, flags: argparse.Namespace, progress: Progress) -> LabeledDataset:
    data = copy_images(data, flags.output_images, progress)
    progress.info(f"{len(data.labels)} images written: {flags.output_images}")
    return data


def _read(flags: argparse.Namespace, progress: Progress) -> LabeledDataset:
    return load_labels(flags.images, flags.labels, label_options(flags, progress, flags.on_bad_data))


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


def frames_parser() -> Parser:
    """Return the parser of the step frames."""
    parser = make_step_parser("frames", "Extract frames of videos as <video>_000000.jpg, numbered over all frames.")
    parser.add_argument("videos", nargs="+", type=input_path, metavar="VIDEO")
    parser.add_argument("--output", type=output_dir, required=True, metavar="FOLDER")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="write every N-th frame; default: 1")
    parser.add_argument("--format", choices=FRAME_FORMATS, default="jpg", help="default: jpg")
    add_writing(parser)
    return parser


def run_frames(flags: argparse.Namespace) -> int:
    """Write the frames of videos."""
    with staged_s3_paths(flags) as progress:
        options = writing(flags.quality, flags.overwrite)
        for done in extract_frames(flags.videos, flags.output, Choice(flags.every, flags.format), options, progress):
            if done.read < done.promised:
                progress.warning(
                    f"{done.video}: {done.read} of {done.promised} frames are readable; the video may be truncated"
                )
            skipped = f", {done.skipped} skipped, which exist" if done.skipped else ""
            progress.info(f"{done.video}: {done.read} frames, {done.written} written{skipped}: {flags.output}")
    return 0


def grayscale_parser() -> Parser:
    """Return the parser of the step grayscale."""
    parser = make_step_parser(
        "grayscale",
        "Convert images to grayscale, with the same names and formats, so that labels stay valid. Resumes an "
        "interrupted run.",
    )
    parser.add_argument(
        "--images", type=input_path, required=True, metavar="FOLDER", help="folder of images, with subfolders"
    )
    parser.add_argument(
        "--output", type=output_dir, required=True, metavar="FOLDER", help="output folder, not --images"
    )
    add_writing(parser)
    return parser


def run_grayscale(flags: argparse.Namespace) -> int:
    """Write grayscale images; raises a DataError at the end if some are unreadable."""
    with staged_s3_paths(flags) as progress:
        done = grayscale(flags.images, flags.output, writing(flags.quality, flags.overwrite), progress)
        report(done, flags.output, progress)
    return 0


def join_parser() -> Parser:
    """Return the parser of the step join."""
    parser = make_step_parser("join", "Merge the manifests of several labeling jobs. Lines are not changed.")
    parser.add_positional(
        "manifests",
        "--labels",
        nargs="+",
        type=input_path,
        metavar="MANIFEST",
        help="manifest, or folder of a labeling job",
    )
    parser.add_argument("--output", type=output_path, required=True, metavar="FILE", help="merged manifest")
    parser.add_argument("--on_duplicate", choices=ON_DUPLICATE, default="error", help="for images in several manifests")
    parser.add_argument("--label_attribute", metavar="NAME", help="label attribute in the merged manifest")
    return parser


def run_join(flags: argparse.Namespace) -> int:
    """Merge manifests."""
    with staged_s3_paths(flags) as progress:
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
    return 0


def keep_parser() -> Parser:
    """Return the parser of the step keep."""
    parser = make_step_parser(
        "keep", "Keep the lines that match all conditions, and their boxes with enough confidence."
    )
    _add_flags(parser)
    parser.add_argument("--min_confidence", type=float, metavar="NUMBER", help="minimum confidence of boxes, 0 to 1")
    parser.add_argument(
        "--when_empty",
        choices=EMPTY_IMAGE_ACTIONS,
        default="drop",
        help="for images whose boxes are all below --min_confidence; default: drop, since they show objects",
    )
    return parser


def run_keep(flags: argparse.Namespace) -> int:
    """Keep the lines that match all conditions, and their boxes with enough confidence."""
    return _select(flags, invert=False)


def drop_parser() -> Parser:
    """Return the parser of the step drop."""
    parser = make_step_parser("drop", "Drop the lines that match all conditions.")
    _add_flags(parser)
    parser.set_defaults(min_confidence=None, when_empty="drop")
    return parser


def run_drop(flags: argparse.Namespace) -> int:
    """Drop the lines that match all conditions."""
    return _select(flags, invert=True)


def _add_flags(parser: Parser) -> None:
    add_manifest(parser)
    parser.add_argument(
        "--ids",
        default="",
        metavar="LIST",
        help="source-refs or file names, separated by commas, or a file with one per line",
    )
    parser.add_argument(
        "--source_regex", default="", metavar="REGEX", help="regular expression searched in the source-ref"
    )
    parser.add_argument("--where", nargs="+", action="extend", metavar="KEY=VALUE", help="values of keys of the line")
    parser.add_argument("--verified", default="", metavar="NAME", help="class-name from a verification job")
    parser.add_argument(
        "--verification", default="", metavar="NAME", help="attribute of the verification job, if there are several"
    )


def _select(flags: argparse.Namespace, invert: bool) -> int:
    with staged_s3_paths(flags) as progress:
        ids: Tuple[str, ...] = read_ids(flags.ids)
        conditions = LineFilter(
            ids, flags.source_regex, pairs(flags.where, "where"), flags.verified, flags.verification
        )
        confidence = None
        if flags.min_confidence is not None:
            confidence = ConfidenceFilter(flags.min_confidence, flags.when_empty, flags.label_attribute)
        done = keep(manifest(flags.manifest, flags.output), flags.output, conditions, confidence, invert)
        if confidence:
            progress.info(f"{done.boxes_dropped} boxes dropped with confidence below {flags.min_confidence:g}")
        progress.info(f"{done.lines_in} lines read, {done.lines_in - done.lines_out} dropped")
        progress.info(f"{done.lines_out} lines written: {flags.output}")
    return 0


def manifest_parser() -> Parser:
    """Return the parser of the step manifest."""
    parser = make_step_parser("manifest", "Write the input manifest of a labeling job.")
    parser.add_positional(
        "sources",
        "--images",
        nargs="+",
        type=input_path,
        metavar="SOURCE",
        help="a folder, an image, or a file with one name per line",
    )
    parser.add_argument("--output", type=output_path, required=True, metavar="FILE", help="output manifest")
    parser.add_argument("--prefix", default="", metavar="s3://BUCKET/PATH", help="S3 prefix of the images")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use every N-th image; default: 1")
    parser.add_argument(
        "--name_regex",
        default="",
        metavar="REGEX",
        help="regular expression whose named groups become keys: (?P<color>[a-z]+)_(?P<object>[a-z]+)",
    )
    return parser


def run_manifest(flags: argparse.Namespace) -> int:
    """Write the input manifest of a labeling job."""
    with staged_s3_paths(flags) as progress:
        refuse_own_input(flags.output, *flags.sources)
        count = write_listing(flags.sources, flags.output, flags.prefix, flags.every, flags.name_regex)
        progress.info(f"{count} lines written: {flags.output}")
    return 0


def relabel_parser() -> Parser:
    """Return the parser of the step relabel."""
    parser = make_step_parser("relabel", "Change classes: --from_keys first, then --rename, then --drop.")
    add_manifest(parser)
    parser.add_argument(
        "--from_keys",
        default="",
        metavar="KEY,KEY",
        help="name the boxes of a line by the values of its keys: color,object -> blue box",
    )
    parser.add_argument(
        "--rename", nargs="+", action="extend", metavar="OLD=NEW", help="the same NEW several times: merge"
    )
    parser.add_argument("--drop", nargs="+", action="extend", default=[], metavar="NAME", help="drop its boxes")
    parser.add_argument(
        "--when_empty",
        choices=EMPTY_LINE_ACTIONS,
        default="background",
        help="for images without boxes after --drop; default: background",
    )
    parser.add_argument(
        "--renumber", action="store_true", help="renumber classes from 0 without gaps (default: keep ids)"
    )
    return parser


def run_relabel(flags: argparse.Namespace) -> int:
    """Change the classes of a manifest."""
    with staged_s3_paths(flags) as progress:
        keys = [key.strip() for key in flags.from_keys.split(",") if key.strip()]
        rules = RelabelRules(keys, mapping(flags.rename, "rename"), flags.drop, flags.when_empty, flags.renumber)
        done = relabel(manifest(flags.manifest, flags.output), flags.output, rules, flags.label_attribute)
        for name, class_id in done.ids.items():
            progress.info(f"class {class_id}: {name}, {done.boxes[name]} boxes")
        if done.boxes_dropped:
            progress.info(f"{done.boxes_dropped} boxes dropped, {done.lines_in - done.lines_out} lines dropped")
        progress.info(f"{done.lines_out} lines written: {flags.output}")
    return 0


FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def sheet_parser() -> Parser:
    """Return the parser of the step sheet."""
    parser = make_step_parser("sheet", "Draw labelled images with their boxes on a contact sheet.")
    parser.add_positional(
        "labels", "--labels", type=input_path, metavar="LABELS", help="a manifest, or labels of another format"
    )
    parser.add_argument("--images", type=input_path, required=True, metavar="FOLDER", help="folder of the images")
    parser.add_argument("--output", type=output_path, required=True, metavar="FILE", help="*.png or *.jpg")
    parser.add_argument(
        "--count", type=int, default=24, help="number of images, evenly spaced in the labels; default: 24"
    )
    parser.add_argument("--columns", type=int, default=4, help="number of columns; default: 4")
    parser.add_argument(
        "--cell", type=_size, default=(360, 300), metavar="WxH", help="size of a cell in pixels; default: 360x300"
    )
    add_attribute(parser)
    return parser


def run_sheet(flags: argparse.Namespace) -> int:
    """Write a contact sheet; raises a DataError at the end if some images are unreadable."""
    with staged_s3_paths(flags) as progress:
        format = FORMATS.get(flags.output.suffix.lower())
        if format is None:
            raise ConfigError(f"output: found {str(flags.output)!r}, expected a suffix among {', '.join(FORMATS)}")
        labels = read_labels(flags.labels, flags.label_attribute)
        images = FolderImages(flags.images)
        sheet, failures = labelled_sheet(labels, images, Layout(flags.count, flags.columns, flags.cell), progress)
        write_bytes_atomic(flags.output, encode(sheet, format))
        progress.info(f"{min(flags.count, len(labels)) - len(failures)} of {len(labels)} images: {flags.output}")
        for failure in failures:
            progress.warning(failure)
        if failures:
            raise DataError(f"{len(failures)} images could not be read, the first: {failures[0]}")
    return 0


def _size(text: str) -> Tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise ConfigError(f"cell: found {text!r}, expected WIDTHxHEIGHT in pixels")
    return int(match.group(1)), int(match.group(2))


NAMES = {2: ["train", "validation"], 3: ["train", "validation", "test"]}


def split_parser() -> Parser:
    """Return the parser of the step split."""
    parser = make_step_parser("split", "Split a manifest at random. Lines of the same image stay in the same split.")
    parser.add_positional(
        "manifest",
        "--labels",
        type=input_path,
        metavar="MANIFEST",
        help="a manifest, or the output folder of a labeling job",
    )
    parser.add_argument(
        "--output", type=output_dir, required=True, metavar="FOLDER", help="folder for <name>.manifest of each split"
    )
    parser.add_argument(
        "--fractions",
        nargs="+",
        type=float,
        default=[0.9, 0.1],
        metavar="FRACTION",
        help="of the splits, without the last one or with it; default: 0.9 0.1",
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
    return parser


def run_split(flags: argparse.Namespace) -> int:
    """Split a manifest."""
    with staged_s3_paths(flags) as progress:
        options = SplitOptions(flags.fractions, flags.seed, flags.group, flags.stratify, flags.label_attribute)
        outputs = [f"{flags.output}/{name}.manifest" for name in _names(flags.names, len(options.fractions))]
        source = manifest(flags.manifest, *outputs)
        existing = [output for output in outputs if os.path.lexists(output)]
        if existing and not flags.overwrite:
            raise ConfigError(f"output: found {', '.join(existing)}, expected another folder, or --overwrite")
        counts = split(source, outputs, options, progress)
        for output, count in zip(outputs, counts):
            progress.info(f"{count} lines written: {output}")
    return 0


def _names(names: "List[str] | None", count: int) -> List[str]:
    chosen = names or NAMES.get(count, [])
    if len(chosen) != count or any(PurePosixPath(name).name != name for name in chosen):
        raise ConfigError(f"names: found {' '.join(chosen) or 'none'}, expected {count} file names without a folder")
    return chosen


class Step(NamedTuple):
    """Help, parser and function of a step."""

    summary: str
    make_parser: Callable[[], Parser]
    run: Callable[[argparse.Namespace], int]


STEPS = {
    "manifest": Step("write the input manifest of a labeling job for images", manifest_parser, run_manifest),
    "frames": Step("extract every n-th frame of videos", frames_parser, run_frames),
    "join": Step("merge manifests of several labeling jobs", join_parser, run_join),
    "keep": Step("keep the lines and boxes that match conditions", keep_parser, run_keep),
    "drop": Step("drop the lines that match conditions", drop_parser, run_drop),
    "relabel": Step("change classes: take names from keys, rename, merge, drop", relabel_parser, run_relabel),
    "split": Step("split a manifest into train, validation and test", split_parser, run_split),
    "grayscale": Step("convert images to grayscale", grayscale_parser, run_grayscale),
    "augment": Step("write mirrored and rotated copies of labelled images", augment_parser, run_augment),
    "convert": Step("convert labels to another format", convert_parser, run_convert),
    "sheet": Step("draw labelled images on a contact sheet", sheet_parser, run_sheet),
}


def run(arguments: Sequence[str]) -> int:
    """Run a step; its name is the first argument."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("--help", "-h", "help"):
        steps = {name: step.summary for name, step in STEPS.items()}
        print(overview("prepare STEP [flags]", steps, f"{program('prepare STEP')} --help lists the flags of a step"))
        return 0
    if name not in STEPS:
        raise ConfigError(f"prepare: found {name!r}, expected one of {', '.join(STEPS)}")
    return STEPS[name].run(STEPS[name].make_parser().parse_args(list(rest)))

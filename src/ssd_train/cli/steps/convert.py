"""The step convert of prepare: convert labels from one format to another."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Sequence

from ssd_train.cli.flags import add_label_flags, label_options
from ssd_train.cli.places import localised, source, target, target_folder
from ssd_train.cli.steps.common import make_parser, refuse_own_input
from ssd_train.data.formats.video import read_video_frames
from ssd_train.data.labels import LabelledImages, read_labelled
from ssd_train.data.prepare.convert import WRITERS, convert, copy_images, with_sizes
from ssd_train.data.sources import FolderImages
from ssd_train.errors import ConfigError
from ssd_train.progress import Progress

VIDEO = "video"


def run(arguments: Sequence[str]) -> int:
    """Convert labels, and print the number of images and of lost properties."""
    parser = make_parser(
        "convert",
        "Labels of one format as another; --from video reads the frames of a Ground Truth video job. Images are "
        "written only into RecordIO, and where --output_images says.",
    )
    parser.add_argument("--labels", type=source, required=True, metavar="PATH", help="labels, a file or folder")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=", ".join(WRITERS))
    parser.add_argument(
        "--output", type=target, required=True, metavar="PATH", help="the new file, or folder (image_json, voc)"
    )
    parser.add_argument(
        "--images", type=source, metavar="FOLDER", help="the images (default: those in or beside the labels)"
    )
    parser.add_argument(
        "--output_images", type=target_folder, metavar="FOLDER", help="write the images, too, into this new folder"
    )
    parser.add_argument("--on_bad_data", default="error", help="error or skip: what unusable lines do; default: error")
    add_label_flags(parser, "--from")
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        data = _read_video(flags) if flags.labels_format == VIDEO else _read(flags, progress)
        refuse_own_input(flags.output, flags.labels, data.labels.source)
        # YOLO's images folder may lie in the output folder, which `convert` must create first
        inside = flags.output_images and flags.to == "yolo" and flags.output in flags.output_images.parents
        if flags.output_images and not inside:
            data = _with_images(data, flags, progress)
        for line in convert(data, flags.to, flags.output, progress):
            progress.warn(line)
        if inside:
            _with_images(data, flags, progress)
        progress.say(f"{len(data.labels)} images converted to {flags.to}: {flags.output}")
    return 0


def _with_images(data: LabelledImages, flags: argparse.Namespace, progress: Progress) -> LabelledImages:
    data = copy_images(data, flags.output_images, progress)
    progress.say(f"{len(data.labels)} images written: {flags.output_images}")
    return data


def _read(flags: argparse.Namespace, progress: Progress) -> LabelledImages:
    return read_labelled(flags.images, flags.labels, label_options(flags, progress, flags.on_bad_data))


def _read_video(flags: argparse.Namespace) -> LabelledImages:
    if flags.class_names:
        raise ConfigError("class_names: a video job names its classes itself, expected none")
    place = flags.labels
    labels = read_video_frames(place, flags.label_attribute or None, flags.on_bad_data)
    labels = dataclasses.replace(labels, details={**labels.details, "format": VIDEO})
    if flags.images is None:  # a new manifest needs neither frames nor their sizes
        return LabelledImages(labels, FolderImages(place if place.is_dir() else place.parent))
    data = LabelledImages(labels, FolderImages(flags.images))
    return LabelledImages(with_sizes(data), data.images)

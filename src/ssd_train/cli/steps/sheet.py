"""The step sheet of prepare."""

from __future__ import annotations

import re
from typing import Sequence, Tuple

from ssd_train.cli.places import localised, source, target
from ssd_train.cli.steps.common import add_attribute, make_parser
from ssd_train.data.images import encode_like
from ssd_train.data.labels import read_labels
from ssd_train.data.sources import FolderImages
from ssd_train.errors import ConfigError, DataError
from ssd_train.storage import write_bytes_atomic
from ssd_train.view.sheet import Layout, labelled_sheet

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def run(arguments: Sequence[str]) -> int:
    """Write a contact sheet; raises a DataError at the end if some images are unreadable."""
    parser = make_parser("sheet", "Draw labelled images with their boxes on a contact sheet.")
    parser.add_argument("labels", type=source, metavar="LABELS", help="a manifest, or labels of another format")
    parser.add_argument("--images", type=source, required=True, metavar="FOLDER", help="folder of the images")
    parser.add_argument("--output", type=target, required=True, metavar="FILE", help="*.png or *.jpg")
    parser.add_argument(
        "--count", type=int, default=24, help="number of images, evenly spaced in the labels; default: 24"
    )
    parser.add_argument("--columns", type=int, default=4, help="number of columns; default: 4")
    parser.add_argument(
        "--cell", type=_size, default=(360, 300), metavar="WxH", help="size of a cell in pixels; default: 360x300"
    )
    add_attribute(parser)
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        format = FORMATS.get(flags.output.suffix.lower())
        if format is None:
            raise ConfigError(f"output: found {str(flags.output)!r}, expected a suffix among {', '.join(FORMATS)}")
        labels = read_labels(flags.labels, flags.label_attribute)
        images = FolderImages(flags.images)
        sheet, failures = labelled_sheet(labels, images, Layout(flags.count, flags.columns, flags.cell), progress)
        write_bytes_atomic(flags.output, encode_like(sheet, format))
        progress.say(f"{min(flags.count, len(labels)) - len(failures)} of {len(labels)} images: {flags.output}")
        for failure in failures:
            progress.warn(failure)
        if failures:
            raise DataError(f"{len(failures)} images could not be read, the first: {failures[0]}")
    return 0


def _size(text: str) -> Tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise ConfigError(f"cell: found {text!r}, expected WIDTHxHEIGHT in pixels")
    return int(match.group(1)), int(match.group(2))

"""The step grayscale of prepare."""

from __future__ import annotations

from typing import Sequence

from ssd_train.cli.places import localised, source, target_folder
from ssd_train.cli.steps.common import add_writing, make_parser, report, writing
from ssd_train.data.prepare.grayscale import grayscale


def run(arguments: Sequence[str]) -> int:
    """Write grayscale images; raises a DataError at the end if some are unreadable."""
    parser = make_parser(
        "grayscale",
        "Convert images to grayscale, with the same names and formats, so that labels stay valid. Resumes an "
        "interrupted run.",
    )
    parser.add_argument(
        "--images", type=source, required=True, metavar="FOLDER", help="folder of images, with subfolders"
    )
    parser.add_argument(
        "--output", type=target_folder, required=True, metavar="FOLDER", help="output folder, not --images"
    )
    add_writing(parser)
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        done = grayscale(flags.images, flags.output, writing(flags.quality, flags.overwrite), progress)
        report(done, flags.output, progress)
    return 0

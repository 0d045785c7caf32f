"""prepare grayscale."""

from __future__ import annotations

from typing import Sequence

from ssd_train.cli.places import localised, source, target_folder
from ssd_train.cli.steps.common import add_writing, make_parser, report, writing
from ssd_train.data.prepare.grayscale import grayscale


def run(arguments: Sequence[str]) -> int:
    """Write gray pictures; 2 when some could not be read, after all others were written."""
    parser = make_parser(
        "grayscale",
        "Pictures without their colours, under the same names and in the same formats; labels fit as before. "
        "Taken up again where it was broken off.",
    )
    parser.add_argument(
        "--images", type=source, required=True, metavar="FOLDER", help="pictures, also in folders below"
    )
    parser.add_argument("--output", type=target_folder, required=True, metavar="FOLDER", help="another folder")
    add_writing(parser)
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        done = grayscale(flags.images, flags.output, writing(flags.quality, flags.overwrite), progress)
        report(done, flags.output, progress)
    return 0

"""prepare frames."""

from __future__ import annotations

from typing import Sequence

from ssd_train.cli.places import localised, source, target_folder
from ssd_train.cli.steps.common import add_writing, make_parser, writing
from ssd_train.data.prepare.frames import FRAME_FORMATS, Choice, extract_frames


def run(arguments: Sequence[str]) -> int:
    """Write frames; say how many of each video."""
    parser = make_parser("frames", "Videos as pictures: <video>_000000.jpg, counted over all frames.")
    parser.add_argument("videos", nargs="+", type=source, metavar="VIDEO")
    parser.add_argument("--output", type=target_folder, required=True, metavar="FOLDER")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one of N frames; default: 1, all")
    parser.add_argument("--format", choices=FRAME_FORMATS, default="jpg", help="default: jpg")
    add_writing(parser)
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        how = writing(flags.quality, flags.overwrite)
        for done in extract_frames(flags.videos, flags.output, Choice(flags.every, flags.format), how, progress):
            if done.read < done.promised:
                progress.warn(
                    f"{done.video}: {done.read} of {done.promised} frames can be read; the video may be cut off"
                )
            there = f", {done.skipped} were there already" if done.skipped else ""
            progress.say(f"{done.video}: {done.read} frames, {done.written} written{there}: {flags.output}")
    return 0

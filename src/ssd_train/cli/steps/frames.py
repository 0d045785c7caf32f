"""The step frames of prepare."""

from __future__ import annotations

from typing import Sequence

from ssd_train.cli.places import localised, source, target_folder
from ssd_train.cli.steps.common import add_writing, make_parser, writing
from ssd_train.data.prepare.frames import FRAME_FORMATS, Choice, extract_frames


def run(arguments: Sequence[str]) -> int:
    """Write the frames of videos."""
    parser = make_parser("frames", "Extract frames of videos as <video>_000000.jpg, numbered over all frames.")
    parser.add_argument("videos", nargs="+", type=source, metavar="VIDEO")
    parser.add_argument("--output", type=target_folder, required=True, metavar="FOLDER")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="write every N-th frame; default: 1")
    parser.add_argument("--format", choices=FRAME_FORMATS, default="jpg", help="default: jpg")
    add_writing(parser)
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        options = writing(flags.quality, flags.overwrite)
        for done in extract_frames(flags.videos, flags.output, Choice(flags.every, flags.format), options, progress):
            if done.read < done.promised:
                progress.warn(
                    f"{done.video}: {done.read} of {done.promised} frames are readable; the video may be truncated"
                )
            skipped = f", {done.skipped} skipped, which exist" if done.skipped else ""
            progress.say(f"{done.video}: {done.read} frames, {done.written} written{skipped}: {flags.output}")
    return 0

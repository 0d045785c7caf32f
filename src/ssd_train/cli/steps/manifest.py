"""The step manifest of prepare."""

from __future__ import annotations

from typing import Sequence

from ssd_train.cli.places import localised, source, target
from ssd_train.cli.steps.common import make_parser, refuse_own_input
from ssd_train.data.prepare.listing import write_listing


def run(arguments: Sequence[str]) -> int:
    """Write the input manifest of a labeling job."""
    parser = make_parser("manifest", "Write the input manifest of a labeling job.")
    parser.add_argument(
        "sources",
        nargs="+",
        type=source,
        metavar="SOURCE",
        help="a folder, an image, or a file with one name per line",
    )
    parser.add_argument("--output", type=target, required=True, metavar="FILE", help="output manifest")
    parser.add_argument("--prefix", default="", metavar="s3://BUCKET/PATH", help="S3 prefix of the images")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use every N-th image; default: 1")
    parser.add_argument(
        "--name_regex",
        default="",
        metavar="REGEX",
        help="regular expression whose named groups become keys: (?P<color>[a-z]+)_(?P<object>[a-z]+)",
    )
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        refuse_own_input(flags.output, *flags.sources)
        count = write_listing(flags.sources, flags.output, flags.prefix, flags.every, flags.name_regex)
        progress.say(f"{count} lines written: {flags.output}")
    return 0

"""The steps keep and drop of prepare."""

from __future__ import annotations

from typing import Sequence, Tuple

from ssd_train.cli.console import Parser
from ssd_train.cli.places import localised
from ssd_train.cli.steps.common import add_manifest, make_parser, manifest, pairs
from ssd_train.data.prepare.keep import WHEN_EMPTY, Conditions, Sureness, keep, read_ids


def run(arguments: Sequence[str]) -> int:
    """Keep the lines that match all conditions, and their boxes with enough confidence."""
    parser = make_parser("keep", "Keep the lines that match all conditions, and their boxes with enough confidence.")
    _add_flags(parser)
    parser.add_argument("--min_confidence", type=float, metavar="NUMBER", help="minimum confidence of boxes, 0 to 1")
    parser.add_argument(
        "--when_empty",
        choices=WHEN_EMPTY,
        default="drop",
        help="for images whose boxes are all below --min_confidence; default: drop, since they show objects",
    )
    return _select(parser, arguments, invert=False)


def run_drop(arguments: Sequence[str]) -> int:
    """Drop the lines that match all conditions."""
    parser = make_parser("drop", "Drop the lines that match all conditions.")
    _add_flags(parser)
    parser.set_defaults(min_confidence=None, when_empty="drop")
    return _select(parser, arguments, invert=True)


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


def _select(parser: Parser, arguments: Sequence[str], invert: bool) -> int:
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        ids: Tuple[str, ...] = read_ids(flags.ids)
        conditions = Conditions(
            ids, flags.source_regex, pairs(flags.where, "where"), flags.verified, flags.verification
        )
        confidence = None
        if flags.min_confidence is not None:
            confidence = Sureness(flags.min_confidence, flags.when_empty, flags.label_attribute)
        done = keep(manifest(flags.manifest, flags.output), flags.output, conditions, confidence, invert)
        if confidence:
            progress.say(f"{done.boxes_dropped} boxes dropped with confidence below {flags.min_confidence:g}")
        progress.say(f"{done.lines_in} lines read, {done.lines_in - done.lines_out} dropped")
        progress.say(f"{done.lines_out} lines written: {flags.output}")
    return 0

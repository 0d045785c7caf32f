"""prepare relabel."""

from __future__ import annotations

from typing import Sequence

from ssd_train.cli.places import localised
from ssd_train.cli.steps.common import add_manifest, make_parser, manifest, mapping
from ssd_train.data.prepare.relabel import WHEN_EMPTY, Relabelling, relabel


def run(arguments: Sequence[str]) -> int:
    """Write other classes; say how many boxes each has now."""
    parser = make_parser(
        "relabel", "Other classes for the boxes. All names: those after --from_keys; dropped: after --rename."
    )
    add_manifest(parser)
    parser.add_argument(
        "--from_keys",
        default="",
        metavar="KEY,KEY",
        help="name all boxes of a line by its values: color,object -> blue box",
    )
    parser.add_argument("--rename", nargs="+", action="extend", metavar="OLD=NEW", help="several to one NEW are merged")
    parser.add_argument("--drop", nargs="+", action="extend", default=[], metavar="NAME", help="leave out its boxes")
    parser.add_argument(
        "--when_empty",
        choices=WHEN_EMPTY,
        default="background",
        help="an image that loses its last box to --drop; default: background",
    )
    parser.add_argument(
        "--renumber", action="store_true", help="number the classes from 0 without a gap (else their ids stay)"
    )
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        keys = [key.strip() for key in flags.from_keys.split(",") if key.strip()]
        how = Relabelling(keys, mapping(flags.rename, "rename"), flags.drop, flags.when_empty, flags.renumber)
        done = relabel(manifest(flags.manifest, flags.output), flags.output, how, flags.label_attribute)
        for name, class_id in done.ids.items():
            progress.say(f"class {class_id}: {name}, {done.boxes[name]} boxes")
        if done.boxes_dropped:
            progress.say(f"{done.boxes_dropped} boxes dropped, {done.lines_in - done.lines_out} lines dropped")
        progress.say(f"{done.lines_out} lines written: {flags.output}")
    return 0

"""The step relabel of prepare."""

from __future__ import annotations

from typing import Sequence

from ssd_train.cli.places import localised
from ssd_train.cli.steps.common import add_manifest, make_parser, manifest, mapping
from ssd_train.data.prepare.relabel import WHEN_EMPTY, Relabelling, relabel


def run(arguments: Sequence[str]) -> int:
    """Change the classes of a manifest."""
    parser = make_parser("relabel", "Change classes: --from_keys first, then --rename, then --drop.")
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
        choices=WHEN_EMPTY,
        default="background",
        help="for images without boxes after --drop; default: background",
    )
    parser.add_argument(
        "--renumber", action="store_true", help="renumber classes from 0 without gaps (default: keep ids)"
    )
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        keys = [key.strip() for key in flags.from_keys.split(",") if key.strip()]
        rules = Relabelling(keys, mapping(flags.rename, "rename"), flags.drop, flags.when_empty, flags.renumber)
        done = relabel(manifest(flags.manifest, flags.output), flags.output, rules, flags.label_attribute)
        for name, class_id in done.ids.items():
            progress.say(f"class {class_id}: {name}, {done.boxes[name]} boxes")
        if done.boxes_dropped:
            progress.say(f"{done.boxes_dropped} boxes dropped, {done.lines_in - done.lines_out} lines dropped")
        progress.say(f"{done.lines_out} lines written: {flags.output}")
    return 0

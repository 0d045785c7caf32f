"""prepare join."""

from __future__ import annotations

from typing import Sequence

from ssd_train.cli.places import localised, source, target
from ssd_train.cli.steps.common import make_parser, manifest
from ssd_train.data.prepare.join import ON_DUPLICATE, join


def run(arguments: Sequence[str]) -> int:
    """Join manifests; say how many lines each had."""
    parser = make_parser("join", "Several labelling jobs' manifests as one. Lines stay as they are.")
    parser.add_argument(
        "manifests", nargs="+", type=source, metavar="MANIFEST", help="a manifest, or the folder of a labelling job"
    )
    parser.add_argument("--output", type=target, required=True, metavar="FILE", help="the new manifest")
    parser.add_argument("--on_duplicate", choices=ON_DUPLICATE, default="error", help="an image that comes again")
    parser.add_argument("--label_attribute", metavar="NAME", help="what the labels of all jobs are called afterwards")
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        paths = [manifest(place, flags.output) for place in flags.manifests]
        done = join(paths, flags.output, flags.on_duplicate, flags.label_attribute)
        for path, count in zip(paths, done.lines_in):
            progress.say(f"{count} lines read: {path}")
        if done.duplicates:
            progress.warn(f"{done.duplicates} images come again: {flags.on_duplicate}")
        if done.renumbered:
            ids = ", ".join(f"{class_id} {name}" for name, class_id in done.renumbered.items())
            progress.warn(f"one class id had several names; the ids are now: {ids}")
        progress.say(f"{done.lines_out} lines written: {flags.output}")
    return 0

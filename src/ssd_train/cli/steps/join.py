"""The step join of prepare."""

from __future__ import annotations

from typing import Sequence

from ssd_train.cli.places import localised, source, target
from ssd_train.cli.steps.common import make_parser, manifest
from ssd_train.data.prepare.join import ON_DUPLICATE, join


def run(arguments: Sequence[str]) -> int:
    """Merge manifests."""
    parser = make_parser("join", "Merge the manifests of several labeling jobs. Lines are not changed.")
    parser.add_argument(
        "manifests", nargs="+", type=source, metavar="MANIFEST", help="manifest, or folder of a labeling job"
    )
    parser.add_argument("--output", type=target, required=True, metavar="FILE", help="merged manifest")
    parser.add_argument("--on_duplicate", choices=ON_DUPLICATE, default="error", help="for images in several manifests")
    parser.add_argument("--label_attribute", metavar="NAME", help="label attribute in the merged manifest")
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        paths = [manifest(path, flags.output) for path in flags.manifests]
        done = join(paths, flags.output, flags.on_duplicate, flags.label_attribute)
        for path, count in zip(paths, done.lines_in):
            progress.say(f"{count} lines read: {path}")
        if done.duplicates:
            progress.warn(f"{done.duplicates} duplicate images: {flags.on_duplicate}")
        if done.renumbered:
            ids = ", ".join(f"{class_id} {name}" for name, class_id in done.renumbered.items())
            progress.warn(f"a class id had several names; new ids: {ids}")
        progress.say(f"{done.lines_out} lines written: {flags.output}")
    return 0

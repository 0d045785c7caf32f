"""The step split of prepare."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import List, Sequence

from ssd_train.cli.places import localised, source, target_folder
from ssd_train.cli.steps.common import add_attribute, make_parser, manifest
from ssd_train.data.prepare.split import Splitting, split
from ssd_train.errors import ConfigError

NAMES = {2: ["train", "validation"], 3: ["train", "validation", "test"]}


def run(arguments: Sequence[str]) -> int:
    """Split a manifest."""
    parser = make_parser("split", "Split a manifest at random. Lines of the same image stay in the same split.")
    parser.add_argument(
        "manifest", type=source, metavar="MANIFEST", help="a manifest, or the output folder of a labeling job"
    )
    parser.add_argument(
        "--output", type=target_folder, required=True, metavar="FOLDER", help="folder for <name>.manifest of each split"
    )
    parser.add_argument(
        "--fractions",
        nargs="+",
        type=float,
        default=[0.9, 0.1],
        metavar="FRACTION",
        help="of the splits, without the last one or with it; default: 0.9 0.1",
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="default: train validation (test)")
    parser.add_argument("--seed", type=int, default=0, help="random seed; default: 0")
    parser.add_argument(
        "--group",
        default="",
        metavar="REGEX",
        help="regular expression; images whose names have the same match (or the same first group, if it has "
        "groups) stay in the same split, for example the frames of a video",
    )
    parser.add_argument(
        "--stratify", action="store_true", help="distribute classes, and empty images, evenly over the splits"
    )
    add_attribute(parser)
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        options = Splitting(flags.fractions, flags.seed, flags.group, flags.stratify, flags.label_attribute)
        outputs = [f"{flags.output}/{name}.manifest" for name in _names(flags.names, len(options.fractions))]
        counts = split(manifest(flags.manifest, *outputs), outputs, options, progress)
        for output, count in zip(outputs, counts):
            progress.say(f"{count} lines written: {output}")
    return 0


def _names(names: "List[str] | None", count: int) -> List[str]:
    chosen = names or NAMES.get(count, [])
    if len(chosen) != count or any(PurePosixPath(name).name != name for name in chosen):
        raise ConfigError(f"names: found {' '.join(chosen) or 'none'}, expected {count} file names without a folder")
    return chosen

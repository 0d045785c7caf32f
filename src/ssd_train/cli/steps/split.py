"""prepare split."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import List, Sequence

from ssd_train.cli.places import localised, source, target_folder
from ssd_train.cli.steps.common import add_attribute, make_parser, manifest
from ssd_train.data.prepare.split import Splitting, split
from ssd_train.errors import ConfigError

NAMES = {2: ["train", "validation"], 3: ["train", "validation", "test"]}


def run(arguments: Sequence[str]) -> int:
    """Split; say how many lines each part got."""
    parser = make_parser("split", "A manifest in parts by chance. Lines of one image are never parted.")
    parser.add_argument(
        "manifest", type=source, metavar="MANIFEST", help="a manifest, or the folder of a labelling job"
    )
    parser.add_argument(
        "--output", type=target_folder, required=True, metavar="FOLDER", help="where <name>.manifest of each part goes"
    )
    parser.add_argument(
        "--fractions",
        nargs="+",
        type=float,
        default=[0.9, 0.1],
        metavar="SHARE",
        help="default: 0.9 0.1 (0.9 says the same)",
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the parts; default: train validation (test)")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle; default: 0")
    parser.add_argument(
        "--group",
        default="",
        metavar="REGEX",
        help="images in whose names it finds the same stay together, as a video's frames: the same text in its first "
        "bracket, or without brackets the same whole match",
    )
    parser.add_argument(
        "--stratify", action="store_true", help="spread each class, and background, evenly over the parts"
    )
    add_attribute(parser)
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        how = Splitting(flags.fractions, flags.seed, flags.group, flags.stratify, flags.label_attribute)
        outputs = [f"{flags.output}/{name}.manifest" for name in _names(flags.names, len(how.fractions))]
        counts = split(manifest(flags.manifest, *outputs), outputs, how, progress)
        for output, count in zip(outputs, counts):
            progress.say(f"{count} lines written: {output}")
    return 0


def _names(names: "List[str] | None", count: int) -> List[str]:
    found = names or NAMES.get(count, [])
    if len(found) != count or any(PurePosixPath(name).name != name for name in found):
        raise ConfigError(f"names: found {' '.join(found) or 'none'}, expected {count} file names without a folder")
    return found

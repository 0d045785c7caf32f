"""prepare augment."""

from __future__ import annotations

from typing import Sequence

from ssd_train.cli.places import localised, source, target_folder
from ssd_train.cli.steps.common import add_writing, make_parser, manifest, report, writing
from ssd_train.data.prepare.augment import OPERATIONS, augment_labels
from ssd_train.data.prepare.augment_images import augment_images, sizes_of_pictures
from ssd_train.errors import ConfigError


def run(arguments: Sequence[str]) -> int:
    """Write pictures, then the manifest that names them; no manifest when some pictures could not be read."""
    parser = make_parser("augment", "Of each labelled picture five: itself, mirrored in two ways, turned in two ways.")
    parser.add_argument(
        "manifest", type=source, metavar="MANIFEST", help="a manifest, or the folder of a labelling job"
    )
    parser.add_argument("--images", type=source, metavar="FOLDER", help="the pictures that the manifest names")
    parser.add_argument(
        "--output", type=target_folder, required=True, metavar="FOLDER", help="where augmented.manifest and images/ go"
    )
    parser.add_argument("--operations", nargs="+", default=list(OPERATIONS), metavar="NAME", help=", ".join(OPERATIONS))
    parser.add_argument(
        "--annotations_only", action="store_true", help="write no pictures; sizes are those of the labels"
    )
    add_writing(parser)
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        if flags.annotations_only == bool(flags.images):
            raise ConfigError("augment: expected either --images FOLDER or --annotations_only")
        output = f"{flags.output}/augmented.manifest"
        labels = manifest(flags.manifest, output)
        if flags.images:
            folders, how = (flags.images, f"{flags.output}/images"), writing(flags.quality, flags.overwrite)
            report(augment_images(labels, folders, flags.operations, how, progress), folders[1], progress)
        size_of = sizes_of_pictures(flags.images) if flags.images else None
        progress.say(f"{augment_labels(labels, output, flags.operations, size_of)} lines written: {output}")
    return 0

"""The step augment of prepare."""

from __future__ import annotations

from typing import Sequence

from ssd_train.cli.places import localised, source, target_folder
from ssd_train.cli.steps.common import add_writing, make_parser, manifest, report, writing
from ssd_train.data.prepare.augment import OPERATIONS, augment_labels
from ssd_train.data.prepare.augment_images import augment_images, sizes_of_pictures
from ssd_train.errors import ConfigError


def run(arguments: Sequence[str]) -> int:
    """Write augmented images, then their manifest; if an image is unreadable, no manifest is written."""
    parser = make_parser("augment", "Write five versions of each labelled image: original, two mirrored, two rotated.")
    parser.add_argument(
        "manifest", type=source, metavar="MANIFEST", help="a manifest, or the output folder of a labeling job"
    )
    parser.add_argument("--images", type=source, metavar="FOLDER", help="folder of the images")
    parser.add_argument(
        "--output", type=target_folder, required=True, metavar="FOLDER", help="for augmented.manifest and images/"
    )
    parser.add_argument("--operations", nargs="+", default=list(OPERATIONS), metavar="NAME", help=", ".join(OPERATIONS))
    parser.add_argument(
        "--annotations_only", action="store_true", help="write the manifest only, with the image sizes of the labels"
    )
    add_writing(parser)
    flags = parser.parse_args(list(arguments))
    with localised(flags) as progress:
        if flags.annotations_only == bool(flags.images):
            raise ConfigError("augment: expected either --images FOLDER or --annotations_only")
        output = f"{flags.output}/augmented.manifest"
        labels = manifest(flags.manifest, output)
        if flags.images:
            folders, options = (flags.images, f"{flags.output}/images"), writing(flags.quality, flags.overwrite)
            report(augment_images(labels, folders, flags.operations, options, progress), folders[1], progress)
        size_of = sizes_of_pictures(flags.images) if flags.images else None
        progress.say(f"{augment_labels(labels, output, flags.operations, size_of)} lines written: {output}")
    return 0

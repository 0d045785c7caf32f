"""The command export."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Sequence

from ssd_train.cli.arguments import Parser, add_label_flags, label_options, program
from ssd_train.cli.paths import add_input, add_output, find_images, staged_s3_paths
from ssd_train.data.labels import load_labels
from ssd_train.errors import ConfigError
from ssd_train.progress import Progress
from ssd_train.storage.archive import open_model

if TYPE_CHECKING:
    from ssd_train.deploy.export.export import VerificationOptions

FORMATS = {
    "symbol": "MXNet symbol and parameters, in a folder",
    "int8": "the same with 8-bit convolutions, for CPUs",
    "onnx": "file for ONNX Runtime, OpenVINO and others",
    "onnx-int8": "the same with 8-bit convolutions",
}
EIGHT_BITS = ("int8", "onnx-int8")
INPUTS = {"uint8": "pixels", "float": "normalised"}


def run(arguments: Sequence[str]) -> int:
    """Export a model and verify it."""
    flags = make_parser().parse_args(list(arguments))
    if flags.input == "float" and not flags.format.startswith("onnx"):
        raise ConfigError(f"input: found 'float' with format {flags.format!r}, expected an ONNX format")
    if not 0 <= flags.max_map_drop <= 1:
        raise ConfigError(f"max_map_drop: found {flags.max_map_drop}, expected 0 to 1")
    if not flags.nms and flags.format != "onnx":
        raise ConfigError(f"nms: found 0 with format {flags.format!r}, expected format 'onnx'")
    with staged_s3_paths(flags) as progress, open_model(flags.model) as folder:
        from ssd_train.artifacts.metadata import RAW_KIND
        from ssd_train.deploy.export.export import export

        format = flags.format if flags.nms else RAW_KIND
        export(folder, format, flags.output, INPUTS[flags.input], _proof(flags, progress), progress)
        progress.info(f"written: {flags.output}")
    return 0


def _proof(flags: argparse.Namespace, progress: Progress) -> "VerificationOptions":
    from ssd_train.deploy.export.export import VerificationOptions

    has_data = flags.images is not None or flags.labels is not None
    if flags.format in EIGHT_BITS:
        validation = load_labels(flags.images, flags.labels, label_options(flags, progress)) if has_data else None
        images = find_images(flags.calibration or [], progress)
        return VerificationOptions(images, validation, flags.max_map_drop, flags.overwrite)
    images = find_images([flags.images] if flags.images is not None else [], progress)
    return VerificationOptions(images, overwrite=flags.overwrite)


def make_parser() -> Parser:
    """Return the parser of export."""
    parser = Parser(
        prog=program("export"),
        description="Export a trained model. It is verified before it is written: a 32-bit export must give the same "
        "detections as the model, an 8-bit export must keep its mAP.",
        epilog="formats:\n" + "\n".join(f"  {name:<10} {text}" for name, text in FORMATS.items()),
    )
    add_input(parser, "--model", required=True, help="a model folder or its model.tar.gz")
    parser.add_argument("--format", required=True, choices=tuple(FORMATS), help="export format, see below")
    add_output(parser, "--output", required=True, metavar="PATH", help="a file .onnx, or a folder (symbol, int8)")
    parser.add_argument("--overwrite", action="store_true", help="replace the export of another model in --output")
    parser.add_argument(
        "--input",
        choices=tuple(INPUTS),
        default="uint8",
        help="input of the ONNX file: uint8: RGB pixels (N, S, S, 3); float: normalised (N, 3, S, S)",
    )
    parser.add_argument(
        "--nms",
        type=int,
        choices=(0, 1),
        default=1,
        help="0: an ONNX file that ends before non-maximum suppression, with the outputs scores (N, anchors, classes) "
        "and boxes (N, anchors, 4), for runtimes that lack it, such as OpenCV's",
    )
    add_input(
        parser,
        "--images",
        metavar="FOLDER",
        help="images for verification; 32 bits: default: synthetic ones; 8 bits: default: those in or next to the "
        "labels",
    )
    add_input(parser, "--labels", help="labels of the images, in any format, for 8 bits")
    add_label_flags(parser)
    add_input(
        parser, "--calibration", nargs="+", help="calibration images or folders for 8 bits (default: those of --images)"
    )
    parser.add_argument("--max_map_drop", type=float, default=0.01, help="maximum loss of mAP in 8 bits, 0 to 1")
    return parser

"""export: a trained model in other forms."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Sequence

from ssd_train.archives import opened_model
from ssd_train.cli.console import Parser
from ssd_train.cli.flags import add_label_flags, label_options
from ssd_train.cli.pictures import find_pictures
from ssd_train.cli.places import localised, source, target
from ssd_train.data.labels import read_labelled
from ssd_train.errors import ConfigError
from ssd_train.progress import Progress

if TYPE_CHECKING:
    from ssd_train.deploy.export import Proof

FORMATS = {
    "symbol": "MXNet's deployment files, in a folder",
    "int8": "the same with convolutions in 8 bits, for CPUs",
    "onnx": "a file for ONNX Runtime, OpenVINO and others",
    "onnx-int8": "the same with convolutions in 8 bits",
}
EIGHT_BITS = ("int8", "onnx-int8")
INPUTS = {"uint8": "pixels", "float": "normalised"}


def run(arguments: Sequence[str]) -> int:
    """Write the model in the form asked for, once it has been proven."""
    flags = make_parser().parse_args(list(arguments))
    if flags.input == "float" and not flags.format.startswith("onnx"):
        raise ConfigError(f"input: found 'float' with format {flags.format!r}, expected an ONNX format")
    if not 0 <= flags.max_map_drop <= 1:
        raise ConfigError(f"max_map_drop: found {flags.max_map_drop}, expected 0 to 1")
    with localised(flags) as progress, opened_model(flags.model) as folder:
        from ssd_train.deploy.export import export

        export(folder, flags.format, flags.output, INPUTS[flags.input], _proof(flags, progress), progress)
        progress.say(f"written: {flags.output}")
    return 0


def _proof(flags: argparse.Namespace, progress: Progress) -> "Proof":
    from ssd_train.deploy.export import Proof

    given = flags.images is not None or flags.labels is not None
    if flags.format in EIGHT_BITS:
        validation = read_labelled(flags.images, flags.labels, label_options(flags, progress)) if given else None
        return Proof(find_pictures(flags.calibration or []), validation, flags.max_map_drop)
    return Proof(find_pictures([flags.images] if flags.images is not None else []))


def make_parser() -> Parser:
    """The flags of export."""
    parser = Parser(
        prog="python -m ssd_train export",
        description="Write a trained model in another form. It is compared with the model before it is written: in 32 "
        "bits it has to answer the same, in 8 bits it has to score as well.",
        epilog="formats:\n" + "\n".join(f"  {name:<10} {text}" for name, text in FORMATS.items()),
    )
    parser.add_argument(
        "--model", type=source, required=True, metavar="PATH", help="a model folder or its model.tar.gz"
    )
    parser.add_argument("--format", required=True, choices=tuple(FORMATS), help="see below")
    parser.add_argument(
        "--output", type=target, required=True, metavar="PATH", help="a file .onnx, or a folder (symbol, int8)"
    )
    parser.add_argument(
        "--input",
        choices=tuple(INPUTS),
        default="uint8",
        help="what the ONNX file takes: uint8, RGB pixels (N, side, side, 3); float, normalised (N, 3, side, side)",
    )
    parser.add_argument(
        "--images",
        type=source,
        metavar="FOLDER",
        help="pictures with objects: what is compared (default: drawn ones), what 8 bits are measured on "
        "(default: those in or beside the labels)",
    )
    parser.add_argument("--labels", type=source, metavar="PATH", help="their labels of any format, for 8 bits")
    add_label_flags(parser)
    parser.add_argument(
        "--calibration",
        type=source,
        nargs="+",
        metavar="PATH",
        help="pictures, or folders of them, that 8 bits are fitted to (default: those that they are measured on)",
    )
    parser.add_argument(
        "--max_map_drop", type=float, default=0.01, help="by how much mAP may fall in 8 bits, 0 to 1; default: 0.01"
    )
    return parser

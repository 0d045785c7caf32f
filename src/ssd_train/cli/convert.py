"""The command convert: models of SageMaker's built-in Object Detection algorithm."""

from __future__ import annotations

from typing import Sequence

from ssd_train.cli.arguments import Parser, program
from ssd_train.cli.paths import add_input, add_output_dir, staged_s3_paths
from ssd_train.data.labels import parse_class_names
from ssd_train.storage.archive import open_model

SUPPRESSION = {"class-agnostic": False, "per-class": True}


def run(arguments: Sequence[str]) -> int:
    """Convert an archive and write its deployment files."""
    flags = make_parser().parse_args(list(arguments))
    names = parse_class_names(flags.class_names)
    with staged_s3_paths(flags) as progress, open_model(flags.model) as folder:
        from ssd_train.deploy.builtin import convert

        description = convert(folder, flags.output, names, SUPPRESSION[flags.nms], progress, flags.overwrite)
        if names is None:
            progress.warning(
                f"found no class names, using {', '.join(description.class_names)}; set --class_names A,B,..."
            )
        progress.info(f"written: {flags.output}")
    return 0


def make_parser() -> Parser:
    """Return the parser of convert."""
    parser = Parser(
        prog=program("convert"),
        description="Convert a model of SageMaker's built-in Object Detection algorithm for predict, evaluate, export "
        "and serve. The converted model cannot be trained further.",
    )
    add_input(
        parser,
        "--model",
        required=True,
        help="its model.tar.gz, or a folder with model_algo_1-symbol.json, model_algo_1-0000.params, hyperparams.json",
    )
    add_output_dir(parser, "--output", required=True, help="folder of the converted model")
    parser.add_argument("--overwrite", action="store_true", help="replace another converted model in --output")
    parser.add_argument(
        "--nms",
        choices=tuple(SUPPRESSION),
        default="class-agnostic",
        help="non-maximum suppression across classes, as in the algorithm, or within each class",
    )
    parser.add_argument(
        "--class_names", default="", metavar="A,B,...", help="in the order of class ids; default: class_0,class_1,..."
    )
    return parser

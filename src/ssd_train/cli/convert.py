"""convert: an archive of SageMaker's built-in Object Detection algorithm as a model that can be used."""

from __future__ import annotations

from typing import Sequence

from ssd_train.archives import opened_model
from ssd_train.cli.console import Parser
from ssd_train.cli.places import localised, source, target_folder
from ssd_train.data.labels import parse_class_names

SUPPRESSION = {"class-agnostic": False, "per-class": True}


def run(arguments: Sequence[str]) -> int:
    """Write the deployable form."""
    flags = make_parser().parse_args(list(arguments))
    names = parse_class_names(flags.class_names)
    with localised(flags) as progress, opened_model(flags.model) as folder:
        from ssd_train.deploy.convert import Conversion, convert

        description = convert(folder, flags.output, Conversion(names, SUPPRESSION[flags.nms]), progress)
        if names is None:
            progress.warn(
                f"no class names in the archive: {', '.join(description.class_names)} it is; --class_names A,B,..."
            )
        progress.say(f"written: {flags.output}")
    return 0


def make_parser() -> Parser:
    """The flags of convert."""
    parser = Parser(
        prog="python -m ssd_train convert",
        description="Make a model of SageMaker's built-in Object Detection algorithm deployable. predict, evaluate, "
        "export and serve take what is written; it cannot be trained further.",
    )
    parser.add_argument(
        "--model",
        type=source,
        required=True,
        metavar="PATH",
        help="its model.tar.gz, or a folder with model_algo_1-symbol.json, model_algo_1-0000.params, hyperparams.json",
    )
    parser.add_argument("--output", type=target_folder, required=True, metavar="FOLDER", help="where the model goes")
    parser.add_argument(
        "--nms",
        choices=tuple(SUPPRESSION),
        default="class-agnostic",
        help="which boxes suppress each other: all that overlap, as the algorithm does, or those of one class; "
        "default: class-agnostic",
    )
    parser.add_argument(
        "--class_names", default="", metavar="A,B,...", help="in the order of class ids; default: class_0,class_1,..."
    )
    return parser

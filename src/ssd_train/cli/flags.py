"""Flags that several commands share: label reading, inference engine."""

from __future__ import annotations

import argparse

from ssd_train import builtin
from ssd_train.config import LABEL_FORMATS
from ssd_train.data.labels import LabelOptions, parse_class_names
from ssd_train.deploy.detector import ENGINES
from ssd_train.progress import Progress
from ssd_train.remote import image_fetcher

MODEL_HELP = "a model folder, its model.tar.gz, or an .onnx file"


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose the inference engine and its device."""
    parser.add_argument(
        "--devices",
        default="auto",
        help="of MXNet: auto (the first GPU or else the CPU), cpu, gpu, gpu:1; default: auto",
    )
    parser.add_argument(
        "--engine",
        default="auto",
        choices=("auto", *ENGINES),
        help="what runs the model: auto (what fits it and is installed), mxnet, symbol (an exported symbol, by MXNet), "
        "onnxruntime, openvino; default: auto",
    )


def add_label_flags(parser: argparse.ArgumentParser, *other_names: str) -> None:
    """Add the flags for reading labels, which `label_options` evaluates.

    `other_names` are aliases of --labels_format.
    """
    parser.add_argument(
        "--labels_format",
        *other_names,
        dest="labels_format",
        default="",
        metavar="FORMAT",
        help=f"{', '.join(LABEL_FORMATS)}, or a channel's content type (default: found by looking)",
    )
    parser.add_argument(
        "--split",
        default="",
        metavar="NAME",
        help="only this set of those that the data names (ImageSets/Main, data.yaml): train, val, test, ...",
    )
    parser.add_argument(
        "--verified",
        default="",
        metavar="NAME",
        help="only images whose labels a Ground Truth verification job called so, e.g. good",
    )
    add_fetch_flag(parser)
    parser.add_argument("--label_attribute", default="", metavar="NAME", help="default: by type and date")
    parser.add_argument(
        "--class_names", default="", metavar="A,B,...", help="names for labels without (RecordIO), in order of ids"
    )


def add_fetch_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag for downloading images from the S3 URLs in the labels."""
    parser.add_argument(
        "--fetch_images",
        type=int,
        choices=(0, 1),
        default=0,
        help="1: images that labels name on S3 and the folder lacks are got from there; default: 0",
    )


def label_options(flags: argparse.Namespace, progress: Progress, on_bad: str = "error") -> LabelOptions:
    """Return the options for reading labels from parsed flags.

    Raises:
        ConfigError: a value is invalid.
    """
    format = builtin.CONTENT_TYPES.get(flags.labels_format.lower(), flags.labels_format)
    fetch = image_fetcher(progress) if flags.fetch_images else None
    names = parse_class_names(flags.class_names)
    return LabelOptions(format, flags.label_attribute, on_bad, names, fetch, flags.split, flags.verified)

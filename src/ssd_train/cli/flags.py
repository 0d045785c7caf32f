"""Flags that several commands have: how labels are read."""

from __future__ import annotations

import argparse

from ssd_train.config import CONTENT_TYPES, LABEL_FORMATS
from ssd_train.data.labels import LabelOptions, parse_class_names


def add_label_flags(parser: argparse.ArgumentParser, format_flag: str = "--labels_format") -> None:
    """How labels are read; `label_options` takes their values."""
    parser.add_argument(
        format_flag,
        dest="labels_format",
        default="",
        metavar="FORMAT",
        help=f"{', '.join(LABEL_FORMATS)}, or a channel's content type (default: found by looking)",
    )
    parser.add_argument("--label_attribute", default="", metavar="NAME", help="default: by type and date")
    parser.add_argument(
        "--class_names", default="", metavar="A,B,...", help="names for labels without (RecordIO), in order of ids"
    )


def label_options(flags: argparse.Namespace, on_bad: str = "error") -> LabelOptions:
    """The values of the flags; a ConfigError names one that is wrong."""
    format = CONTENT_TYPES.get(flags.labels_format.lower(), flags.labels_format)
    return LabelOptions(format, flags.label_attribute, on_bad, parse_class_names(flags.class_names))

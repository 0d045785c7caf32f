"""Flags, path checks and reports shared by the steps of prepare."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple

from ssd_train.cli.console import Parser
from ssd_train.cli.places import source, target
from ssd_train.data.formats.ground_truth import find_manifest
from ssd_train.data.prepare.pictures import Processed, Writing
from ssd_train.errors import ConfigError, DataError
from ssd_train.progress import Progress


def make_parser(step: str, description: str) -> Parser:
    """Return the parser of a step, without flags."""
    return Parser(prog=f"python -m ssd_train prepare {step}", description=description)


def add_manifest(parser: Parser) -> None:
    """Add flags for an input manifest, an output manifest and the label attribute."""
    parser.add_argument(
        "manifest", type=source, metavar="MANIFEST", help="a manifest, or the output folder of a labeling job"
    )
    parser.add_argument("--output", type=target, required=True, metavar="FILE", help="the new manifest")
    add_attribute(parser)


def add_attribute(parser: Parser) -> None:
    """Add the flag for the label attribute."""
    parser.add_argument("--label_attribute", metavar="NAME", help="label attribute (default: that of the newest job)")


def add_writing(parser: Parser) -> None:
    """Add flags for writing images."""
    parser.add_argument("--quality", type=int, default=95, help="quality of JPEG and WebP, 1 to 100; default: 95")
    parser.add_argument("--overwrite", action="store_true", help="overwrite existing files")


def writing(quality: int, overwrite: bool) -> Writing:
    """Return the options of `add_writing`; raises ConfigError for an invalid quality."""
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality: found {quality}, expected 1 to 100")
    return Writing(quality, overwrite)


def manifest(source: Path, *outputs: "str | Path") -> str:
    """Return the path of a manifest, or of that in a folder; raises ConfigError if it is one of `outputs`."""
    path = find_manifest(source)
    for output in outputs:
        refuse_own_input(output, path)
    return str(path)


def refuse_own_input(output: "str | Path", *inputs: "str | Path") -> None:
    """Raise a ConfigError if `output` is the same file as one of `inputs`, to protect labels."""
    if os.path.realpath(output) in [os.path.realpath(path) for path in inputs]:
        raise ConfigError(f"output: found {output}, which is an input, expected another path")


def pairs(texts: Optional[Sequence[str]], flag: str) -> Tuple[Tuple[str, str], ...]:
    """Parse KEY=VALUE texts; the first equals sign separates."""
    parts = [text.partition("=") for text in texts or ()]
    bad = [key for key, equals, _ in parts if not key or not equals]
    if bad:
        raise ConfigError(f"--{flag}: found {bad[0]!r}, expected KEY=VALUE")
    return tuple((key, value) for key, _, value in parts)


def mapping(texts: Optional[Sequence[str]], flag: str) -> Dict[str, str]:
    """Parse KEY=VALUE texts with unique keys into a dictionary."""
    values: Dict[str, str] = {}
    for key, value in pairs(texts, flag):
        if key in values:
            raise ConfigError(f"--{flag}: found {key!r} twice, expected each once")
        values[key] = value
    return values


def report(done: Processed, output: Path, progress: Progress) -> None:
    """Report processed images; raises a DataError (exit code 2) if some could not be read."""
    for line in [*done.notes, *done.failures]:
        progress.warn(line)
    skipped = f", {done.skipped} skipped, which exist" if done.skipped else ""
    progress.say(f"{done.written} images written{skipped}: {output}")
    if done.failures:
        total = done.written + done.skipped + len(done.failures)
        raise DataError(f"{len(done.failures)} of {total} images could not be read, the first: {done.failures[0]}")

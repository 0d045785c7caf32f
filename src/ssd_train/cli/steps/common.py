"""What the steps of `prepare` share: flags, the manifest that a path stands for, and how they end."""

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
    """A parser without flags yet."""
    return Parser(prog=f"python -m ssd_train prepare {step}", description=description)


def add_manifest(parser: Parser) -> None:
    """One manifest in, one out, and the attribute that is read."""
    parser.add_argument(
        "manifest", type=source, metavar="MANIFEST", help="a manifest, or the folder of a labelling job"
    )
    parser.add_argument("--output", type=target, required=True, metavar="FILE", help="the new manifest")
    add_attribute(parser)


def add_attribute(parser: Parser) -> None:
    """Which labels of a line are meant."""
    parser.add_argument("--label_attribute", metavar="NAME", help="which labels (default: those of the newest job)")


def add_writing(parser: Parser) -> None:
    """How pictures are written."""
    parser.add_argument("--quality", type=int, default=95, help="of JPEG and WebP, 1 to 100; default: 95")
    parser.add_argument("--overwrite", action="store_true", help="make anew what is there already")


def writing(quality: int, overwrite: bool) -> Writing:
    """The values of those flags, checked."""
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality: found {quality}, expected 1 to 100")
    return Writing(quality, overwrite)


def manifest(place: Path, *outputs: "str | Path") -> str:
    """The manifest at `place`, or in the folder `place`; a ConfigError when it is one of `outputs`."""
    found = find_manifest(place)
    for output in outputs:
        refuse_own_input(output, found)
    return str(found)


def refuse_own_input(output: "str | Path", *inputs: "str | Path") -> None:
    """A ConfigError when `output` is one of `inputs`, by whatever name: labels are too dear to be written over."""
    if os.path.realpath(output) in [os.path.realpath(given) for given in inputs]:
        raise ConfigError(f"output: found {output}, which is what is read, expected another place")


def pairs(texts: Optional[Sequence[str]], flag: str) -> Tuple[Tuple[str, str], ...]:
    """KEY=VALUE texts, parted at the first equals sign."""
    found = [text.partition("=") for text in texts or ()]
    bad = [key for key, equals, _ in found if not key or not equals]
    if bad:
        raise ConfigError(f"--{flag}: found {bad[0]!r}, expected KEY=VALUE")
    return tuple((key, value) for key, _, value in found)


def mapping(texts: Optional[Sequence[str]], flag: str) -> Dict[str, str]:
    """As `pairs`, each key once."""
    found = pairs(texts, flag)
    twice = [key for key, _ in found if [other for other, _ in found].count(key) > 1]
    if twice:
        raise ConfigError(f"--{flag}: found {twice[0]!r} twice, expected each once")
    return dict(found)


def report(done: Processed, output: Path, progress: Progress) -> None:
    """Say what became of pictures; a DataError, so that the command returns 2, when some could not be read."""
    for line in [*done.notes, *done.failures]:
        progress.warn(line)
    there = f", {done.skipped} were there already" if done.skipped else ""
    progress.say(f"{done.written} pictures done{there}: {output}")
    if done.failures:
        total = done.written + done.skipped + len(done.failures)
        raise DataError(f"{len(done.failures)} of {total} pictures could not be read, the first: {done.failures[0]}")

"""Flags, names, tags and output shared by the modes of launch."""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any, Collection, Dict, Optional, Sequence, Tuple

from ssd_train.cli.console import Parser
from ssd_train.errors import ConfigError
from ssd_train.launch.amazon import Amazon
from ssd_train.launch.job import NAME_LENGTH, check_name
from ssd_train.progress import Progress


def make_parser(mode: str, description: str, others: Collection[str] = ()) -> Parser:
    """Return the parser of a mode with the common flags; `others` as in Parser."""
    parser = Parser(others, prog=f"python -m ssd_train launch{mode}", description=description)
    parser.add_argument("--region", metavar="NAME", help="AWS region; default: that of the AWS configuration")
    return parser


def add_job_flags(parser: Parser) -> None:
    """Add flags for role, output, container and tags."""
    parser.add_argument("--role", required=True, metavar="ROLE", help="name or ARN of the IAM role for SageMaker")
    parser.add_argument("--output", required=True, metavar="s3://BUCKET/PREFIX", help="S3 prefix of all output")
    parser.add_argument("--image", default="", metavar="URI", help="container image (default: AWS's for MXNet 1.9.0)")
    parser.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="tag; may be repeated")
    parser.add_argument(
        "--source_dir",
        type=Path,
        metavar="FOLDER",
        help="folder of the entry point (default: entry_point/ next to src/)",
    )
    parser.add_argument("--dry_run", action="store_true", help="print the requests as JSON without sending them")


def pairs(texts: Sequence[str], flag: str) -> Dict[str, str]:
    """Parse KEY=VALUE texts into a dictionary."""
    values: Dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals or key in values:
            raise ConfigError(f"{flag}: found {text!r}, expected KEY=VALUE with unique keys")
        values[key] = value
    return values


def words(text: str) -> Tuple[str, ...]:
    """Split a comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_named(parser: Parser, mode: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the flags of a mode; raises ConfigError if its name is invalid for SageMaker."""
    flags = parser.parse_args(list(arguments))
    check_name(mode, getattr(flags, mode))
    return flags


def stamped(name: str, length: int = NAME_LENGTH) -> str:
    """Return `name` with a timestamp, truncated to `length` characters."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    return f"{name[: length - len(now) - 1].rstrip('-')}-{now}"


def account(flags: argparse.Namespace) -> "Tuple[Optional[Amazon], str, str]":
    """Return client, region and role ARN.

    The client is None if no request is needed: with --dry_run, --region and a role ARN.
    """
    if flags.dry_run and flags.region and flags.role.startswith("arn:"):
        return None, flags.region, flags.role
    amazon = Amazon(flags.region)
    return amazon, amazon.region, amazon.role_arn(flags.role)


def show(requests: Dict[str, Any], progress: Progress) -> int:
    """Print requests by operation as JSON; returns the exit code."""
    progress.say(json.dumps(requests, indent=2))
    return 0

"""What the ways of `launch` share: flags of the account, names, tags, and how requests are shown."""

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
    """A parser with the flags that all have; `others` are known names besides."""
    parser = Parser(others, prog=f"python -m ssd_train launch{mode}", description=description)
    parser.add_argument("--region", metavar="NAME", help="default: that of the AWS configuration")
    return parser


def add_job_flags(parser: Parser) -> None:
    """Rights, place and labels of what is made."""
    parser.add_argument("--role", required=True, metavar="ROLE", help="IAM role that SageMaker takes: its name or ARN")
    parser.add_argument("--output", required=True, metavar="s3://BUCKET/PREFIX", help="where everything made is put")
    parser.add_argument("--image", default="", metavar="URI", help="container (default: AWS's for MXNet 1.9.0)")
    parser.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="may be given several times")
    parser.add_argument(
        "--source_dir",
        type=Path,
        metavar="FOLDER",
        help="the entry point (default: entry_point/ beside src/)",
    )
    parser.add_argument("--dry_run", action="store_true", help="print what would be sent as JSON, and send nothing")


def pairs(texts: Sequence[str], flag: str) -> Dict[str, str]:
    """KEY=VALUE texts by key."""
    found: Dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals or key in found:
            raise ConfigError(f"{flag}: found {text!r}, expected KEY=VALUE, each key once")
        found[key] = value
    return found


def words(text: str) -> Tuple[str, ...]:
    """The parts of a,b,c."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_named(parser: Parser, mode: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Return the flags, once the name that follows --`mode` is found to be one that SageMaker allows."""
    flags = parser.parse_args(list(arguments))
    check_name(mode, getattr(flags, mode))
    return flags


def stamped(name: str, length: int = NAME_LENGTH) -> str:
    """`name`, cut to fit, with the time: the name of something that is made anew each time."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    return f"{name[: length - len(now) - 1].rstrip('-')}-{now}"


def account(flags: argparse.Namespace) -> "Tuple[Optional[Amazon], str, str]":
    """The connection, the region, and the role's ARN. There is no connection where nothing is to be asked or sent: when
    requests are only shown, and region and role are given in full."""
    if flags.dry_run and flags.region and flags.role.startswith("arn:"):
        return None, flags.region, flags.role
    amazon = Amazon(flags.region)
    return amazon, amazon.region, amazon.role_arn(flags.role)


def show(requests: Dict[str, Any], progress: Progress) -> int:
    """Print requests as JSON, by operation; the exit code."""
    progress.say(json.dumps(requests, indent=2))
    return 0

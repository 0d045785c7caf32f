"""launch: training, tuning and serving on SageMaker."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import tempfile
from pathlib import Path
from typing import Any, Dict, Sequence

from ssd_train.cli.aws.common import account, add_job_flags, make_parser, pairs, show, stamped, words
from ssd_train.cli.console import Parser, make_progress
from ssd_train.config import SETTING_ALIASES, TrainConfig
from ssd_train.launch.amazon import Amazon
from ssd_train.launch.job import (
    DISTRIBUTIONS,
    NAME_LENGTH,
    SOURCE_ARCHIVE,
    TUNING_NAME_LENGTH,
    Channel,
    Job,
    check_name,
    make_channels,
)
from ssd_train.launch.requests import PLACES, require_weights, training_request
from ssd_train.launch.source import entry_point_folder, write_source
from ssd_train.launch.tuning import RANGES, parse_ranges, tuning_request
from ssd_train.launch.watch import follow

# flags that make launch do something else; each names a module in aws/ with a function of the flag's name
MODES = {
    "deploy": ("deploy", "an endpoint that answers with a model's detections"),
    "transform": ("deploy", "a batch transform job: answers to all images below an address"),
    "delete": ("deploy", "take an endpoint away, with its configuration and model"),
    "invoke": ("invoke", "send images to an endpoint: JSON Lines, and pictures with boxes"),
    "describe": ("describe", "how a training job stands; with --wait, follow its log to the end"),
}
SETTINGS = frozenset(item.name for item in dataclasses.fields(TrainConfig)) | {*SETTING_ALIASES, *PLACES}
INPUTS = {
    "train": "training images: a prefix, a RecordIO file, or with --pipe also a manifest",
    "labels": "their labels, as for train",
    "validation": "validation images",
    "validation_labels": "their labels",
    "pretrained": "weights to start from",
    "model": "model.tar.gz of an earlier job to go on from",
}


def run(arguments: Sequence[str]) -> int:
    """Start a job, or do what the first flag of MODES says; with --dry_run show the requests."""
    for mode, (module, _) in MODES.items():
        if any(argument.split("=")[0] == f"--{mode}" for argument in arguments):
            return getattr(importlib.import_module(f"ssd_train.cli.aws.{module}"), mode)(arguments)
    parser = make_launch_parser()
    flags, settings = parser.parse_settings(arguments)
    trained_with = {name: value for name, value in settings.items() if name not in PLACES}
    # refused before AWS is asked for anything
    config = TrainConfig.from_mapping(trained_with, flags=parser.names | set(MODES))
    require_weights(config, _channels(flags), flags.network_isolation, flags.image)
    if flags.job_name:
        check_name("job_name", flags.job_name, _name_length(flags))
    amazon, region, role = account(flags)
    job = job_of(flags, region, role)
    operation = "create_training_job"
    if flags.tune:
        operation = "create_hyper_parameter_tuning_job"
        limits = (flags.max_jobs, flags.parallel_jobs)
        request = tuning_request(job, settings, parse_ranges(flags.tune), limits)
    else:
        request = training_request(job, settings)
    entry_point = entry_point_folder(flags.source_dir)
    progress = make_progress()
    if flags.dry_run or amazon is None:
        return show({operation: request}, progress)
    _send(amazon, job, entry_point, operation, request)
    progress.say(f"started: {job.name}")
    if flags.tune:
        return 0
    if not flags.wait:
        progress.say(f"next:    python -m ssd_train launch --describe {job.name} --region {region} --wait")
        return 0
    answer = follow(amazon, job.name, progress.say)
    progress.say(f"model:   {answer['ModelArtifacts']['S3ModelArtifacts']}")
    return 0


def make_launch_parser() -> Parser:
    """The flags that say where and on what; all others are settings of TrainConfig."""
    what = "Train on SageMaker: the settings of train, on the machines and data named here."
    parser = make_parser("", what, {*SETTINGS, *MODES})
    others = "\n".join(f"  --{mode:<10} {what}" for mode, (_, what) in MODES.items())
    parser.epilog = (
        f"other ways, each with a --help of its own:\n{others}\n\nsettings: python -m ssd_train train --help"
    )
    add_job_flags(parser)
    parser.add_argument("--job_name", metavar="NAME", help="default: ssd-train and the time")
    for name, what in INPUTS.items():
        parser.add_argument(f"--{name}", default="", metavar="s3://...", required=name == "train", help=what)
    parser.add_argument("--channel", action="append", default=[], metavar="NAME=s3://...", help="another channel")
    parser.add_argument("--pipe", action="store_true", help="stream images in place of copying them first")
    parser.add_argument(
        "--attribute_names", type=words, default=(), metavar="source-ref,LABEL", help="of a manifest that is streamed"
    )
    _add_machine_flags(parser)
    _add_security_flags(parser)
    parser.add_argument(
        "--tune",
        action="append",
        default=[],
        metavar="NAME[=LOW:HIGH]",
        help=f"look for the best value; may be given several times: {', '.join(RANGES)}",
    )
    parser.add_argument("--max_jobs", type=int, default=10, help="of tuning, in all; default: 10")
    parser.add_argument("--parallel_jobs", type=int, default=2, help="of tuning, at once; default: 2")
    parser.add_argument("--wait", action="store_true", help="follow the job's log until it has ended")
    return parser


def _add_machine_flags(parser: Parser) -> None:
    parser.add_argument("--instance_type", default="ml.p3.2xlarge", metavar="TYPE", help="default: ml.p3.2xlarge")
    parser.add_argument("--instance_count", type=int, default=1, metavar="N", help="machines; default: 1")
    parser.add_argument("--volume_gb", type=int, default=30, metavar="GB", help="disk of each; default: 30")
    parser.add_argument("--distribution", default="", metavar="WAY", help=" or ".join(filter(None, DISTRIBUTIONS)))
    parser.add_argument("--processes_per_host", type=int, default=1, metavar="N", help="of mpi: GPUs of a machine")
    parser.add_argument("--max_run", type=int, default=24 * 3600, metavar="SECONDS", help="default: a day")
    parser.add_argument("--spot", action="store_true", help="spare machines: cheaper, may be taken away and come back")
    parser.add_argument("--max_wait", type=int, default=0, metavar="SECONDS", help="of spot, with the training")
    parser.add_argument("--checkpoints", default="", metavar="s3://...", help="default: with --spot below the output")


def _add_security_flags(parser: Parser) -> None:
    parser.add_argument("--network_isolation", action="store_true", help="no network in the container")
    parser.add_argument("--encrypt_traffic", action="store_true", help="between machines")
    parser.add_argument("--subnets", type=words, default=(), metavar="A,B", help="of your own network")
    parser.add_argument("--security_groups", type=words, default=(), metavar="A,B", help="with --subnets")
    parser.add_argument("--volume_kms_key", default="", metavar="KEY", help="of the machines' disks")
    parser.add_argument("--output_kms_key", default="", metavar="KEY", help="of what is written to S3")


def job_of(flags: argparse.Namespace, region: str, role: str) -> Job:
    """The job that the flags describe."""
    given = vars(flags)
    same = {name: given[name] for name in Job.__dataclass_fields__ if name in given}
    described: Dict[str, Any] = {
        **same,
        "name": flags.job_name or stamped("ssd-train", _name_length(flags)),
        "region": region,
        "role": role,
        "channels": _channels(flags),
        "tags": pairs(flags.tag, "tag"),
    }
    return Job(**described)


def _channels(flags: argparse.Namespace) -> Dict[str, Channel]:
    inputs = {name: getattr(flags, name) for name in INPUTS}
    return make_channels({**inputs, **pairs(flags.channel, "channel")}, flags.pipe, flags.attribute_names)


def _name_length(flags: argparse.Namespace) -> int:
    return TUNING_NAME_LENGTH if flags.tune else NAME_LENGTH


def _send(amazon: Amazon, job: Job, entry_point: Path, operation: str, request: Dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory(prefix="ssd_train-") as folder:
        archive = Path(folder) / SOURCE_ARCHIVE
        write_source(archive, entry_point)
        amazon.upload(archive, job.source)
    amazon.send(operation, request)

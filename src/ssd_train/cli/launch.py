"""The command launch: training, tuning and serving on SageMaker."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any, Dict, Sequence

from ssd_train.cli.aws import deploy, describe, invoke
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

# flag of another mode -> its function, and help
MODES = {
    "deploy": (deploy.deploy, "create an endpoint for a model"),
    "transform": (deploy.transform, "start a batch transform job on all images below an S3 prefix"),
    "delete": (deploy.delete, "delete an endpoint with its configuration and model"),
    "invoke": (invoke.invoke, "send images to an endpoint; write JSON Lines and overlays"),
    "describe": (describe.describe, "show the status of a training job; with --wait, follow its log"),
}
SETTINGS = frozenset(item.name for item in dataclasses.fields(TrainConfig)) | {*SETTING_ALIASES, *PLACES}
INPUTS = {
    "train": "training images: an S3 prefix, a RecordIO file, or with --pipe a manifest",
    "labels": "labels of the training images",
    "validation": "validation images",
    "validation_labels": "labels of the validation images",
    "pretrained": "weights to start from",
    "model": "model.tar.gz of an earlier job for incremental training",
}


def run(arguments: Sequence[str]) -> int:
    """Start a training or tuning job, or run another mode; with --dry_run show the requests."""
    for mode, (run_mode, _) in MODES.items():
        if any(argument.split("=")[0] == f"--{mode}" for argument in arguments):
            return run_mode(arguments)
    parser = make_launch_parser()
    flags, settings = parser.parse_settings(arguments)
    train_settings = {name: value for name, value in settings.items() if name not in PLACES}
    # invalid settings are reported before AWS is called
    config = TrainConfig.from_mapping(train_settings, flags=parser.names | set(MODES))
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
    """Return the parser of the job's flags; all others are settings of TrainConfig."""
    parser = make_parser("", "Train on SageMaker. Accepts all settings of train.", {*SETTINGS, *MODES})
    others = "\n".join(f"  --{mode:<10} {what}" for mode, (_, what) in MODES.items())
    parser.epilog = f"other modes, each with its own --help:\n{others}\n\nsettings: python -m ssd_train train --help"
    add_job_flags(parser)
    parser.add_argument("--job_name", metavar="NAME", help="default: ssd-train and the time")
    for name, what in INPUTS.items():
        parser.add_argument(f"--{name}", default="", metavar="s3://...", required=name == "train", help=what)
    parser.add_argument("--channel", action="append", default=[], metavar="NAME=s3://...", help="another channel")
    parser.add_argument("--pipe", action="store_true", help="stream images (Pipe mode) instead of copying them first")
    parser.add_argument(
        "--attribute_names", type=words, default=(), metavar="source-ref,LABEL", help="of a streamed manifest"
    )
    _add_machine_flags(parser)
    _add_security_flags(parser)
    parser.add_argument(
        "--tune",
        action="append",
        default=[],
        metavar="NAME[=LOW:HIGH]",
        help=f"tune this setting; may be repeated: {', '.join(RANGES)}",
    )
    parser.add_argument("--max_jobs", type=int, default=10, help="tuning jobs in total; default: 10")
    parser.add_argument("--parallel_jobs", type=int, default=2, help="concurrent tuning jobs; default: 2")
    parser.add_argument("--wait", action="store_true", help="follow the log of the job until it ends")
    return parser


def _add_machine_flags(parser: Parser) -> None:
    parser.add_argument("--instance_type", default="ml.p3.2xlarge", metavar="TYPE", help="default: ml.p3.2xlarge")
    parser.add_argument("--instance_count", type=int, default=1, metavar="N", help="machines; default: 1")
    parser.add_argument("--volume_gb", type=int, default=30, metavar="GB", help="disk per machine; default: 30")
    parser.add_argument("--distribution", default="", metavar="WAY", help=" or ".join(filter(None, DISTRIBUTIONS)))
    parser.add_argument("--processes_per_host", type=int, default=1, metavar="N", help="mpi: one per GPU")
    parser.add_argument("--max_run", type=int, default=24 * 3600, metavar="SECONDS", help="default: 86400")
    parser.add_argument("--spot", action="store_true", help="use managed spot training: cheaper, may be interrupted")
    parser.add_argument("--max_wait", type=int, default=0, metavar="SECONDS", help="spot: including --max_run")
    parser.add_argument("--checkpoints", default="", metavar="s3://...", help="default: with --spot below --output")


def _add_security_flags(parser: Parser) -> None:
    parser.add_argument("--network_isolation", action="store_true", help="no network in the container")
    parser.add_argument("--encrypt_traffic", action="store_true", help="encrypt traffic between machines")
    parser.add_argument("--subnets", type=words, default=(), metavar="A,B", help="subnets of your VPC")
    parser.add_argument("--security_groups", type=words, default=(), metavar="A,B", help="with --subnets")
    parser.add_argument("--volume_kms_key", default="", metavar="KEY", help="KMS key of the machines' disks")
    parser.add_argument("--output_kms_key", default="", metavar="KEY", help="KMS key of the output on S3")


def job_of(flags: argparse.Namespace, region: str, role: str) -> Job:
    """Return the job that the flags describe."""
    fields: Dict[str, Any] = {
        **{name: value for name, value in vars(flags).items() if name in Job.__dataclass_fields__},
        "name": flags.job_name or stamped("ssd-train", _name_length(flags)),
        "region": region,
        "role": role,
        "channels": _channels(flags),
        "tags": pairs(flags.tag, "tag"),
    }
    return Job(**fields)


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

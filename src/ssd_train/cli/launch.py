"""The command launch and its modes."""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

from ssd_train.artifacts.metadata import parse_score_threshold
from ssd_train.artifacts.model_config import CONFIG, read_model_config
from ssd_train.cli.arguments import (
    Parser,
    add_threshold_flag,
    key_value,
    make_progress,
    program,
    threshold_or_stated,
    unique_keys,
)
from ssd_train.cli.paths import output_file, overlay_paths, write_overlay
from ssd_train.config import TrainConfig
from ssd_train.data.formats.json_lines import dump_json, parse_object
from ssd_train.data.image_io import decode
from ssd_train.data.structures import ClassNames, Detections
from ssd_train.errors import ConfigError, WeightsError
from ssd_train.evaluation.predictions import check_prediction_lines
from ssd_train.launch import requests
from ssd_train.launch.aws_client import AwsClient, describe_job, follow, model_address
from ssd_train.launch.code_archive import entry_point_folder, write_served_model, write_source
from ssd_train.launch.job import (
    DISTRIBUTIONS,
    MODEL_ARCHIVE,
    NAME_LENGTH,
    SOURCE_ARCHIVE,
    TUNING_NAME_LENGTH,
    Channel,
    Job,
    check_name,
    make_channels,
)
from ssd_train.launch.requests import RANGES, parse_ranges, tuning_request
from ssd_train.progress import Progress
from ssd_train.storage import atomic
from ssd_train.storage.archive import open_model
from ssd_train.visualization.draw import draw_detections


def add_job_flags(parser: Parser) -> None:
    """Add flags for role, output, container and tags."""
    parser.add_argument("--role", required=True, metavar="ROLE", help="name or ARN of the IAM role for SageMaker")
    parser.add_argument("--output", required=True, metavar="s3://BUCKET/PREFIX", help="S3 prefix of all output")
    parser.add_argument("--image", default="", metavar="URI", help="container image (default: AWS's for MXNet 1.9.0)")
    parser.add_argument(
        "--tag", type=key_value, action="append", default=[], metavar="KEY=VALUE", help="tag; may be repeated"
    )
    parser.add_argument(
        "--source_dir",
        type=Path,
        metavar="FOLDER",
        help="folder of the entry point (default: that of this package)",
    )
    parser.add_argument("--dry_run", action="store_true", help="print the requests as JSON without sending them")


def comma_list(text: str) -> Tuple[str, ...]:
    """Split a comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def timestamped_name(name: str, length: int = NAME_LENGTH) -> str:
    """Return `name` with a timestamp, truncated to `length` characters."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    return f"{name[: length - len(now) - 1].rstrip('-')}-{now}"


def connect(flags: argparse.Namespace) -> "Tuple[Optional[AwsClient], str, str]":
    """Return client, region and role ARN.

    The client is None if no request is needed: with --dry_run, --region and a role ARN.
    """
    if flags.dry_run and flags.region and flags.role.startswith("arn:"):
        return None, flags.region, flags.role
    amazon = AwsClient(flags.region)
    return amazon, amazon.region, amazon.role_arn(flags.role)


def run_deploy(flags: argparse.Namespace, progress: Progress) -> None:
    """Create an endpoint for a model. It is billed until it is deleted."""
    amazon, service = _service(flags, flags.deploy)
    endpoint = requests.endpoint_request(flags.deploy, service)
    operations = {
        "create_model": requests.model_request(service),
        "create_endpoint_config": requests.endpoint_config_request(service),
    }
    if flags.update:
        operations["update_endpoint"] = endpoint
    else:
        operations["create_endpoint"] = {**endpoint, "Tags": requests.tag_list(service.tags)}
    if _send_all(amazon, flags, service, operations, progress):
        progress.info(f"starting: {flags.deploy} (takes some minutes)")
        progress.info(f"next:     {program('launch')} --invoke {flags.deploy} --images IMAGE --region {service.region}")
        progress.info(f"delete:   {program('launch')} --delete {flags.deploy} --region {service.region}")


def run_transform(flags: argparse.Namespace, progress: Progress) -> None:
    """Run a model on all images below an S3 prefix and write JSON files."""
    amazon, service = _service(flags, flags.transform)
    images = requests.check_folder("pictures", flags.pictures)
    output = requests.check_folder("answers", flags.answers or f"{flags.output.rstrip('/')}/{service.name}/answers")
    operations = {
        "create_model": requests.model_request(service),
        "create_transform_job": requests.transform_request(service, images, output),
    }
    if _send_all(amazon, flags, service, operations, progress):
        progress.info(f"started: {service.name}")
        progress.info(f"answers: {output}")


def run_delete(flags: argparse.Namespace, progress: Progress) -> None:
    """Delete an endpoint, its configuration and its model."""
    amazon = AwsClient(flags.region)
    config = amazon.call("describe_endpoint", {"EndpointName": flags.delete})["EndpointConfigName"]
    variants = amazon.call("describe_endpoint_config", {"EndpointConfigName": config})["ProductionVariants"]
    amazon.call("delete_endpoint", {"EndpointName": flags.delete})
    amazon.call("delete_endpoint_config", {"EndpointConfigName": config})
    for variant in variants:
        amazon.call("delete_model", {"ModelName": variant["ModelName"]})
    progress.info(f"deleted: {flags.delete}")


def _service(flags: argparse.Namespace, name: str) -> Tuple[Optional[AwsClient], requests.Service]:
    """Return the client, see `connect`, and the model to serve, whose name is `name` with a timestamp."""
    amazon, region, role = connect(flags)
    folder = requests.check_folder("output", flags.output)
    machines: Dict[str, Any] = {"instance_type": flags.instance_type, "instance_count": flags.instance_count}
    entry_point_folder(flags.source_dir)
    tags = unique_keys("tag", flags.tag)
    return amazon, requests.Service(
        timestamped_name(name), role, region, folder, image=flags.image, tags=tags, **machines
    )


def _send_all(
    amazon: Optional[AwsClient],
    flags: argparse.Namespace,
    service: requests.Service,
    operations: Dict[str, Dict[str, Any]],
    progress: Progress,
) -> bool:
    """Upload the model and send the requests by operation; with --dry_run show them and return False."""
    if flags.dry_run or amazon is None:
        progress.info(json.dumps(operations, indent=2))
        return False
    _upload_model(amazon, flags, service, progress)
    for operation, request in operations.items():
        amazon.call(operation, request)
    return True


def _upload_model(amazon: AwsClient, flags: argparse.Namespace, service: requests.Service, progress: Progress) -> None:
    """Upload the model with its inference code."""
    with tempfile.TemporaryDirectory(prefix="ssd_train-") as temporary:
        model, served = Path(flags.model), Path(temporary) / "served.tar.gz"
        if not model.exists():
            address = flags.model
            if not address.startswith("s3://"):
                address = model_address(describe_job(amazon, flags.model))
            model = Path(temporary) / MODEL_ARCHIVE
            amazon.download(address, model)
        threshold = model_threshold(model)
        write_served_model(model, served, flags.source_dir)
        amazon.upload(served, service.archive)
    if threshold is not None:
        progress.info(f"threshold of the model: {threshold:.3f} (launch --invoke takes it as --threshold)")


def model_threshold(model: Path) -> Optional[float]:
    """Return the score threshold that the config.json of a model folder or archive states, if any.

    Raises:
        WeightsError: the archive or its config.json is damaged.
    """
    with open_model(model) as folder:
        document = read_model_config(folder) if (folder / CONFIG).is_file() else {}
        try:
            return parse_score_threshold(document.get("score_threshold"))
        except (TypeError, ValueError) as error:
            raise WeightsError(f"{folder / CONFIG}: found {error}, expected a number from 0 to 1") from None


def run_describe(flags: argparse.Namespace, progress: Progress) -> None:
    """Show the status of a training job."""
    amazon = AwsClient(flags.region)
    if flags.wait:
        description = follow(amazon, flags.describe, progress.info)
    else:
        description = describe_job(amazon, flags.describe)
    for line in description_lines(description):
        progress.info(line)


def description_lines(description: Dict[str, Any]) -> Iterator[str]:
    """Yield lines with status, metrics and model of a job."""
    yield f"state:  {description['TrainingJobStatus']} ({description.get('SecondaryStatus', 'no details')})"
    if description.get("FailureReason"):
        yield f"reason: {' '.join(description['FailureReason'].split())}"
    for metric in description.get("FinalMetricDataList", ()):
        yield f"metric: {metric['MetricName']} {metric['Value']:g}"
    model = description.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if model:
        yield f"model:  {model}"


def run_invoke(flags: argparse.Namespace, progress: Progress) -> None:
    """Send images to an endpoint."""
    images = _by_name(flags.picture)
    overlays = overlay_paths(flags.overlays, images) if flags.overlays else {}
    amazon, class_names = AwsClient(flags.region), ClassNames(flags.class_names)
    threshold = threshold_or_stated(flags, None, "the endpoint", progress)
    lines = [_ask(amazon, flags.invoke, name, path) for name, path in images.items()]
    atomic.write_bytes_atomic(flags.predictions, b"".join(lines))
    progress.info(f"written: {flags.predictions}")
    lines_at = (f"{flags.predictions}:{number}" for number in range(1, len(lines) + 1))
    for prediction in check_prediction_lines(zip(lines_at, map(parse_object, lines))):
        image = decode(images[prediction.image].read_bytes(), str(images[prediction.image]))
        detections = Detections.from_rows(prediction.rows, (image.shape[1], image.shape[0]))
        shown = detections.above(threshold)
        progress.info(f"{prediction.image}: {len(shown)} of {len(detections)} score {threshold:.3g} or more")
        if flags.overlays:
            drawn = draw_detections(image, detections, class_names, threshold)
            write_overlay(overlays[prediction.image], drawn)
    if flags.overlays:
        progress.info(f"written: {flags.overlays}")


def _by_name(paths: Sequence[Path]) -> "dict[str, Path]":
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ConfigError(f"picture: {missing[0]} does not exist, expected an image file")
    images = {path.name: path for path in paths}
    if len(images) < len(paths):
        raise ConfigError("picture: found two files with the same name, expected unique names")
    return images


def _ask(amazon: AwsClient, endpoint: str, name: str, path: Path) -> bytes:
    """Return the response for one image as a line of predictions."""
    request = requests.invoke_request(endpoint, str(path), path.read_bytes())
    response = amazon.call("invoke_endpoint", request, "sagemaker-runtime")
    return dump_json({"image": name, "prediction": requests.parse_response(endpoint, response["Body"].read())}) + b"\n"


def _add_deploy_flags(parser: Parser) -> None:
    parser.add_argument("--update", action="store_true", help="update an existing endpoint with this model")
    _add_model_flags(parser)


def _add_transform_flags(parser: Parser) -> None:
    parser.add_argument(
        "--images", "--pictures", dest="pictures", required=True, metavar="s3://...", help="S3 prefix of the images"
    )
    parser.add_argument("--answers", metavar="s3://...", help="S3 folder of the results (default: below --output)")
    _add_model_flags(parser)


def _add_model_flags(parser: Parser) -> None:
    add_job_flags(parser)
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="name of a training job, s3://.../model.tar.gz, or a local model folder or archive",
    )
    parser.add_argument("--instance_type", default="ml.c5.xlarge", metavar="TYPE", help="type of the machines")
    parser.add_argument("--instance_count", type=int, default=1, metavar="N", help="machines")


def _add_wait_flag(parser: Parser) -> None:
    parser.add_argument("--wait", action="store_true", help="follow the log of the job until it ends")


def _add_invoke_flags(parser: Parser) -> None:
    images: Dict[str, Any] = {"dest": "picture", "required": True, "nargs": "+", "type": Path}
    parser.add_argument("--images", "--picture", metavar="FILE", help="images to send", **images)
    parser.add_argument(
        "--predictions",
        type=output_file,
        default=Path("predictions.jsonl"),
        metavar="FILE",
        help="JSON Lines file, -: standard output",
    )
    parser.add_argument("--overlays", type=Path, metavar="FOLDER", help="folder for images with boxes")
    add_threshold_flag(parser)
    parser.add_argument("--class_names", type=comma_list, default=(), metavar="A,B,...", help="class names in overlays")


class Mode(NamedTuple):
    """A mode other than training: its help, that of its name, and functions that add its other flags and run it."""

    summary: str
    name_help: str
    add_flags: Callable[[Parser], None]
    run: Callable[[argparse.Namespace, Progress], None]


ENDPOINT = "name of the endpoint"
MODES = {
    "deploy": Mode("create an endpoint for a model", ENDPOINT, _add_deploy_flags, run_deploy),
    "transform": Mode(
        "start a batch transform job on all images below an S3 prefix",
        "name of the job; a timestamp is added",
        _add_transform_flags,
        run_transform,
    ),
    "delete": Mode("delete an endpoint with its configuration and model", ENDPOINT, lambda parser: None, run_delete),
    "invoke": Mode(
        "send images to an endpoint; write JSON Lines and overlays", ENDPOINT, _add_invoke_flags, run_invoke
    ),
    "describe": Mode(
        "show the status of a training job; with --wait, follow its log",
        "name of the training job",
        _add_wait_flag,
        run_describe,
    ),
}


def make_mode_parser(mode: str) -> Parser:
    """Return the parser of a mode, described by the docstring of its function."""
    parser = Parser(prog=program(f"launch --{mode} NAME"), description=MODES[mode].run.__doc__)
    _add_region(parser)
    parser.add_argument(f"--{mode}", required=True, metavar="NAME", help=MODES[mode].name_help)
    MODES[mode].add_flags(parser)
    return parser


def _add_region(parser: Parser) -> None:
    parser.add_argument("--region", metavar="NAME", help="AWS region; default: that of the AWS configuration")


INPUTS = {
    "train": "training images: an S3 prefix, a RecordIO file, or with --pipe a manifest",
    "labels": "labels of the training images",
    "validation": "validation images",
    "validation_labels": "labels of the validation images",
    "pretrained": "weights to start from",
    "weights_dir": "files of GluonCV's model zoo",
    "model": "model.tar.gz of an earlier job for incremental training",
}


def run(arguments: Sequence[str]) -> int:
    """Start a training or tuning job, or run another mode; with --dry_run show the requests."""
    for mode in MODES:
        if any(argument.split("=")[0] == f"--{mode}" for argument in arguments):
            flags = make_mode_parser(mode).parse_args(list(arguments))
            check_name(mode, getattr(flags, mode))
            MODES[mode].run(flags, make_progress(beside=vars(flags).values()))
            return 0
    parser = make_launch_parser()
    flags, settings = parser.parse_settings(arguments)
    train_settings = {name: value for name, value in settings.items() if name not in requests.MACHINE_FLAGS}
    # invalid settings are reported before AWS is called
    config = TrainConfig.from_mapping(train_settings, flags=(parser.names - parser.settings) | set(MODES))
    requests.require_weights(config, _channels(flags), flags.network_isolation, flags.image)
    if flags.job_name:
        check_name("job_name", flags.job_name, _name_length(flags))
    amazon, region, role = connect(flags)
    job = job_of(flags, region, role)
    operation = "create_training_job"
    if flags.tune:
        operation = "create_hyper_parameter_tuning_job"
        limits = (flags.max_jobs, flags.parallel_jobs)
        request = tuning_request(job, settings, parse_ranges(flags.tune), limits)
    else:
        request = requests.training_request(job, settings)
    entry_point = entry_point_folder(flags.source_dir)
    progress = make_progress()
    if flags.dry_run or amazon is None:
        progress.info(json.dumps({operation: request}, indent=2))
        return 0
    _send(amazon, job, entry_point, operation, request)
    progress.info(f"started: {job.name}")
    if flags.tune:
        return 0
    if not flags.wait:
        progress.info(f"next:    {program('launch')} --describe {job.name} --region {region} --wait")
        return 0
    description = follow(amazon, job.name, progress.info)
    progress.info(f"model:   {model_address(description)}")
    return 0


def make_launch_parser() -> Parser:
    """Return the parser of the job's flags and of the settings of TrainConfig."""
    others = "\n".join(f"  --{name:<10} {mode.summary}" for name, mode in MODES.items())
    parser = Parser(
        {*requests.MACHINE_FLAGS, *MODES},
        prog=program("launch"),
        description="Train on SageMaker. Accepts all settings of train.",
        epilog=f"other modes, each with its own --help:\n{others}\n\nsettings: {program('train')} --help",
    )
    _add_region(parser)
    add_job_flags(parser)
    parser.add_argument("--job_name", metavar="NAME", help="default: ssd-train and the time")
    for name, what in INPUTS.items():
        names = ("--train", "--images") if name == "train" else (f"--{name}",)
        parser.add_argument(*names, default="", metavar="s3://...", required=name == "train", help=what)
    parser.add_argument(
        "--channel", type=key_value, action="append", default=[], metavar="NAME=s3://...", help="another channel"
    )
    parser.add_argument("--pipe", action="store_true", help="stream images (Pipe mode) instead of copying them first")
    parser.add_argument(
        "--attribute_names", type=comma_list, default=(), metavar="source-ref,LABEL", help="of a streamed manifest"
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
    parser.add_argument("--max_jobs", type=int, default=10, help="tuning jobs in total")
    parser.add_argument("--parallel_jobs", type=int, default=2, help="concurrent tuning jobs")
    _add_wait_flag(parser)
    parser.add_settings(hidden=True)
    return parser


def _add_machine_flags(parser: Parser) -> None:
    group = parser.group("machines")
    group.add_argument("--instance_type", default="ml.p3.2xlarge", metavar="TYPE", help="type of the machines")
    group.add_argument("--instance_count", type=int, default=1, metavar="N", help="machines")
    group.add_argument("--volume_gb", type=int, default=30, metavar="GB", help="disk per machine")
    group.add_argument("--distribution", default="", metavar="WAY", help=" or ".join(filter(None, DISTRIBUTIONS)))
    group.add_argument("--processes_per_host", type=int, default=1, metavar="N", help="mpi: one per GPU")
    group.add_argument("--max_run", type=int, default=24 * 3600, metavar="SECONDS", help="time limit")
    group.add_argument("--spot", action="store_true", help="use managed spot training: cheaper, may be interrupted")
    group.add_argument("--max_wait", type=int, default=0, metavar="SECONDS", help="spot: including --max_run")
    group.add_argument("--checkpoints", default="", metavar="s3://...", help="default: with --spot below --output")


def _add_security_flags(parser: Parser) -> None:
    group = parser.group("security")
    group.add_argument("--network_isolation", action="store_true", help="no network in the container")
    group.add_argument("--encrypt_traffic", action="store_true", help="encrypt traffic between machines")
    group.add_argument("--subnets", type=comma_list, default=(), metavar="A,B", help="subnets of your VPC")
    group.add_argument("--security_groups", type=comma_list, default=(), metavar="A,B", help="with --subnets")
    group.add_argument("--volume_kms_key", default="", metavar="KEY", help="KMS key of the machines' disks")
    group.add_argument("--output_kms_key", default="", metavar="KEY", help="KMS key of the output on S3")


def job_of(flags: argparse.Namespace, region: str, role: str) -> Job:
    """Return the job that the flags describe."""
    fields: Dict[str, Any] = {
        **{name: value for name, value in vars(flags).items() if name in Job.__dataclass_fields__},
        "name": flags.job_name or timestamped_name("ssd-train", _name_length(flags)),
        "region": region,
        "role": role,
        "channels": _channels(flags),
        "tags": unique_keys("tag", flags.tag),
    }
    return Job(**fields)


def _channels(flags: argparse.Namespace) -> Dict[str, Channel]:
    inputs = {name: getattr(flags, name) for name in INPUTS}
    return make_channels({**inputs, **unique_keys("channel", flags.channel)}, flags.pipe, flags.attribute_names)


def _name_length(flags: argparse.Namespace) -> int:
    return TUNING_NAME_LENGTH if flags.tune else NAME_LENGTH


def _send(amazon: AwsClient, job: Job, entry_point: Path, operation: str, request: Dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory(prefix="ssd_train-") as folder:
        archive = Path(folder) / SOURCE_ARCHIVE
        write_source(archive, entry_point)
        amazon.upload(archive, job.source)
    amazon.call(operation, request)

"""launch --deploy, --transform and --delete: endpoints and batch transform jobs."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, Dict, Sequence

from ssd_train.cli.aws.common import account, add_job_flags, make_parser, pairs, parse_named, show, stamped
from ssd_train.cli.console import Parser, make_progress
from ssd_train.launch.amazon import Amazon
from ssd_train.launch.job import MODEL_ARCHIVE
from ssd_train.launch.requests import tag_list
from ssd_train.launch.serving import (
    Service,
    check_folder,
    endpoint_config_request,
    endpoint_request,
    model_request,
    transform_request,
)
from ssd_train.launch.source import entry_point_folder, write_served_model
from ssd_train.launch.watch import describe_job


def deploy(arguments: Sequence[str]) -> int:
    """Create an endpoint, or update an existing one."""
    parser = make_parser(" --deploy NAME", "Create an endpoint for a model. It is billed until it is deleted.")
    parser.add_argument("--deploy", required=True, metavar="NAME", help="name of the endpoint")
    parser.add_argument("--update", action="store_true", help="update an existing endpoint with this model")
    _add_model_flags(parser)
    flags, progress = parse_named(parser, "deploy", arguments), make_progress()
    amazon, region, role = account(flags)
    service, tags = _service(flags, flags.deploy, region, role), pairs(flags.tag, "tag")
    endpoint = endpoint_request(flags.deploy, service)
    requests = {
        "create_model": model_request(service, tags),
        "create_endpoint_config": endpoint_config_request(service, tags),
    }
    if flags.update:
        requests["update_endpoint"] = endpoint
    else:
        requests["create_endpoint"] = {**endpoint, "Tags": tag_list(tags)}
    if flags.dry_run or amazon is None:
        return show(requests, progress)
    _send(amazon, flags, service, requests)
    progress.say(f"starting: {flags.deploy} (takes some minutes)")
    progress.say(f"next:     python -m ssd_train launch --invoke {flags.deploy} --picture IMAGE --region {region}")
    progress.say(f"delete:   python -m ssd_train launch --delete {flags.deploy} --region {region}")
    return 0


def transform(arguments: Sequence[str]) -> int:
    """Start a batch transform job."""
    parser = make_parser(" --transform NAME", "Run a model on all images below an S3 prefix and write JSON files.")
    parser.add_argument("--transform", required=True, metavar="NAME", help="name of the job; a timestamp is added")
    parser.add_argument("--pictures", required=True, metavar="s3://...", help="S3 prefix of the images")
    parser.add_argument("--answers", metavar="s3://...", help="S3 folder of the results (default: below --output)")
    _add_model_flags(parser)
    flags, progress = parse_named(parser, "transform", arguments), make_progress()
    amazon, region, role = account(flags)
    service, tags = _service(flags, flags.transform, region, role), pairs(flags.tag, "tag")
    pictures = check_folder("pictures", flags.pictures)
    answers = check_folder("answers", flags.answers or f"{flags.output.rstrip('/')}/{service.name}/answers")
    requests = {
        "create_model": model_request(service, tags),
        "create_transform_job": transform_request(service, pictures, answers, tags),
    }
    if flags.dry_run or amazon is None:
        return show(requests, progress)
    _send(amazon, flags, service, requests)
    progress.say(f"started: {service.name}")
    progress.say(f"answers: {answers}")
    return 0


def delete(arguments: Sequence[str]) -> int:
    """Delete an endpoint, its configuration and its models; archives on S3 are kept."""
    parser = make_parser(" --delete NAME", "Delete an endpoint, its configuration and its model.")
    parser.add_argument("--delete", required=True, metavar="NAME", help="name of the endpoint")
    flags, progress = parse_named(parser, "delete", arguments), make_progress()
    amazon = Amazon(flags.region)
    config = amazon.send("describe_endpoint", {"EndpointName": flags.delete})["EndpointConfigName"]
    variants = amazon.send("describe_endpoint_config", {"EndpointConfigName": config})["ProductionVariants"]
    amazon.send("delete_endpoint", {"EndpointName": flags.delete})
    amazon.send("delete_endpoint_config", {"EndpointConfigName": config})
    for variant in variants:
        amazon.send("delete_model", {"ModelName": variant["ModelName"]})
    progress.say(f"deleted: {flags.delete}")
    return 0


def _add_model_flags(parser: Parser) -> None:
    add_job_flags(parser)
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="name of a training job, s3://.../model.tar.gz, or a local model folder or archive",
    )
    parser.add_argument("--instance_type", default="ml.c5.xlarge", metavar="TYPE", help="default: ml.c5.xlarge")
    parser.add_argument("--instance_count", type=int, default=1, metavar="N", help="machines; default: 1")


def _service(flags: argparse.Namespace, name: str, region: str, role: str) -> Service:
    folder = check_folder("output", flags.output)
    machines: Dict[str, object] = {"instance_type": flags.instance_type, "instance_count": flags.instance_count}
    entry_point_folder(flags.source_dir)
    return Service(stamped(name), role, region, folder, image=flags.image, **machines)


def _send(amazon: Amazon, flags: argparse.Namespace, service: Service, requests: Dict[str, Dict[str, Any]]) -> None:
    """Upload the model and send the requests."""
    _upload_model(amazon, flags, service)
    for operation, request in requests.items():
        amazon.send(operation, request)


def _upload_model(amazon: Amazon, flags: argparse.Namespace, service: Service) -> None:
    """Upload the model with its inference code."""
    with tempfile.TemporaryDirectory(prefix="ssd_train-") as temporary:
        model, served = Path(flags.model), Path(temporary) / "served.tar.gz"
        if not model.exists():
            address = flags.model
            if not address.startswith("s3://"):
                address = describe_job(amazon, flags.model)["ModelArtifacts"]["S3ModelArtifacts"]
            model = Path(temporary) / MODEL_ARCHIVE
            amazon.download(address, model)
        write_served_model(model, served, flags.source_dir)
        amazon.upload(served, service.archive)

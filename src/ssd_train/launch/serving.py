"""Requests for what serves a model: an endpoint, a batch transform job, an answer to an image."""

from __future__ import annotations

import json
from typing import Any, Mapping, NamedTuple

from ssd_train.errors import ConfigError, DataError
from ssd_train.launch.images import inference_image
from ssd_train.launch.job import MODEL_ARCHIVE, PROGRAM
from ssd_train.launch.requests import Request, tag_list

VARIANT = "AllTraffic"
IMAGE_TYPE = "application/x-image"  # what the built-in algorithm takes; the bytes say which format it is
MAX_IMAGE_MB = 6
_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


class Service(NamedTuple):
    """What serves a model, and where.

    name     of the model, of the endpoint's configuration and of the batch transform job
    folder   s3://bucket/prefix below which the model's archive lies, in a folder of that name
    """

    name: str
    role: str
    region: str
    folder: str
    instance_type: str = "ml.c5.xlarge"
    instance_count: int = 1
    image: str = ""

    @property
    def archive(self) -> str:
        """Where the model with its program is put."""
        return f"{self.folder.rstrip('/')}/{self.name}/{MODEL_ARCHIVE}"


def model_request(service: Service, tags: Mapping[str, str]) -> Request:
    """CreateModel, as the SDK's MXNetModel sends it."""
    return {
        "ModelName": service.name,
        "ExecutionRoleArn": service.role,
        "PrimaryContainer": {
            "Image": service.image or inference_image(service.region, service.instance_type),
            "ModelDataUrl": service.archive,
            "Environment": {
                "SAGEMAKER_PROGRAM": PROGRAM,
                "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
                "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
                "SAGEMAKER_REGION": service.region,
            },
        },
        "Tags": tag_list(tags),
    }


def endpoint_config_request(service: Service, tags: Mapping[str, str]) -> Request:
    """CreateEndpointConfig: one model on machines of one kind."""
    variant = {
        "VariantName": VARIANT,
        "ModelName": service.name,
        "InitialInstanceCount": service.instance_count,
        "InstanceType": service.instance_type,
        "InitialVariantWeight": 1,
    }
    return {"EndpointConfigName": service.name, "ProductionVariants": [variant], "Tags": tag_list(tags)}


def endpoint_request(endpoint: str, service: Service) -> Request:
    """UpdateEndpoint; CreateEndpoint takes Tags besides."""
    return {"EndpointName": endpoint, "EndpointConfigName": service.name}


def transform_request(service: Service, images: str, answers: str, tags: Mapping[str, str]) -> Request:
    """CreateTransformJob: an answer in the folder `answers` for each image below `images`."""
    return {
        "TransformJobName": service.name,
        "ModelName": service.name,
        "BatchStrategy": "SingleRecord",
        "MaxPayloadInMB": MAX_IMAGE_MB,
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": images}},
            "ContentType": IMAGE_TYPE,
            "SplitType": "None",
            "CompressionType": "None",
        },
        "TransformOutput": {"S3OutputPath": answers, "Accept": "application/json", "AssembleWith": "None"},
        "TransformResources": {"InstanceType": service.instance_type, "InstanceCount": service.instance_count},
        "Tags": tag_list(tags),
    }


def invoke_request(endpoint: str, name: str, image: bytes) -> Request:
    """InvokeEndpoint with the encoded `image`, called `name` in messages; a DataError if it is too large."""
    if len(image) > MAX_IMAGE_MB << 20:
        raise DataError(f"{name}: found {len(image) >> 20} MB, expected at most {MAX_IMAGE_MB} MB, an endpoint's limit")
    content_type = next((kind for magic, kind in _MAGIC.items() if image.startswith(magic)), IMAGE_TYPE)
    return {"EndpointName": endpoint, "ContentType": content_type, "Accept": "application/json", "Body": image}


def read_answer(endpoint: str, body: bytes) -> Any:
    """What stands under "prediction" in an endpoint's answer; a DataError where that is no answer of a detector."""
    try:
        answer = json.loads(body, parse_constant=_refuse)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or "prediction" not in answer:
        raise DataError(f'endpoint {endpoint}: found {body[:80]!r}, expected {{"prediction": [...]}}')
    return answer["prediction"]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def check_folder(name: str, uri: str) -> str:
    """`uri`, a folder on S3; `name` is its flag."""
    if not uri.startswith("s3://") or len(uri) == len("s3://"):
        raise ConfigError(f"{name}: found {uri!r}, expected s3://bucket/prefix")
    return uri

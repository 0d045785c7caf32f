"""Requests for endpoints, batch transform jobs and endpoint invocations."""

from __future__ import annotations

import json
from typing import Any, Mapping, NamedTuple

from ssd_train.errors import ConfigError, DataError
from ssd_train.launch.images import inference_image
from ssd_train.launch.job import MODEL_ARCHIVE, PROGRAM
from ssd_train.launch.requests import Request, tag_list

VARIANT = "AllTraffic"
IMAGE_TYPE = "application/x-image"  # an image of any format, as for the built-in algorithm
MAX_IMAGE_MB = 6
_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


class Service(NamedTuple):
    """A model to serve and the instances to serve it on.

    Attributes:
        name: name of the model, the endpoint configuration and the batch transform job.
        role: ARN of the execution role.
        region: e.g. eu-west-1.
        folder: s3://bucket/prefix; the model archive is FOLDER/NAME/model.tar.gz.
        image: container URI; "" for AWS's MXNet inference container.
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
        """S3 URI of the archive with the model and its inference code."""
        return f"{self.folder.rstrip('/')}/{self.name}/{MODEL_ARCHIVE}"


def model_request(service: Service, tags: Mapping[str, str]) -> Request:
    """Return the CreateModel request, equal to that of SDK 2's MXNetModel."""
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
    """Return the CreateEndpointConfig request: one model on one instance type."""
    variant = {
        "VariantName": VARIANT,
        "ModelName": service.name,
        "InitialInstanceCount": service.instance_count,
        "InstanceType": service.instance_type,
        "InitialVariantWeight": 1,
    }
    return {"EndpointConfigName": service.name, "ProductionVariants": [variant], "Tags": tag_list(tags)}


def endpoint_request(endpoint: str, service: Service) -> Request:
    """Return the UpdateEndpoint request, which is also that of CreateEndpoint without Tags."""
    return {"EndpointName": endpoint, "EndpointConfigName": service.name}


def transform_request(service: Service, images: str, answers: str, tags: Mapping[str, str]) -> Request:
    """Return the CreateTransformJob request: a JSON file in the prefix `answers` for each image below `images`."""
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
    """Return the InvokeEndpoint request of an encoded image.

    Raises:
        DataError: the image, called `name` in the message, exceeds an endpoint's limit of MAX_IMAGE_MB.
    """
    if len(image) > MAX_IMAGE_MB << 20:
        raise DataError(f"{name}: found {len(image) >> 20} MB, expected at most {MAX_IMAGE_MB} MB, an endpoint's limit")
    content_type = next((kind for magic, kind in _MAGIC.items() if image.startswith(magic)), IMAGE_TYPE)
    return {"EndpointName": endpoint, "ContentType": content_type, "Accept": "application/json", "Body": image}


def parse_response(endpoint: str, body: bytes) -> Any:
    """Return the value of "prediction" in an endpoint's JSON response; raise a DataError if there is none."""
    try:
        response = json.loads(body, parse_constant=_reject_constant)
    except ValueError:
        response = None
    if not isinstance(response, dict) or "prediction" not in response:
        raise DataError(f'endpoint {endpoint}: found {body[:80]!r}, expected {{"prediction": [...]}}')
    return response["prediction"]


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not valid JSON")


def check_folder(name: str, uri: str) -> str:
    """Return `uri` if it is an S3 URI, else raise a ConfigError with the flag's `name`."""
    if not uri.startswith("s3://") or len(uri) == len("s3://"):
        raise ConfigError(f"{name}: found {uri!r}, expected s3://bucket/prefix")
    return uri

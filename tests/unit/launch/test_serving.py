from __future__ import annotations

import pytest
from helpers.services import REGION, ROLE, faults_of

from ssd_train.errors import ConfigError, DataError
from ssd_train.launch import requests

TAGS = {"team": "logos"}
SERVICE = requests.Service("logo-1", ROLE, REGION, "s3://my-bucket/ssd/", instance_count=2, tags=TAGS)


def test_model_request_in_full():
    request = requests.model_request(SERVICE)
    assert request == {
        "ModelName": "logo-1",
        "ExecutionRoleArn": ROLE,
        "PrimaryContainer": {
            "Image": "763104351884.dkr.ecr.eu-west-1.amazonaws.com/mxnet-inference:1.9.0-cpu-py38",
            "ModelDataUrl": "s3://my-bucket/ssd/logo-1/model.tar.gz",
            "Environment": {
                "SAGEMAKER_PROGRAM": "train.py",
                "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
                "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
                "SAGEMAKER_REGION": "eu-west-1",
            },
        },
        "Tags": [{"Key": "team", "Value": "logos"}],
    }
    assert faults_of("CreateModel", request) == ""


@pytest.mark.parametrize(
    "image, expected",
    [
        pytest.param(b"\xff\xd8\xff\xe0rest", "image/jpeg", id="jpeg"),
        pytest.param(b"\x89PNG\r\n\x1a\nrest", "image/png", id="png"),
        pytest.param(b"RIFF....WEBP", "application/x-image", id="another"),
    ],
)
def test_invoke_request_detects_content_type(image, expected):
    request = requests.invoke_request("logo", "a.jpg", image)
    assert (request["ContentType"], request["Body"]) == (expected, image)
    assert faults_of("InvokeEndpoint", request, "sagemaker-runtime") == ""


@pytest.mark.parametrize(
    "body",
    [b"", b"[1]", b'{"predictions": []}', b'{"prediction": [[0, NaN, 0, 0, 1, 1]]}', b"\xff"],
    ids=["empty", "list", "another-key", "nan", "no-text"],
)
def test_parse_response_invalid_body_raises(body):
    with pytest.raises(DataError, match="^endpoint logo: "):
        requests.parse_response("logo", body)


@pytest.mark.parametrize("uri", ["", "s3://", "answers"])
def test_check_folder_not_on_s3_raises(uri):
    with pytest.raises(ConfigError, match="^answers: "):
        requests.check_folder("answers", uri)

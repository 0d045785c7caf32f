"""Every error of the AWS client is a typed one-line error."""

from __future__ import annotations

import sys

import boto3
import pytest
from botocore.exceptions import ClientError
from helpers.services import REGION, ROLE, isolate
from moto import mock_aws

from ssd_train.errors import ConfigError, DataError, DependencyError
from ssd_train.launch.aws_client import AwsClient, AwsError, translate_errors


@pytest.fixture(autouse=True)
def isolated_aws(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)


def test_amazon_without_region_raises(monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigError, match="^region: "):
        AwsClient()
    assert AwsClient("us-east-2").region == "us-east-2"


@pytest.mark.parametrize(
    "missing, cause",
    [
        pytest.param(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "NoCredentialsError", id="none"),
        pytest.param(["AWS_SECRET_ACCESS_KEY"], "PartialCredentialsError", id="half"),
    ],
)
def test_send_without_credentials_raises(monkeypatch, missing, cause):
    for name in missing:
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError) as raised:
        AwsClient().call("list_training_jobs", {})
    assert type(raised.value.__cause__).__name__ == cause and "\n" not in str(raised.value)


def test_amazon_without_boto3_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(DependencyError, match=r"'ssd-train\[sagemaker\]'"):
        AwsClient()


def test_explained_error_response_keeps_code_and_message_on_one_line():
    response = {"Error": {"Code": "AccessDeniedException", "Message": "User: x is not authorized\nto perform: y"}}
    with pytest.raises(AwsError) as raised:
        with translate_errors("create_training_job"):
            raise ClientError(response, "CreateTrainingJob")
    assert (raised.value.code, raised.value.exit_code) == ("AccessDeniedException", 2)
    message = str(raised.value)
    assert message.startswith("create_training_job: ") and message.endswith(": User: x is not authorized to perform: y")


@mock_aws
def test_role_arn_of_name_and_arn():
    amazon = AwsClient()
    assert amazon.role_arn(ROLE) == ROLE
    with pytest.raises(AwsError) as raised:
        amazon.role_arn("SageMakerRole")
    assert raised.value.code == "NoSuchEntity"
    boto3.client("iam").create_role(RoleName="SageMakerRole", AssumeRolePolicyDocument="{}")
    assert amazon.role_arn("SageMakerRole") == ROLE


@mock_aws
def test_upload_and_download_keep_bytes(tmp_path):
    amazon, uri = AwsClient(), "s3://my-bucket/a/b.bin"
    (tmp_path / "up").write_bytes(b"\x00\x01")
    with pytest.raises(DataError, match=f"^{uri}: "):
        amazon.upload(tmp_path / "up", uri)
    configuration = {"LocationConstraint": REGION}
    boto3.client("s3", region_name=REGION).create_bucket(Bucket="my-bucket", CreateBucketConfiguration=configuration)
    amazon.upload(tmp_path / "up", uri)
    amazon.download(uri, tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == b"\x00\x01"

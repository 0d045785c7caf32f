"""The connection to AWS: everything that can be wrong with it is one line."""

from __future__ import annotations

import sys

import boto3
import pytest
from botocore.exceptions import ClientError
from launches import REGION, ROLE, isolate
from moto import mock_aws

from ssd_train.errors import ConfigError, DataError, DependencyError
from ssd_train.launch.amazon import Amazon, Refused, explained


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)


def test_no_region(monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigError, match="region: found none, expected --region"):
        Amazon()
    assert Amazon("us-east-2").region == "us-east-2"


def test_no_credentials(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="^list_training_jobs: found no credentials, expected AWS_ACCESS_KEY_ID"):
        Amazon().send("list_training_jobs", {})


def test_half_of_the_credentials(monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="found a part of the credentials"):
        Amazon().send("list_training_jobs", {})


def test_a_profile_that_is_not_there(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="AWS: the profile that AWS_PROFILE names is not in ~/.aws"):
        Amazon()


def test_nobody_answers(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ConfigError, match="list_training_jobs: it cannot be reached"):
        Amazon().send("list_training_jobs", {})


def test_boto3_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(DependencyError, match=r"launch needs boto3 .*pip install 'ssd-train\[sagemaker\]'"):
        Amazon()


def test_a_refusal_is_told_in_the_words_of_aws():
    refusal = {"Error": {"Code": "AccessDeniedException", "Message": "User: x is not authorized\nto perform: y"}}
    with pytest.raises(Refused) as raised, explained("create_training_job"):
        raise ClientError(refusal, "CreateTrainingJob")
    words = "create_training_job: AWS refused it: AccessDeniedException: User: x is not authorized to perform: y"
    assert (str(raised.value), raised.value.code, raised.value.exit_code) == (words, "AccessDeniedException", 2)


@mock_aws
def test_roles():
    amazon = Amazon()
    assert amazon.role_arn(ROLE) == ROLE
    with pytest.raises(ConfigError, match="get_role: AWS refused it: NoSuchEntity: .*SageMakerRole"):
        amazon.role_arn("SageMakerRole")
    boto3.client("iam").create_role(RoleName="SageMakerRole", AssumeRolePolicyDocument="{}")
    assert amazon.role_arn("SageMakerRole") == ROLE


@mock_aws
def test_files_go_up_and_down(tmp_path):
    amazon, there = Amazon(), "s3://my-bucket/a/b.bin"
    (tmp_path / "up").write_bytes(b"\x00\x01")
    with pytest.raises(DataError, match="s3://my-bucket/a/b.bin: there is no such bucket"):
        amazon.upload(tmp_path / "up", there)
    where = {"LocationConstraint": REGION}
    boto3.client("s3", region_name=REGION).create_bucket(Bucket="my-bucket", CreateBucketConfiguration=where)
    amazon.upload(tmp_path / "up", there)
    amazon.download(there, tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == b"\x00\x01"

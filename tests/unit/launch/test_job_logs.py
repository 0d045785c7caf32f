from __future__ import annotations

import time

import boto3
import pytest
from helpers.services import REGION, isolate
from moto import mock_aws

from ssd_train import sagemaker_metrics
from ssd_train.errors import SsdTrainError
from ssd_train.launch import aws_client
from ssd_train.launch.aws_client import AwsClient


@pytest.fixture
def amazon(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)
    with mock_aws():
        yield AwsClient()


def write_log(stream, lines, group=aws_client.LOG_GROUP):
    logs = boto3.client("logs", region_name=REGION)
    if not logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
        logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    now = int(time.time() * 1000)
    events = [{"timestamp": now + index, "message": line} for index, line in enumerate(lines)]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def describe_as(amazon, monkeypatch, *responses):
    """Replace the responses of DescribeTrainingJob, which moto does not change over time."""
    remaining = iter(responses)
    real = amazon.call

    def send(operation, request, service="sagemaker"):
        return next(remaining) if operation == "describe_training_job" else real(operation, request, service)

    monkeypatch.setattr(amazon, "call", send)


def test_metric_series_reads_metric_lines():
    lines = [
        sagemaker_metrics.stamped(sagemaker_metrics.map_line("algo-1", 0, 0.25)),
        *sagemaker_metrics.loss_lines("algo-1", 0, 9, 3.5, 1.25),
        "some other line with validation mAP in it",
        sagemaker_metrics.stamped(sagemaker_metrics.map_line("algo-1", 1, 0.5)),
        sagemaker_metrics.progress_line("algo-1", 1, 4),
    ]
    assert aws_client.metric_series(lines) == {
        "validation:mAP": [0.25, 0.5],
        "train:cross_entropy": [3.5],
        "train:smooth_l1": [1.25],
        "train:progress": [25.0],
    }


def test_log_lines_cover_all_instances_of_the_job_only(amazon):
    first = [f"line {number}" for number in range(250)]
    write_log("ssd-1/algo-1-1", first)
    write_log("ssd-1/algo-2-1", ["second machine\n"])
    write_log("ssd-10/algo-1-1", ["another job"])
    assert list(aws_client.log_lines(amazon, "ssd-1")) == [*first, "second machine"]


def test_follow_returns_when_job_ends(amazon, monkeypatch):
    write_log("ssd-1/algo-1-1", ["one", "two"])
    describe_as(
        amazon,
        monkeypatch,
        {"TrainingJobStatus": "InProgress", "SecondaryStatus": "Training"},
        {"TrainingJobStatus": "InProgress", "SecondaryStatus": "Training"},
        {"TrainingJobStatus": "Completed", "SecondaryStatus": "Completed"},
    )
    lines = []
    description = aws_client.follow(amazon, "ssd-1", lines.append, interval=0)
    assert lines == ["ssd-1: Training", "one", "two", "ssd-1: Completed"]
    assert description["TrainingJobStatus"] == "Completed"


def test_follow_failed_job_raises_with_reason(amazon, monkeypatch):
    describe_as(amazon, monkeypatch, {"TrainingJobStatus": "Failed", "FailureReason": "AlgorithmError:\nno images"})
    with pytest.raises(SsdTrainError, match="^ssd-1: .*AlgorithmError: no images$"):
        aws_client.follow(amazon, "ssd-1", lambda line: None, interval=0)

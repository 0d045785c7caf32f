"""Status, CloudWatch log and metrics of a training job."""

from __future__ import annotations

import re
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List

from ssd_train.errors import SsdTrainError
from ssd_train.launch.aws_client import AwsClient, AwsError
from ssd_train.sagemaker_metrics import METRIC_DEFINITIONS

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
ENDED = ("Completed", "Failed", "Stopped")
POLL_SECONDS = 10.0


def metric_series(lines: Iterable[str]) -> Dict[str, List[float]]:
    """Return the values of each metric in log lines, extracted with SageMaker's regular expressions."""
    expressions = {item["Name"]: re.compile(item["Regex"]) for item in METRIC_DEFINITIONS}
    series: Dict[str, List[float]] = {name: [] for name in expressions}
    for line in lines:
        for name, expression in expressions.items():
            match = expression.search(line)
            if match:
                series[name].append(float(match.group(1)))
    return {name: values for name, values in series.items() if values}


def describe_job(amazon: AwsClient, job: str) -> Dict[str, Any]:
    """Return the DescribeTrainingJob response."""
    return amazon.call("describe_training_job", {"TrainingJobName": job})


def log_lines(amazon: AwsClient, job: str) -> Iterator[str]:
    """Yield all log lines of a job so far, instance after instance; none if there is no log yet."""
    return _new_lines(amazon, job, {})


def follow(amazon: AwsClient, job: str, write: Callable[[str], None], interval: float = POLL_SECONDS) -> Dict[str, Any]:
    """Pass status changes and new log lines to `write` until the job ends, and return its last description.

    The job is polled every `interval` seconds.

    Raises:
        SsdTrainError: the job failed; the message holds SageMaker's reason.
    """
    status = ""
    tokens: Dict[str, str] = {}
    while True:
        description = describe_job(amazon, job)
        if description.get("SecondaryStatus", "") != status:
            status = description.get("SecondaryStatus", "")
            write(f"{job}: {status}")
        for line in _new_lines(amazon, job, tokens):
            write(line)
        if description["TrainingJobStatus"] in ENDED:
            break
        time.sleep(interval)
    if description["TrainingJobStatus"] == "Failed":
        raise SsdTrainError(f"{job}: failed: {' '.join(description.get('FailureReason', 'no reason given').split())}")
    return description


def _new_lines(amazon: AwsClient, job: str, tokens: Dict[str, str]) -> Iterator[str]:
    """Yield log lines after `tokens`, the forward token of each stream, and update `tokens`."""
    for stream in _streams(amazon, job):
        while True:
            token = {"nextToken": tokens[stream]} if stream in tokens else {}
            request = {"logGroupName": LOG_GROUP, "logStreamName": stream, "startFromHead": True, **token}
            response = amazon.call("get_log_events", request, "logs")
            for event in response["events"]:
                yield event["message"].rstrip("\n")
            at_end = tokens.get(stream) == response["nextForwardToken"]
            tokens[stream] = response["nextForwardToken"]
            if at_end:
                break


def _streams(amazon: AwsClient, job: str) -> List[str]:
    """Return the names of a job's log streams, one per instance."""
    names: List[str] = []
    request = {"logGroupName": LOG_GROUP, "logStreamNamePrefix": f"{job}/"}
    try:
        while True:
            response = amazon.call("describe_log_streams", request, "logs")
            names += [stream["logStreamName"] for stream in response["logStreams"]]
            if not response.get("nextToken"):
                return names
            request["nextToken"] = response["nextToken"]
    except AwsError as error:
        if error.code == "ResourceNotFoundException":
            return []  # the account's first job creates the group
        raise

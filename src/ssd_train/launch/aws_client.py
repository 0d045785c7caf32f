"""AWS client: a boto3 session in one region with one-line errors, and a training job's status, log and metrics."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional

from ssd_train.errors import ConfigError, SsdTrainError, require_extra
from ssd_train.sagemaker_metrics import METRIC_DEFINITIONS
from ssd_train.storage.s3 import CREDENTIAL_FAULTS, Store, Url

# botocore's errors other than an error response, by class name
_MESSAGES = {
    **CREDENTIAL_FAULTS,
    "ProfileNotFound": "the profile that AWS_PROFILE names is not in ~/.aws",
    "ConnectionError": "AWS cannot be reached",
    "HTTPClientError": "AWS cannot be reached",
}


class AwsError(ConfigError):
    """An error response of AWS; `code` is its error code, e.g. AccessDeniedException."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class AwsClient:
    """A boto3 session in one region; credentials are found as boto3 finds them.

    Raises:
        DependencyError: boto3 is not installed.
        ConfigError: no region is given or configured.
    """

    def __init__(self, region: Optional[str] = None) -> None:
        with require_extra("sagemaker"):
            import boto3
        with translate_errors("AWS"):
            self.session = boto3.Session(region_name=region)
        if not self.session.region_name:
            raise ConfigError("region: found none, expected --region, AWS_DEFAULT_REGION or a region in ~/.aws/config")
        self.region: str = self.session.region_name
        self._clients: Dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """Return the cached boto3 client of a service, e.g. sagemaker, sagemaker-runtime, iam or logs."""
        if service not in self._clients:
            with translate_errors(service):
                self._clients[service] = self.session.client(service)
        return self._clients[service]

    def call(self, operation: str, request: Dict[str, Any], service: str = "sagemaker") -> Dict[str, Any]:
        """Call a method of a boto3 client and return the response.

        Args:
            operation: boto3's method name, e.g. create_training_job.
            request: keyword arguments of the method.
            service: boto3's name of the AWS service.

        Raises:
            AwsError: AWS returned an error.
            ConfigError: the request was not sent or not answered.
        """
        call: Callable[..., Dict[str, Any]] = getattr(self.client(service), operation)
        with translate_errors(operation):
            return call(**request)

    def role_arn(self, role: str) -> str:
        """Return the ARN of a role name; an ARN is returned unchanged."""
        if role.startswith("arn:"):
            return role
        return self.call("get_role", {"RoleName": role}, "iam")["Role"]["Arn"]

    def upload(self, path: Path, uri: str) -> None:
        """Upload the file `path` to s3://bucket/key."""
        Store().write(path, Url.parse(uri))

    def download(self, uri: str, path: Path) -> None:
        """Download s3://bucket/key to the file `path`."""
        with open(path, "wb") as file:
            Store().read(Url.parse(uri), file)


@contextlib.contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Translate errors of boto3 into one-line ConfigErrors that begin with `what`.

    An error response keeps AWS's message, because it names the missing permission.
    """
    with require_extra("sagemaker"):
        from botocore.exceptions import BotoCoreError, ClientError
    try:
        yield
    except ClientError as error:
        details = error.response.get("Error", {})
        code, text = str(details.get("Code", "?")), " ".join(str(details.get("Message", "")).split())
        raise AwsError(f"{what}: AWS refused it: {code}: {text}", code) from error
    except BotoCoreError as error:
        names = [kind.__name__ for kind in type(error).__mro__]
        message = next((_MESSAGES[name] for name in names if name in _MESSAGES), " ".join(str(error).split()))
        raise ConfigError(f"{what}: {message}") from error


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


def model_address(description: Mapping[str, Any]) -> str:
    """Return the S3 address of a job's model.

    Args:
        description: response of DescribeTrainingJob.

    Raises:
        SsdTrainError: the job has none, because it has not ended, was stopped or failed.
    """
    address = description.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if not address:
        name, status = description.get("TrainingJobName"), description.get("TrainingJobStatus")
        raise SsdTrainError(f"job {name}: found the state {status} and no model, expected a job that has completed")
    return str(address)


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

"""A training job as it goes: its state, its log, and the metrics in the log."""

from __future__ import annotations

import re
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List

from ssd_train.errors import SsdTrainError
from ssd_train.launch.amazon import Amazon, Refused
from ssd_train.metric_lines import METRIC_DEFINITIONS

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
ENDED = ("Completed", "Failed", "Stopped")
PAUSE = 10.0  # seconds between two looks


def metric_series(lines: Iterable[str]) -> Dict[str, List[float]]:
    """The values of each metric in the lines of a log, in their order, as SageMaker's expressions read them."""
    expressions = {item["Name"]: re.compile(item["Regex"]) for item in METRIC_DEFINITIONS}
    found: Dict[str, List[float]] = {name: [] for name in expressions}
    for line in lines:
        for name, expression in expressions.items():
            match = expression.search(line)
            if match:
                found[name].append(float(match.group(1)))
    return {name: values for name, values in found.items() if values}


def describe(amazon: Amazon, job: str) -> Dict[str, Any]:
    """What SageMaker tells of a training job."""
    return amazon.send("describe_training_job", {"TrainingJobName": job})


def log_lines(amazon: Amazon, job: str) -> Iterator[str]:
    """All lines of a job's log so far, machine after machine; none where there is no log yet."""
    return _new_lines(amazon, job, {})


def follow(amazon: Amazon, job: str, say: Callable[[str], None], pause: float = PAUSE) -> Dict[str, Any]:
    """Hand the job's log to `say` as it grows, until the job has ended; its last description.

    Raises:
        SsdTrainError: the job failed; the reason is SageMaker's.
    """
    state = ""
    read: Dict[str, str] = {}
    while True:
        answer = describe(amazon, job)
        if answer.get("SecondaryStatus", "") != state:
            state = answer.get("SecondaryStatus", "")
            say(f"{job}: {state}")
        for line in _new_lines(amazon, job, read):
            say(line)
        if answer["TrainingJobStatus"] in ENDED:
            break
        time.sleep(pause)
    if answer["TrainingJobStatus"] == "Failed":
        raise SsdTrainError(f"{job}: failed: {' '.join(answer.get('FailureReason', 'no reason given').split())}")
    return answer


def _new_lines(amazon: Amazon, job: str, read: Dict[str, str]) -> Iterator[str]:
    """Lines that were not told yet. `read` is where the reading of each stream goes on, and is brought forward."""
    for stream in _streams(amazon, job):
        while True:
            token = {"nextToken": read[stream]} if stream in read else {}
            request = {"logGroupName": LOG_GROUP, "logStreamName": stream, "startFromHead": True, **token}
            answer = amazon.send("get_log_events", request, "logs")
            for event in answer["events"]:
                yield event["message"].rstrip("\n")
            at_end = read.get(stream) == answer["nextForwardToken"]
            read[stream] = answer["nextForwardToken"]
            if at_end:
                break


def _streams(amazon: Amazon, job: str) -> List[str]:
    """Names of the log streams of a job, one for each machine."""
    names: List[str] = []
    request = {"logGroupName": LOG_GROUP, "logStreamNamePrefix": f"{job}/"}
    try:
        while True:
            answer = amazon.send("describe_log_streams", request, "logs")
            names += [stream["logStreamName"] for stream in answer["logStreams"]]
            if not answer.get("nextToken"):
                return names
            request["nextToken"] = answer["nextToken"]
    except Refused as error:
        if error.code == "ResourceNotFoundException":
            return []  # the group appears with the account's first job
        raise

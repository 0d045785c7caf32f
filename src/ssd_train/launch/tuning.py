"""The request for a tuning job: training jobs with other settings each, until the highest validation:mAP is found."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from ssd_train.config import TrainConfig, current_names
from ssd_train.errors import ConfigError
from ssd_train.launch import requests
from ssd_train.launch.job import TUNING_NAME_LENGTH, Job, check_name

OBJECTIVE = "validation:mAP"


class Range(NamedTuple):
    """What a tuning job may set: numbers from `low` to `high` (on a logarithmic scale where `logarithmic`), or
    `choices`."""

    low: float = 0
    high: float = 0
    logarithmic: bool = False
    whole: bool = False
    choices: Tuple[str, ...] = ()


# the ranges that the built-in algorithm's documentation recommends (object-detection-tuning); a logarithmic scale
# cannot begin at 0
RANGES = {
    "learning_rate": Range(1e-6, 0.5, logarithmic=True),
    "mini_batch_size": Range(8, 64, whole=True),
    "momentum": Range(0.0, 0.999),
    "optimizer": Range(choices=("sgd", "adam", "rmsprop", "adadelta")),
    "weight_decay": Range(0.0, 0.999),
}


def parse_ranges(texts: Sequence[str]) -> Dict[str, Range]:
    """The ranges that `texts` name: NAME for the recommended one, NAME=LOW:HIGH, or NAME=A:B:C for choices.

    Raises:
        ConfigError: a name that cannot be tuned, a value that TrainConfig refuses, or numbers that do not rise.
    """
    return dict(_parse_range(text) for text in texts)


def _parse_range(text: str) -> Tuple[str, Range]:
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if name not in RANGES:
        raise ConfigError(f"tune: found {name!r}, expected one of {', '.join(RANGES)}")
    usual, parts = RANGES[name], tuple(part.strip() for part in values.split(":"))
    if not equals:
        return name, usual
    if usual.choices:
        unknown = [part for part in parts if part not in usual.choices]
        if unknown:
            raise ConfigError(f"tune: found {name} {unknown[0]!r}, expected some of {':'.join(usual.choices)}")
        return name, usual._replace(choices=parts)
    try:
        low, high = map(int if usual.whole else float, parts)
        TrainConfig.from_mapping({name: low})
        TrainConfig.from_mapping({name: high})
    except ValueError:
        low, high = 0, 0
    if not low < high or (usual.logarithmic and low <= 0):
        kind = "whole numbers" if usual.whole else "numbers"
        raise ConfigError(f"tune: found {text!r}, expected {name}=LOW:HIGH, two {kind} that rise")
    return name, usual._replace(low=low, high=high)


def tuning_request(
    job: Job, settings: Mapping[str, Any], ranges: Mapping[str, Range], jobs: Tuple[int, int]
) -> requests.Request:
    """The CreateHyperParameterTuningJob request that looks for the highest validation:mAP.

    jobs: how many in all, and how many at once. Checkpoints are kept only where Job names a folder for them.
    """
    check_name("job_name", job.name, TUNING_NAME_LENGTH)
    twice = sorted(set(ranges) & set(current_names(settings)))
    if twice:
        raise ConfigError(f"tune: found {', '.join(twice)} among the settings too, expected them in one place")
    if not 1 <= jobs[1] <= jobs[0]:
        raise ConfigError(f"parallel_jobs: found {jobs[1]}, expected 1 to max_jobs, {jobs[0]}")
    static = {**requests.hyperparameters(job, settings), **requests.toolkit_parameters(job)}
    definition = {
        "StaticHyperParameters": static,
        "AlgorithmSpecification": requests.algorithm(job),
        "HyperParameterTuningResourceConfig": requests.resources(job),
        **requests.common(job),
        "CheckpointConfig": requests.checkpoints(job.checkpoints),
    }
    return {
        "HyperParameterTuningJobName": job.name,
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "ResourceLimits": {"MaxNumberOfTrainingJobs": jobs[0], "MaxParallelTrainingJobs": jobs[1]},
            "TrainingJobEarlyStoppingType": "Off",
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": OBJECTIVE},
            "ParameterRanges": parameter_ranges(ranges),
        },
        "TrainingJobDefinition": requests.filled(definition),
        "Tags": requests.tag_list(job.tags),
    }


def parameter_ranges(ranges: Mapping[str, Range]) -> Dict[str, List[Dict[str, Any]]]:
    """`ranges` in the three lists of the request; lists without entries are left out."""
    lists: Dict[str, List[Dict[str, Any]]] = {}
    for name, item in ranges.items():
        if item.choices:
            entry: Dict[str, Any] = {"Name": name, "Values": [json.dumps(choice) for choice in item.choices]}
            lists.setdefault("CategoricalParameterRanges", []).append(entry)
            continue
        kind = "IntegerParameterRanges" if item.whole else "ContinuousParameterRanges"
        scale = "Logarithmic" if item.logarithmic else "Auto"
        entry = {"Name": name, "MinValue": str(item.low), "MaxValue": str(item.high), "ScalingType": scale}
        lists.setdefault(kind, []).append(entry)
    return lists

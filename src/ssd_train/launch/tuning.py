"""The CreateHyperParameterTuningJob request, which maximizes validation:mAP."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from ssd_train.config import TrainConfig, current_names
from ssd_train.errors import ConfigError
from ssd_train.launch import requests
from ssd_train.launch.job import TUNING_NAME_LENGTH, Job, check_name

OBJECTIVE = "validation:mAP"


class Range(NamedTuple):
    """The search range of a hyperparameter: `low` to `high` (integers if `whole`), or one of `choices`."""

    low: float = 0
    high: float = 0
    logarithmic: bool = False
    whole: bool = False
    choices: Tuple[str, ...] = ()


# the ranges recommended for the built-in algorithm (SageMaker documentation, object-detection-tuning); a logarithmic
# range cannot begin at 0
RANGES = {
    "learning_rate": Range(1e-6, 0.5, logarithmic=True),
    "mini_batch_size": Range(8, 64, whole=True),
    "momentum": Range(0.0, 0.999),
    "optimizer": Range(choices=("sgd", "adam", "rmsprop", "adadelta")),
    "weight_decay": Range(0.0, 0.999),
}


def parse_ranges(texts: Sequence[str]) -> Dict[str, Range]:
    """Parse ranges: NAME for the recommended range, NAME=LOW:HIGH, or NAME=A:B:C for choices.

    Raises:
        ConfigError: a hyperparameter cannot be tuned, TrainConfig rejects a value, or LOW is not less than HIGH.
    """
    return dict(_parse_range(text) for text in texts)


def _parse_range(text: str) -> Tuple[str, Range]:
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if name not in RANGES:
        raise ConfigError(f"tune: found {name!r}, expected one of {', '.join(RANGES)}")
    default, parts = RANGES[name], tuple(part.strip() for part in values.split(":"))
    if not equals:
        return name, default
    if default.choices:
        unknown = [part for part in parts if part not in default.choices]
        if unknown:
            raise ConfigError(f"tune: found {name} {unknown[0]!r}, expected some of {':'.join(default.choices)}")
        return name, default._replace(choices=parts)
    try:
        low, high = map(int if default.whole else float, parts)
        TrainConfig.from_mapping({name: low})
        TrainConfig.from_mapping({name: high})
    except ValueError:
        low, high = 0, 0
    if not low < high or (default.logarithmic and low <= 0):
        kind = "integers" if default.whole else "numbers"
        raise ConfigError(f"tune: found {text!r}, expected {name}=LOW:HIGH, two {kind} in rising order")
    return name, default._replace(low=low, high=high)


def tuning_request(
    job: Job, settings: Mapping[str, Any], ranges: Mapping[str, Range], jobs: Tuple[int, int]
) -> requests.Request:
    """Return the CreateHyperParameterTuningJob request.

    Args:
        job: the tuning job's name, and the instances and data of its training jobs. Its checkpoints are written only
            if `job.checkpoints` is set, because all training jobs share that prefix.
        settings: TrainConfig values by name that are not tuned.
        ranges: search range of each tuned hyperparameter.
        jobs: maximum number of training jobs in total, and in parallel.
    """
    check_name("job_name", job.name, TUNING_NAME_LENGTH)
    duplicates = sorted(set(ranges) & set(current_names(settings)))
    if duplicates:
        raise ConfigError(f"tune: found {', '.join(duplicates)} also as settings, expected them only once")
    if not 1 <= jobs[1] <= jobs[0]:
        raise ConfigError(f"parallel_jobs: found {jobs[1]}, expected 1 to max_jobs ({jobs[0]})")
    static = {**requests.hyperparameters(job, settings), **requests.toolkit_parameters(job)}
    definition = {
        "StaticHyperParameters": static,
        "AlgorithmSpecification": requests.algorithm_specification(job),
        "HyperParameterTuningResourceConfig": requests.resource_config(job),
        **requests.common_fields(job),
        "CheckpointConfig": requests.checkpoint_config(job.checkpoints),
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
        "TrainingJobDefinition": requests.drop_empty(definition),
        "Tags": requests.tag_list(job.tags),
    }


def parameter_ranges(ranges: Mapping[str, Range]) -> Dict[str, List[Dict[str, Any]]]:
    """Return `ranges` as the request's three lists of parameter ranges, without empty lists."""
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

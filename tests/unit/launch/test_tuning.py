from __future__ import annotations

import contextlib

import pytest
from helpers.services import faults_of, make_job

from ssd_train.errors import ConfigError
from ssd_train.launch.requests import RANGES, Range, parse_ranges, tuning_request

ALL = {
    "ContinuousParameterRanges": [
        {"Name": "learning_rate", "MinValue": "1e-06", "MaxValue": "0.5", "ScalingType": "Logarithmic"},
        {"Name": "momentum", "MinValue": "0.0", "MaxValue": "0.999", "ScalingType": "Auto"},
        {"Name": "weight_decay", "MinValue": "0.0", "MaxValue": "0.999", "ScalingType": "Auto"},
    ],
    "IntegerParameterRanges": [{"Name": "mini_batch_size", "MinValue": "8", "MaxValue": "64", "ScalingType": "Auto"}],
    "CategoricalParameterRanges": [{"Name": "optimizer", "Values": ['"sgd"', '"adam"', '"rmsprop"', '"adadelta"']}],
}


@pytest.mark.parametrize(
    "tuned, settings, accepted",
    [
        (["momentum"], {}, False),
        (["weight_decay"], {"optimizer": "adadelta"}, False),
        (["weight_decay"], {"optimizer": "rmsprop"}, True),
        (["momentum"], {"preset_defaults": "builtin"}, True),
        (["momentum", "optimizer"], {}, True),
        (["momentum", "optimizer=adam:adadelta"], {}, False),
    ],
)
def test_tuning_request_of_a_setting_that_the_optimizer_lacks_raises(tuned, settings, accepted):
    """Each job would cost as much and learn the same."""
    expectation = contextlib.nullcontext() if accepted else pytest.raises(ConfigError, match=f"tune: found {tuned[0]}")
    with expectation:
        tuning_request(make_job(), settings, parse_ranges(tuned), (2, 1))


def test_tuning_request_recommended_ranges():
    request = tuning_request(make_job(spot=True, tags={"a": "b"}), {"epochs": 5}, parse_ranges(list(RANGES)), (20, 4))
    assert request["HyperParameterTuningJobName"] == "ssd-logo-1"
    assert request["HyperParameterTuningJobConfig"] == {
        "Strategy": "Bayesian",
        "ResourceLimits": {"MaxNumberOfTrainingJobs": 20, "MaxParallelTrainingJobs": 4},
        "TrainingJobEarlyStoppingType": "Off",
        "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "validation:mAP"},
        "ParameterRanges": ALL,
    }
    assert request["Tags"] == [{"Key": "a", "Value": "b"}]
    assert faults_of("CreateHyperParameterTuningJob", request) == ""


@pytest.mark.parametrize(
    "text, expected",
    [
        pytest.param("learning-rate", RANGES["learning_rate"], id="recommended"),
        pytest.param("learning_rate=1e-4:1e-2", Range(1e-4, 1e-2, logarithmic=True), id="numbers"),
        pytest.param("mini_batch_size=4:16", Range(4, 16, whole=True), id="whole-numbers"),
        pytest.param("optimizer=sgd:adam", Range(choices=("sgd", "adam")), id="choices"),
    ],
)
def test_parse_ranges_valid(text, expected):
    assert list(parse_ranges([text]).values()) == [expected]


@pytest.mark.parametrize(
    "text, place",
    [
        pytest.param("epochs", "tune", id="unknown"),
        pytest.param("learning_rate=0.1:0.01", "tune", id="falling"),
        pytest.param("learning_rate=0.1:2", "learning_rate", id="limit"),
        pytest.param("mini_batch_size=1.5:2", "tune", id="not-integer"),
    ],
)
def test_parse_ranges_invalid_raises(text, place):
    with pytest.raises(ConfigError, match=f"^{place}: "):
        parse_ranges([text])


@pytest.mark.parametrize(
    "changes, settings, jobs, place",
    [
        pytest.param({"name": "a" * 33}, {}, (2, 1), "job_name", id="name"),
        pytest.param({}, {"learning-rate": 0.1}, (2, 1), "tune", id="duplicate"),
        pytest.param({}, {}, (2, 3), "parallel_jobs", id="jobs"),
    ],
)
def test_tuning_request_contradiction_raises(changes, settings, jobs, place):
    with pytest.raises(ConfigError, match=f"^{place}: "):
        tuning_request(make_job(**changes), settings, parse_ranges(["learning_rate"]), jobs)

from __future__ import annotations

import pytest
from launches import faults_of, make_job

from ssd_train.errors import ConfigError
from ssd_train.launch.requests import training_request
from ssd_train.launch.tuning import RANGES, Range, parse_ranges, tuning_request

ALL = {
    "ContinuousParameterRanges": [
        {"Name": "learning_rate", "MinValue": "1e-06", "MaxValue": "0.5", "ScalingType": "Logarithmic"},
        {"Name": "momentum", "MinValue": "0.0", "MaxValue": "0.999", "ScalingType": "Auto"},
        {"Name": "weight_decay", "MinValue": "0.0", "MaxValue": "0.999", "ScalingType": "Auto"},
    ],
    "IntegerParameterRanges": [{"Name": "mini_batch_size", "MinValue": "8", "MaxValue": "64", "ScalingType": "Auto"}],
    "CategoricalParameterRanges": [{"Name": "optimizer", "Values": ['"sgd"', '"adam"', '"rmsprop"', '"adadelta"']}],
}


def test_the_recommended_ranges():
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


def test_its_jobs_are_the_training_job():
    job, settings = make_job(spot=True, max_run=60), {"epochs": 5, "grayscale": True}
    definition = tuning_request(job, settings, parse_ranges(["momentum"]), (2, 1))["TrainingJobDefinition"]
    training = training_request(job, settings)
    for name in ("RoleArn", "InputDataConfig", "OutputDataConfig", "StoppingCondition", "EnableManagedSpotTraining"):
        assert definition[name] == training[name]
    assert definition["StaticHyperParameters"] == training["HyperParameters"]
    assert definition["HyperParameterTuningResourceConfig"] == training["ResourceConfig"]
    names = [item["Name"] for item in definition["AlgorithmSpecification"]["MetricDefinitions"]]
    assert "validation:mAP" in names
    # several jobs would write into one folder
    assert "CheckpointConfig" not in definition


@pytest.mark.parametrize(
    "text, expected",
    [
        pytest.param("learning-rate", RANGES["learning_rate"], id="recommended"),
        pytest.param("learning_rate=1e-4:1e-2", Range(1e-4, 1e-2, logarithmic=True), id="numbers"),
        pytest.param("mini_batch_size=4:16", Range(4, 16, whole=True), id="whole-numbers"),
        pytest.param("optimizer=sgd:adam", Range(choices=("sgd", "adam")), id="choices"),
    ],
)
def test_ranges(text, expected):
    assert list(parse_ranges([text]).values()) == [expected]


@pytest.mark.parametrize(
    "text, expected",
    [
        pytest.param("epochs", "tune: found 'epochs', expected one of learning_rate", id="unknown"),
        pytest.param("learning_rate=1", "expected learning_rate=LOW:HIGH, two numbers that rise", id="one-number"),
        pytest.param("learning_rate=0.1:0.01", "two numbers that rise", id="falling"),
        pytest.param("learning_rate=0.1:2", "learning_rate: found 2.0, expected more than 0 and at most 1", id="limit"),
        pytest.param("mini_batch_size=1.5:2", "two whole numbers that rise", id="not-whole"),
        pytest.param("optimizer=sgd:lion", "tune: found optimizer 'lion', expected some of sgd", id="choice"),
    ],
)
def test_ranges_refused(text, expected):
    with pytest.raises(ConfigError) as raised:
        parse_ranges([text])
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    "changes, settings, jobs, expected",
    [
        pytest.param({"name": "a" * 33}, {}, (2, 1), "expected at most 32", id="name"),
        pytest.param({}, {"learning-rate": 0.1}, (2, 1), "found learning_rate among the settings too", id="twice"),
        pytest.param({}, {}, (2, 3), "parallel_jobs: found 3, expected 1 to max_jobs, 2", id="jobs"),
    ],
)
def test_contradictions(changes, settings, jobs, expected):
    with pytest.raises(ConfigError, match=expected):
        tuning_request(make_job(**changes), settings, parse_ranges(["learning_rate"]), jobs)

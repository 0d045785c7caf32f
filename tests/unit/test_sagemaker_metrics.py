"""Log lines are read by the regular expressions of a real job, and by the notebooks that cut them by hand."""

from __future__ import annotations

import re

import pytest

from ssd_train import sagemaker_metrics
from ssd_train.sagemaker_metrics import METRIC_DEFINITIONS, stamped

HOST = "algo-1"

LINES = {
    "train:cross_entropy": sagemaker_metrics.loss_lines(HOST, 3, 41, 0.91234567, 12345678.9)[0],
    "train:smooth_l1": sagemaker_metrics.loss_lines(HOST, 3, 41, 0.91234567, 12345678.9)[1],
    "train:throughput": sagemaker_metrics.throughput_line(HOST, 98.7654321),
    "train:progress": sagemaker_metrics.progress_line(HOST, 7, 30),
    "validation:mAP": sagemaker_metrics.map_line(HOST, 3, 0.123456789),
    "validation:smooth_l1": sagemaker_metrics.validation_loss_line(HOST, 3, 0.0000123),
}
VALUES = {
    "train:cross_entropy": 0.912346,
    "train:smooth_l1": 12345700.0,
    "train:throughput": 98.7654,
    "train:progress": 23.0,
    "validation:mAP": 0.123457,
    "validation:smooth_l1": 0.0000123,
}


def test_metric_definitions_each_have_a_line():
    assert {definition["Name"] for definition in METRIC_DEFINITIONS} == set(LINES)


@pytest.mark.parametrize("name", LINES)
def test_metric_regex_matches_its_line_only(name):
    line = stamped(LINES[name])
    found = {d["Name"]: re.findall(d["Regex"], line) for d in METRIC_DEFINITIONS}
    assert [float(value) for value in found[name]] == [VALUES[name]]
    assert [other for other, values in found.items() if values] == [name]


def test_metric_definitions_are_those_of_a_real_job():
    """From its AlgorithmSpecification; validation:smooth_l1 is ours."""
    expected = {
        "train:progress": r"#progress_metric: host=\S+, completed (\S+) %",
        "train:smooth_l1": r"#quality_metric: host=\S+, epoch=\S+, batch=\S+ train smooth_l1 <loss>=(\S+)",
        "train:cross_entropy": r"#quality_metric: host=\S+, epoch=\S+, batch=\S+ train cross_entropy <loss>=(\S+)",
        "train:throughput": r"#throughput_metric: host=\S+, train throughput=(\S+) records/second",
        "validation:mAP": r"#quality_metric: host=\S+, epoch=\S+, validation mAP <score>=\((\S+)\)",
    }
    found = {d["Name"]: d["Regex"] for d in METRIC_DEFINITIONS}
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("name", LINES)
def test_stamped_prefix_has_time_and_level_and_no_parenthesis(name):
    line = stamped(LINES[name])
    prefix, _, rest = line.partition("#")
    assert re.fullmatch(r"\[\d\d/\d\d/\d{4} \d\d:\d\d:\d\d INFO \d+\] ", prefix)
    assert line.count("(") == line.count(")") == (1 if name == "validation:mAP" else 0)
    assert "#" + rest == LINES[name]


def test_map_line_is_parsed_by_published_notebooks():
    """Two ways in which AWS's own notebooks cut the line."""
    message = stamped(LINES["validation:mAP"])
    assert float(message[message.find("(") + 1 : message.find(")")]) == 0.123457
    assert float(message.split("validation mAP <score>=(")[1][:-1]) == 0.123457, "nothing follows the parenthesis"


@pytest.mark.parametrize("done, epochs, expected", [(1, 30, "3"), (30, 30, "100"), (1, 3, "33"), (29, 30, "96")])
def test_progress_line_is_in_whole_percent(done, epochs, expected):
    assert (
        sagemaker_metrics.progress_line(HOST, done, epochs) == f"#progress_metric: host=algo-1, completed {expected} %"
    )

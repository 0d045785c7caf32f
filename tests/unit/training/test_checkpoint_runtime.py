"""Tests of runtime properties that differ on resume."""

import pytest
from helpers.data import small_config

from ssd_train.training.checkpoint import describe_differences, runtime_info


def found(**settings):
    return runtime_info(small_config(**settings), ["cpu(0)"])


def test_changes_equal_properties_give_no_line():
    assert describe_differences(found(), found()) == []


def test_changes_old_checkpoint_without_record_gives_no_line():
    assert describe_differences({}, found()) == []


@pytest.mark.parametrize(
    "old, expected",
    [
        ({"CPU threads": 99}, ["CPU threads: ", " 99"]),
        ({"devices": "gpu(0), gpu(1)"}, ["devices: ", "cpu(0)", "gpu(0), gpu(1)"]),
        ({"versions": {"ssd_train": "0.0.9"}}, ["versions: ", "ssd_train", "0.0.9"]),
        ({"epochs": 9}, ["epochs: ", " 2", " 9; ", "learning rate"]),
    ],
    ids=["threads", "devices", "versions", "epochs"],
)
def test_changes_different_property_gives_a_line(old, expected):
    (line,) = describe_differences({**found(), **old}, found())
    assert all(part in line for part in expected)


def test_changes_epochs_with_constant_rate_does_not_mention_the_schedule():
    (line,) = describe_differences(found(lr_schedule="constant", epochs=1), found(lr_schedule="constant"))
    assert line.startswith("epochs: ") and line.endswith(" 1")

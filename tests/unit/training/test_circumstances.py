"""What is told when a run goes on under other circumstances, and that nothing is told when it does not."""

import pytest
from builders import small_config

from ssd_train.training.circumstances import changes, circumstances


def found(**settings):
    return circumstances(small_config(**settings), ["cpu(0)"])


def test_changes_equal_properties_give_no_line():
    assert changes(found(), found()) == []


def test_changes_old_checkpoint_without_record_gives_no_line():
    assert changes({}, found()) == []


@pytest.mark.parametrize(
    "old, expected",
    [
        ({"CPU threads": 99}, ["CPU threads: found ", "made with 99: the weights may differ"]),
        ({"devices": "gpu(0), gpu(1)"}, ["devices: found cpu(0), the checkpoint was made with gpu(0), gpu(1)"]),
        ({"versions": {"ssd_train": "0.0.9"}}, ["versions: found ssd_train ", " (was 0.0.9)"]),
        ({"epochs": 9}, ["epochs: found 2, the checkpoint was made for 9; from here the learning rate"]),
    ],
    ids=["threads", "devices", "versions", "epochs"],
)
def test_changes_different_property_gives_a_line(old, expected):
    (told,) = changes({**found(), **old}, found())
    assert all(part in told for part in expected)


def test_changes_epochs_with_constant_rate_does_not_mention_the_schedule():
    (told,) = changes(found(lr_schedule="constant", epochs=1), found(lr_schedule="constant"))
    assert told.endswith("made for 1")

"""A job of the built-in algorithm, as it is sent to that one, means what it meant there."""

from __future__ import annotations

import pytest

from ssd_train.config import TrainConfig
from ssd_train.errors import ConfigError

# hyperparams.json of a deployed model: all that the algorithm knows, as it writes it
OF_A_REAL_JOB = {
    "label_width": "150",
    "early_stopping_min_epochs": "10",
    "epochs": "30",
    "overlap_threshold": "0.5",
    "lr_scheduler_factor": "0.25",
    "_num_kv_servers": "auto",
    "weight_decay": "0.0005",
    "mini_batch_size": "30",
    "use_pretrained_model": "1",
    "freeze_layer_pattern": "",
    "lr_scheduler_step": "10,20",
    "early_stopping": "False",
    "early_stopping_patience": "5",
    "momentum": "0.9",
    "num_training_samples": "5870",
    "optimizer": "sgd",
    "_tuning_objective_metric": "",
    "early_stopping_tolerance": "0.0",
    "learning_rate": "0.001",
    "kv_store": "device",
    "nms_threshold": "0.45",
    "num_classes": "2",
    "base_network": "resnet-50",
    "nms_topk": "400",
    "_kvstore": "device",
    "image_shape": "512",
}
# the defaults of its documentation
TABLE = {
    "base_network": "vgg-16",
    "early_stopping": False,
    "early_stopping_min_epochs": 10,
    "early_stopping_patience": 5,
    "early_stopping_tolerance": 0.0,
    "image_shape": 300,
    "epochs": 30,
    "freeze_layer_pattern": "",
    "label_width": 350,
    "learning_rate": 0.001,
    "lr_scheduler_factor": 0.1,
    "lr_scheduler_step": "",
    "mini_batch_size": 32,
    "momentum": 0.9,
    "nms_threshold": 0.45,
    "optimizer": "sgd",
    "overlap_threshold": 0.5,
    "use_pretrained_model": 1,
    "weight_decay": 0.0005,
}


def test_from_mapping_hyperparameters_of_a_real_job_are_read():
    config = TrainConfig.from_mapping(OF_A_REAL_JOB)
    assert (config.base_network, config.image_shape, config.num_classes) == ("resnet-50", 512, 2)
    assert (config.lr_steps, config.schedule, config.lr_scheduler_factor) == ((10, 20), "step", 0.25)
    assert config.num_training_samples == 5870 and config.early_stopping is False


def test_preset_defaults_builtin_match_the_documented_table():
    config = TrainConfig.from_mapping({"num_classes": "2", "num_training_samples": "10", "preset_defaults": "builtin"})
    assert {name: getattr(config, name) for name in TABLE} == TABLE
    assert config.schedule == "constant" and config.warmup_epochs == 0 and config.augmentation == "ssd"


def test_preset_defaults_measured_are_the_default():
    config = TrainConfig.from_mapping({})
    assert (config.base_network, config.optimizer, config.schedule) == ("mobilenet1.0", "adam", "cosine")


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"learning_rate": "0.01", "optimizer": "adam"}, {"learning_rate": 0.01, "optimizer": "adam"}),
        ({"lr_scheduler_step": "80, 160"}, {"schedule": "step", "lr_steps": (80, 160)}),
        ({"lr_schedule": "cosine"}, {"schedule": "cosine"}),
        ({"base-network": "mobilenet1.0", "augmentation": "strong"}, {"base_network": "mobilenet1.0"}),
        ({"epochs": "", "mini_batch_size": " "}, {"epochs": 30, "mini_batch_size": 32}),
    ],
    ids=["values", "steps", "schedule", "ours", "left-open"],
)
def test_preset_defaults_builtin_explicit_settings_win(given, expected):
    config = TrainConfig.from_mapping({"preset_defaults": "builtin", **given})
    assert {name: getattr(config, name) for name in expected} == expected


def test_preset_defaults_builtin_have_no_box_voting_unless_given():
    builtin = {"preset_defaults": "builtin"}
    assert TrainConfig().box_voting and not TrainConfig.from_mapping(builtin).box_voting
    assert TrainConfig.from_mapping({**builtin, "box_voting": "true"}).box_voting


def test_preset_defaults_builtin_survive_to_json():
    config = TrainConfig.from_mapping({"preset_defaults": "builtin", "learning_rate": 0.01})
    assert TrainConfig.from_mapping(config.to_json()) == config


@pytest.mark.parametrize("shape", ["3,416,416", "3, 416, 416", " 3,416,416 "])
def test_image_shape_with_channels_is_accepted_with_a_warning(shape):
    said = []
    assert TrainConfig.from_mapping({"image_shape": shape}, said.append).image_shape == 416
    (note,) = said
    assert note.startswith(f"image_shape: found {shape!r}") and "416" in note


@pytest.mark.parametrize("shape", ["3,416,300", "416,416", "1,416,416", "300.5", "big"])
def test_image_shape_invalid_is_an_error(shape):
    with pytest.raises(ConfigError, match=f"^image_shape: found '{shape}'"):
        TrainConfig.from_mapping({"image_shape": shape})

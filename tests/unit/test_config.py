"""TrainConfig: names and ranges of the built-in algorithm, conversion of texts, all errors at once."""

from __future__ import annotations

import dataclasses
import json

import pytest

from ssd_train.config import TrainConfig, resumable_settings
from ssd_train.config_fields import range_text
from ssd_train.errors import ConfigError


def faults(**values):
    """Return the messages of the ConfigError for `values`, one per invalid value."""
    with pytest.raises(ConfigError) as error:
        TrainConfig.from_mapping(values)
    return str(error.value).split("; ")


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("base_network", "resnet50_v1", "resnet-50"),
        ("base_network", " mobilenet1.0 ", "mobilenet1.0"),
        ("feature_strides", "8", "8,16,..."),
        ("feature_strides", "8,16,32,64,128,256,512", "8,16,..."),
        ("feature_strides", "", ""),
        ("image_shape", "512", 512),
        ("image_shape", 300.0, 300),
        ("epochs", "1e2", 100),
        ("use_pretrained_model", "0", 0),
        ("learning_rate", "1e-6", 1e-6),
        ("learning_rate", "auto", "auto"),
        ("learning_rate", " Auto ", "auto"),
        ("learning_rate", "", "auto"),
        ("momentum", "0.0", 0.0),  # the tuner's range begins there
        ("momentum", "0.999", 0.999),
        ("early_stopping", "True", True),
        ("early_stopping", "false", False),
        ("freeze_layer_pattern", "^(conv1_|conv2_).*", "^(conv1_|conv2_).*"),
        ("freeze_layer_pattern", "false", ""),  # the console's word for none
        ("kv_store", "-", "device"),
        ("lr_scheduler_step", "80, 160", "80, 160"),
        ("mini_batch_size", "", 8),  # left open
        ("base_network", "", "mobilenet1.0"),
        ("grayscale", "yes", True),
        ("amp", "auto", "auto"),
        ("amp", "", "auto"),
        ("amp", "false", False),
        ("amp", 1, True),
    ],
)
def test_from_mapping_valid_value_is_converted(name, value, expected):
    found = getattr(TrainConfig.from_mapping({name: value}), name)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    "name, value",
    [
        ("base_network", "vgg-19"),
        ("amp", "bfloat16"),
        ("feature_strides", "4,8"),
        ("feature_strides", "8,32"),
        ("image_shape", "127"),
        ("image_shape", "10001"),
        ("image_shape", "300.5"),
        ("epochs", "0"),
        ("use_pretrained_model", "2"),
        ("learning_rate", "0"),
        ("learning_rate", "1.01"),
        ("learning_rate", "nan"),
        ("learning_rate", "inf"),
        ("learning_rate", "high"),
        ("lr_scheduler_factor", "0"),
        ("lr_scheduler_factor", "1"),
        ("early_stopping", "sometimes"),
        ("optimizer", "lamb"),
        ("validation_fraction", "1"),
        ("lr_scheduler_step", "20,10"),
        ("lr_scheduler_step", "0"),
        ("lr_scheduler_step", "10;20"),
        ("lr_scheduler_step", "²"),
        ("anchor_sizes", "0.3,0.2"),
        ("anchor_sizes", "0.1,2.1"),
        ("anchor_sizes", "0.1,nan"),
        ("anchor_sizes", "small,large"),
        ("class_weights", "equal"),
        ("class_weights", "cat=0"),
        ("class_weights", "cat=nan"),
        ("class_weights", "cat=1,cat=2"),
        ("class_weights", "=2"),
        ("classification_loss", "dice"),
        ("freeze_layer_pattern", "(conv"),
        ("split_group", "[a"),
    ],
)
def test_from_mapping_invalid_value_is_reported_by_name_and_value(name, value):
    (fault,) = faults(**{name: value})
    assert fault.startswith(f"{name}: found {value!r}, expected ")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("image_shape", "at least 128 and at most 10000"),
        ("learning_rate", "more than 0 and at most 1, or auto"),
        ("weight_decay", "at least 0 and less than 1"),
        ("momentum", "at least 0 and at most 1"),
        ("num_workers", "at least -1"),
    ],
)
def test_range_text_names_the_limits_of_a_setting(name, expected):
    (field,) = [item for item in dataclasses.fields(TrainConfig) if item.name == name]
    assert range_text(field.metadata) == expected
    assert faults(**{name: "-9"})[0].endswith(f"expected {expected}")


def test_from_mapping_reports_all_errors_at_once():
    found = faults(
        epochs="0",
        image_shape="90",
        optimizer="lamb",
        lr_scheduler_step="3,1",
        split_group="(",
        colour="red",
        early_stopping="x",
    )
    names = ["colour", "image_shape", "split_group", "epochs", "optimizer", "lr_scheduler_step", "early_stopping"]
    assert sorted(fault.split(":")[0] for fault in found) == sorted(names)


@pytest.mark.parametrize(
    "settings, expected",
    [
        pytest.param({}, 10.0, id="adam"),
        pytest.param({"optimizer": "sgd"}, 0.0, id="sgd"),
        pytest.param({"optimizer": "sgd", "clip_gradient": "5"}, 5.0, id="sgd-given"),
        pytest.param({"optimizer": "adam", "clip_gradient": "0"}, 0.0, id="adam-given-none"),
        pytest.param({"optimizer": "sgd", "clip_gradient": "-1"}, 0.0, id="by-optimizer"),
        pytest.param({"preset_defaults": "builtin"}, 0.0, id="builtin"),
    ],
)
def test_clip_gradient_default_depends_on_the_optimizer(settings, expected):
    assert TrainConfig.from_mapping(settings).clip_gradient == expected


def test_mirror_off_with_augmentation_flip_is_an_error():
    (fault,) = faults(mirror="0", augmentation="flip")
    assert fault.startswith("mirror: found false")
    assert faults(mirror="2", augmentation="geometry")[0].startswith("mirror: found '2'")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("learning_rat", "learning_rat: unknown setting, did you mean learning_rate?"),
        ("batch_size", "batch_size: unknown setting, did you mean mini_batch_size?"),
        ("epoch", "epoch: unknown setting, did you mean epochs?"),
        ("xyzzy", "xyzzy: unknown setting"),
        ("Epochs", "Epochs: unknown setting, did you mean epochs?"),
    ],
)
def test_from_mapping_unknown_name_is_an_error_with_a_suggestion(name, expected):
    assert faults(**{name: "1"}) == [expected]


def test_from_mapping_hyphens_count_as_underscores():
    found = TrainConfig.from_mapping({"mini-batch-size": "4", "learning-rate": 0.01, "lr_scheduler-step": "2"})
    assert (found.mini_batch_size, found.learning_rate, found.lr_scheduler_step) == (4, 0.01, "2")


@pytest.mark.parametrize("name", ["_tuning_objective_metric", "_kvstore", "_num_kv_servers"])
def test_from_mapping_hidden_keys_are_ignored(name):
    assert TrainConfig.from_mapping({name: "validation:mAP"}) == TrainConfig()


@pytest.mark.parametrize(
    "schedule, steps, expected",
    [
        ("", "", "cosine"),
        ("", "10,20", "step"),
        ("step", "5", "step"),
        ("constant", "", "constant"),
        ("cosine", "", "cosine"),
        ("step", "", ConfigError),
        ("cosine", "3", ConfigError),
        ("constant", "3", ConfigError),
    ],
)
def test_schedule_follows_lr_schedule_and_steps(schedule, steps, expected):
    values = {"lr_schedule": schedule, "lr_scheduler_step": steps}
    if expected is ConfigError:
        (fault,) = faults(**values)
        assert fault.startswith("lr_schedule") and repr(steps or schedule) in fault
    else:
        assert TrainConfig.from_mapping(values).schedule == expected


def test_to_json_round_trip_gives_an_equal_config():
    config = TrainConfig()
    assert TrainConfig.from_mapping(json.loads(json.dumps(config.to_json()))) == config
    changed = dataclasses.replace(config, epochs=3, grayscale=True, lr_scheduler_step="1,2")
    assert TrainConfig.from_mapping(json.loads(json.dumps(changed.to_json()))) == changed
    assert TrainConfig.from_mapping({name: str(value) for name, value in changed.to_json().items()}) == changed


def test_resumable_settings_exclude_those_that_shape_the_weights():
    free = set(resumable_settings())
    assert {"num_workers", "early_stopping", "early_stopping_patience", "epochs"} <= free
    shaping = {"learning_rate", "seed", "optimizer", "image_shape", "augmentation", "mirror", "mini_batch_size"}
    assert not shaping & free


def test_train_config_every_setting_has_help():
    for item in dataclasses.fields(TrainConfig):
        assert len(item.metadata["help"]) > 10, item.name


@pytest.mark.parametrize("rate, expected", [("auto", 0.001), (0.2, 0.2), ("1e-4", 0.0001)])
def test_base_learning_rate_of_auto_is_that_of_trained_weights(rate, expected):
    assert TrainConfig(learning_rate=rate).base_learning_rate == expected


@pytest.mark.parametrize("strides, expected", [("", 0), ("auto", 0), ("8,16,...", 8), ("16,32,...", 16)])
def test_first_stride_is_that_of_feature_strides(strides, expected):
    assert TrainConfig(feature_strides=strides).first_stride == expected


def test_feature_strides_16_with_vgg_raises_and_8_is_its_own():
    assert TrainConfig(base_network="vgg-16", feature_strides="8").first_stride == 8
    (fault,) = faults(base_network="vgg-16", feature_strides="16")
    assert fault.startswith("feature_strides: ")

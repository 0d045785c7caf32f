from __future__ import annotations

import pytest

from ssd_train.errors import ConfigError
from ssd_train.launch.requests import inference_image, training_image


@pytest.mark.parametrize(
    "region, instance_type, expected",
    [
        pytest.param(
            "eu-west-1",
            "ml.p3.2xlarge",
            "763104351884.dkr.ecr.eu-west-1.amazonaws.com/mxnet-training:1.9.0-gpu-py38",
            id="p3",
        ),
        pytest.param(
            "us-east-1",
            "ml.g4dn.xlarge",
            "763104351884.dkr.ecr.us-east-1.amazonaws.com/mxnet-training:1.9.0-gpu-py38",
            id="g4dn",
        ),
        pytest.param(
            "af-south-1",
            "ml.c5.xlarge",
            "626614931356.dkr.ecr.af-south-1.amazonaws.com/mxnet-training:1.9.0-cpu-py38",
            id="own-registry",
        ),
        pytest.param(
            "cn-north-1",
            "ml.m5.large",
            "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn/mxnet-training:1.9.0-cpu-py38",
            id="china",
        ),
    ],
)
def test_training_image_by_region_and_instance(region, instance_type, expected):
    assert training_image(region, instance_type) == expected


def test_inference_image_cpu_instance():
    expected = "763104351884.dkr.ecr.eu-west-1.amazonaws.com/mxnet-inference:1.9.0-cpu-py38"
    assert inference_image("eu-west-1", "ml.c5.xlarge") == expected


@pytest.mark.parametrize("instance_type", ["ml.c6g.xlarge", "ml.m7gd.large", "ml.inf1.xlarge", "ml.trn1.2xlarge"])
def test_training_image_unsupported_processor_raises(instance_type):
    with pytest.raises(ConfigError, match="^instance_type: "):
        training_image("eu-west-1", instance_type)

from __future__ import annotations

import pytest

from ssd_train.errors import ConfigError
from ssd_train.launch.requests import inference_image, training_image


@pytest.mark.parametrize(
    "image, region, instance_type, registry, name",
    [
        (training_image, "eu-west-1", "ml.p3.2xlarge", "763104351884", "training:1.9.0-gpu"),
        (training_image, "us-east-1", "ml.g4dn.xlarge", "763104351884", "training:1.9.0-gpu"),
        (training_image, "af-south-1", "ml.c5.xlarge", "626614931356", "training:1.9.0-cpu"),
        (training_image, "cn-north-1", "ml.m5.large", "727897471807", "training:1.9.0-cpu"),
        (inference_image, "eu-west-1", "ml.c5.xlarge", "763104351884", "inference:1.9.0-cpu"),
    ],
)
def test_image_by_region_and_instance(image, region, instance_type, registry, name):
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    assert image(region, instance_type) == f"{registry}.dkr.ecr.{region}.{domain}/mxnet-{name}-py38"


@pytest.mark.parametrize("instance_type", ["ml.c6g.xlarge", "ml.m7gd.large", "ml.inf1.xlarge", "ml.trn1.2xlarge"])
def test_training_image_unsupported_processor_raises(instance_type):
    with pytest.raises(ConfigError, match="^instance_type: "):
        training_image("eu-west-1", instance_type)

"""Defaults, content types and hidden keys of the SageMaker built-in Object Detection algorithm.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/object-detection-api-config.html. The page takes precedence over
the container, which differs from it in use_pretrained_model 0 and kv_store "device".
"""

from __future__ import annotations

import re
from typing import Any, Dict, Mapping, Tuple

# --preset_defaults builtin: the documented table, then fixed behaviour of the algorithm
DEFAULTS: Dict[str, Any] = {
    "base_network": "vgg-16",
    "use_pretrained_model": 1,
    "zoo": "imagenet",
    "image_shape": 300,
    "epochs": 30,
    "mini_batch_size": 32,
    "optimizer": "sgd",
    "learning_rate": 0.001,
    "lr_scheduler_step": "",
    "lr_scheduler_factor": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "overlap_threshold": 0.5,
    "nms_threshold": 0.45,
    "nms_topk": 400,
    "label_width": 350,
    "freeze_layer_pattern": "",
    "kv_store": "-",
    "early_stopping": False,
    "early_stopping_min_epochs": 10,
    "early_stopping_patience": 5,
    "early_stopping_tolerance": 0.0,
    # augmentation and negative mining of mxnet-ssd, which the algorithm is based on
    "augmentation": "ssd",
    "auto_anchors": False,
    "negative_mining_ratio": 3.0,
    "min_hard_negatives": 0,
    "warmup_epochs": 0.0,
    "clip_gradient": 0.0,
    "post_nms": 400,
    "box_voting": False,
    "metric_for_best_model": "voc07",
}
# label formats by the content type of a channel
CONTENT_TYPES = {
    "application/x-recordio": "recordio",
    **{f"image/{kind}": "image_json" for kind in ("jpeg", "jpg", "png")},
    "application/x-image": "image_json",
}
# undocumented keys of its jobs and of the MXNet container; they configure the container
HIDDEN_KEYS = ("_tuning_objective_metric", "_kvstore", "_num_kv_servers", "_ps_port", "_ps_verbose")
CONTAINER_PREFIX = "sagemaker_"

_SHAPE_WITH_CHANNELS = re.compile(r"\s*3\s*,\s*(\d+)\s*,\s*(\d+)\s*")


def is_hidden(name: str) -> bool:
    """Return whether `name` configures the container and is not a setting."""
    return name in HIDDEN_KEYS or name.startswith(CONTAINER_PREFIX)


def with_defaults(values: Mapping[str, Any]) -> Dict[str, Any]:
    """Merge `values` into the algorithm's defaults; empty texts count as not given.

    Without lr_scheduler_step the algorithm's learning rate is constant.
    """
    explicit = {name: value for name, value in values.items() if str(value).strip() != ""}
    schedule = "step" if "lr_scheduler_step" in explicit else "constant"
    return {**DEFAULTS, "lr_schedule": schedule, **explicit}


def parse_image_shape(shape: Any) -> Tuple[Any, str]:
    """Parse an image_shape; "3,416,416" (channels, height, width), a common mistake, becomes "416".

    Returns:
        The side length, or `shape` as it is, and a warning or "".
    """
    match = _SHAPE_WITH_CHANNELS.fullmatch(str(shape))
    if not match or match.group(1) != match.group(2):
        return shape, ""
    side = match.group(1)
    return side, f"image_shape: found {shape!r}, expected the side length of a square; using {side}"

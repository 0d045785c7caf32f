"""What settings mean to the SageMaker built-in Object Detection algorithm, where that is not what they mean here.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/object-detection-api-config.html. Where its container was seen
to differ from that page (use_pretrained_model 0, kv_store "device"), the page counts.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Mapping, Tuple

# --preset_defaults builtin: its table whole, and below it what the algorithm does that is no setting there
DEFAULTS: Dict[str, Any] = {
    "base_network": "vgg-16",
    "use_pretrained_model": 1,
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
    # the crops, paddings, colours and flips of mxnet-ssd, which it grew from; so are the losses' negatives
    "augmentation": "ssd",
    "auto_anchors": False,
    "negative_mining_ratio": 3.0,
    "min_hard_negatives": 0,
    "warmup_epochs": 0.0,
    "clip_gradient": 0.0,
    "post_nms": 400,
    "metric_for_best_model": "voc07",
}
# what its channels call their formats
CONTENT_TYPES = {
    "application/x-recordio": "recordio",
    **{f"image/{kind}": "image_json" for kind in ("jpeg", "jpg", "png")},
    "application/x-image": "image_json",
}
# keys that its jobs, and those of the MXNet container, carry beside the documented ones; they steer the container
HIDDEN_KEYS = ("_tuning_objective_metric", "_kvstore", "_num_kv_servers", "_ps_port", "_ps_verbose")
CONTAINER_PREFIX = "sagemaker_"

_SHAPE_WITH_CHANNELS = re.compile(r"\s*3\s*,\s*(\d+)\s*,\s*(\d+)\s*")


def is_hidden(name: str) -> bool:
    """Whether `name` is a key that steers the container, and no setting."""
    return name in HIDDEN_KEYS or name.startswith(CONTAINER_PREFIX)


def with_defaults(given: Mapping[str, Any]) -> Dict[str, Any]:
    """`given` above the algorithm's own defaults; an empty text is a setting left open. Without steps its learning rate
    is constant."""
    explicit = {name: value for name, value in given.items() if str(value).strip() != ""}
    schedule = "step" if "lr_scheduler_step" in explicit else "constant"
    return {**DEFAULTS, "lr_schedule": schedule, **explicit}


def side_of(shape: Any) -> Tuple[Any, str]:
    """An image_shape, and what to tell of it: channels, height and width ("3,416,416"), which the algorithm never took
    but users keep sending, are its side where they are a square's."""
    found = _SHAPE_WITH_CHANNELS.fullmatch(str(shape))
    if not found or found.group(1) != found.group(2):
        return shape, ""
    side = found.group(1)
    return side, f"image_shape: found {shape!r}, expected the side of the square; {side} is used"

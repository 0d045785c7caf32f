"""Builders of model folders whose networks say something, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import numpy as np
from builders import small_config

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.data.structures import ClassNames
from ssd_train.data.synthetic import draw_shapes_set
from ssd_train.data.transforms import preprocess
from ssd_train.model.graphs import _Suppress
from ssd_train.model.net import build_net

mx = mxnet_compat.mxnet()

CLASSES = ("cat", "dog", "cow")


def talking_net(base_network: str = "mobilenet0.25", side: int = 128, classes: Sequence[str] = CLASSES) -> Any:
    """A net whose class scores differ and whose boxes leave their anchors, with BatchNorm statistics as after
    training."""
    net = build_net(base_network, side, classes, seed=1)
    random = np.random.RandomState(0)
    for name, parameter in net._collect_params_with_prefix().items():
        if name.endswith(("running_mean", "moving_mean", "beta")):
            parameter.set_data(mx.nd.array(random.normal(0, 0.1, parameter.shape)))
        elif name.endswith(("running_var", "moving_var", "gamma")):
            parameter.set_data(mx.nd.array(random.uniform(0.7, 1.3, parameter.shape)))
        elif "predictors." in name and name.endswith("weight"):
            # resnet's and vgg's features are many and large
            parameter.set_data(parameter.data() * (0.5 if base_network in ("resnet-50", "vgg-16") else 5))
    return net


def talking_model(folder: Path, classes: Sequence[str] = CLASSES, post_nms: int = 100, **settings: Any) -> SavedModel:
    """A model folder with such a net."""
    config = small_config(**{"nms_topk": 400, **settings})  # as a job leaves it
    net = talking_net(config.base_network, config.image_shape, classes)
    SavedModel(config, ClassNames(tuple(classes)), post_nms, epoch=0).save(folder, net)
    return SavedModel.load(folder)


def drawn_inputs(count: int, side: int = 128, seed: int = 3) -> np.ndarray:
    """Drawn pictures as a network sees them: uint8 (count, side, side, 3)."""
    return np.stack([preprocess(sample.image, side) for sample in draw_shapes_set(count, seed)])


def suppressed(candidates: Any, post_nms: int, noise: float = 0.0, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    """Rows (post_nms, 6) that the network's own suppression makes of candidates whose scores have so much noise (of
    their logarithm), and whose boxes are moved by `shift` px."""
    scores = np.concatenate([1 - candidates.scores.sum(axis=1, keepdims=True), candidates.scores], axis=1)
    logits = np.log(scores) + np.random.RandomState(seed).normal(0, noise, scores.shape)
    block = _Suppress(candidates.scores.shape[1], candidates.threshold, candidates.topk, post_nms)
    return block(mx.nd.array(logits[None]), mx.nd.array(candidates.boxes[None] + shift)).asnumpy()[0]


def undecided_model(folder: Path, **settings: Any) -> SavedModel:
    """A model folder as after the first steps: all scores are equal but for rounding, and boxes differ."""
    config = small_config(**{"nms_topk": 400, **settings})  # as a job leaves it
    net = talking_net(config.base_network, config.image_shape, CLASSES)
    for name, parameter in net._collect_params_with_prefix().items():
        if name.startswith("class_predictors.") and name.endswith("weight"):
            parameter.set_data(parameter.data() * 1e-5)
    SavedModel(config, ClassNames(CLASSES), 400, epoch=0).save(folder, net)
    return SavedModel.load(folder)

"""Networks that need no training, models to be saved, and training steps on small batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from helpers.data import small_config

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.data.loaders import TrainBatch
from ssd_train.data.structures import ClassNames, LabeledImage
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set
from ssd_train.data.transforms import EvalTransform, preprocess
from ssd_train.devices import contexts
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.graphs import _Suppress
from ssd_train.model.net import build_net
from ssd_train.model.targets import TargetEncoder
from ssd_train.storage.atomic import with_sum, write_json_atomic
from ssd_train.training.step import TrainStep

mx = mxnet_compat.mxnet()

CLASSES = ("cat", "dog", "cow")


def talking_net(
    base_network: str = "mobilenet0.25", side: int = 128, classes: Sequence[str] = CLASSES, first_stride: int = 0
) -> Any:
    """A net whose class scores differ and whose boxes leave their anchors, with BatchNorm statistics as after
    training."""
    net = build_net(base_network, side, classes, seed=1, first_stride=first_stride)
    random = np.random.RandomState(0)
    for name, parameter in net._collect_params_with_prefix().items():
        if name.endswith(("running_mean", "moving_mean", "beta")):
            parameter.set_data(mx.nd.array(random.normal(0, 0.1, parameter.shape)))
        elif name.endswith(("running_var", "moving_var", "gamma")):
            parameter.set_data(mx.nd.array(random.uniform(0.7, 1.3, parameter.shape)))
        elif "predictors." in name and name.endswith("weight"):
            # resnet's and vgg's features are many and large: with more, boxes are many times as large as the image
            parameter.set_data(parameter.data() * {"resnet-50": 0.05, "vgg-16": 0.5}.get(base_network, 5))
    return net


def talking_model(folder: Path, classes: Sequence[str] = CLASSES, post_nms: int = 100, **settings: Any) -> SavedModel:
    """A model folder with such a net."""
    config = small_config(**{"nms_topk": 400, **settings})  # as a job leaves it
    net = talking_net(config.base_network, config.image_shape, classes, config.first_stride)
    SavedModel(config, ClassNames(tuple(classes)), post_nms, epoch=0).save(folder, net)
    return SavedModel.load(folder)


def change_config(folder: Path, **changes: Any) -> None:
    """Change values in the config.json of a model folder."""
    document = {**json.loads((folder / "config.json").read_text()), **changes}
    write_json_atomic(folder / "config.json", with_sum(document))


def drawn_inputs(count: int, side: int = 128, seed: int = 3) -> np.ndarray:
    """Drawn pictures as a network sees them: uint8 (count, side, side, 3)."""
    return np.stack([preprocess(sample.image, side) for sample in draw_shapes_set(count, seed)])


def suppressed(candidates: Any, post_nms: int, noise: float = 0.0, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    """Rows (post_nms, 6) that the network's own suppression makes of candidates whose scores have so much noise (of
    their logarithm), and whose boxes are moved by `shift` px."""
    scores = np.concatenate([1 - candidates.scores.sum(axis=1, keepdims=True), candidates.scores], axis=1)
    logits = np.log(scores) + np.random.RandomState(seed).normal(0, noise, scores.shape)
    voting = bool(candidates.voting_iou)
    block = _Suppress(candidates.scores.shape[1], candidates.threshold, candidates.topk, post_nms, voting)
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


SIDE = 128
NETWORK = "mobilenet0.25"
CONFIG = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_gradient": 0.0}


def drawn_samples():
    """Eight drawn pictures with their targets; the last two show nothing."""
    encode = TargetEncoder(make_anchors(anchor_layout(NETWORK, SIDE)))
    drawn = draw_shapes_set(6, 1, (SIDE, SIDE), empty_fraction=0.0) + draw_shapes_set(2, 2, (SIDE, SIDE), 0, 1.0)
    transform = EvalTransform(SIDE, encode)
    found = []
    for index, sample in enumerate(drawn):
        record = LabeledImage(sample.name, sample.boxes, sample.class_ids, (SIDE, SIDE), f"train.manifest:{index + 1}")
        found.append((record, transform(sample.image, sample.boxes, sample.class_ids)))
    return found


def batch_of(samples, indices, kind=TrainBatch, **more):
    """A TrainBatch, or another `kind`, of the samples at `indices`."""
    chosen = [samples[index] for index in indices]
    arrays = [np.stack(column) for column in zip(*(targets for _, targets in chosen))]
    return kind(*arrays, tuple(record for record, _ in chosen), **more)


def train_step(devices="cpu", **settings):
    """A Learner with its first weights, on `devices`."""
    config = small_config(**{**CONFIG, **settings})
    return TrainStep(build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1), config, contexts(devices))


def weights(learned, device=0):
    """The arrays of the net by name, as one of its devices has them."""
    mx.nd.waitall()
    return {name: p.list_data()[device].asnumpy() for name, p in learned.net._collect_params_with_prefix().items()}


def pulled(learned, batch, scale):
    """Forward and backward, and nothing learned from it: the summed losses, and the norm of the gradient of their sum
    times `scale`."""
    return learned._read(*learned._forward_backward(batch, scale))


def gradients(learned):
    """The gradients by the names of their parameters, without the prefix of the net."""
    return {p.name.split("_", 1)[1]: p.list_grad()[0].asnumpy() for p in learned.parameters}


def assert_close(found, expected, share):
    """Each array within `share` of the other's largest value, in a sum of many float32."""
    assert found.keys() == expected.keys()
    for name, array in found.items():
        scale = max(np.abs(expected[name]).max(), 1e-5)
        np.testing.assert_allclose(array, expected[name], atol=share * scale, err_msg=name)


NAMES = ClassNames(("cat", "dog"))
ANCHORS = len(make_anchors(anchor_layout("mobilenet0.25", SIDE)))


def make_net(seed=1):
    """A net of NAMES with its first weights, of `seed`."""
    return build_net("mobilenet0.25", SIDE, list(NAMES), seed)


def saved_learner(optimizer="sgd", devices=None, seed=1):
    """A Learner of such a net."""
    return TrainStep(make_net(seed), small_config(optimizer=optimizer), devices or contexts("cpu"))


def noise_batch(seed):
    """Noise, with a few objects at random anchors."""
    random = np.random.RandomState(seed)
    classes = np.zeros((2, ANCHORS), np.float32)
    classes[:, random.choice(ANCHORS, 5)] = 1 + random.randint(2)
    boxes = random.normal(0, 1, (2, ANCHORS, 4)).astype(np.float32) * (classes > 0)[..., None]
    pictures = random.randint(0, 256, (2, SIDE, SIDE, 3)).astype(np.uint8)
    return TrainBatch(pictures, classes, boxes, (LabeledImage("a", [], []), LabeledImage("b", [], [])))


def values(net):
    """The arrays of a net by name."""
    mx.nd.waitall()
    return {name: p.list_data()[0].asnumpy() for name, p in net._collect_params_with_prefix().items()}


def assert_equal(a, b):
    """Two nets are equal bit for bit."""
    a, b = values(a), values(b)
    assert [name for name in a if not np.array_equal(a[name], b[name])] == []


def saved(epoch=3, **settings):
    """A description to save a net under."""
    return SavedModel(small_config(**settings), NAMES, 120, epoch, {"VOC07": 0.5}, {"mxnet": "1.9.1"})


def files(folder):
    """The names in a folder."""
    return sorted(path.name for path in folder.iterdir())


def flip_a_bit(path):
    """Damage a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))

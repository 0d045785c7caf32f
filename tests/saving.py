"""Small models and learners to be saved, and what of them comes back."""

from __future__ import annotations

import numpy as np
from builders import small_config

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.data.loaders import TrainBatch
from ssd_train.data.structures import ClassNames, LabeledImage
from ssd_train.devices import contexts
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.net import build_net
from ssd_train.training.step import TrainStep

mx = mxnet_compat.mxnet()
NAMES = ClassNames(("cat", "dog"))
SIDE = 128
ANCHORS = len(make_anchors(anchor_layout("mobilenet0.25", SIDE)))


def make_net(seed=1):
    """A net of NAMES with its first weights, of `seed`."""
    return build_net("mobilenet0.25", SIDE, list(NAMES), seed)


def learner(optimizer="sgd", devices=None, seed=1):
    """A Learner of such a net."""
    return TrainStep(make_net(seed), small_config(optimizer=optimizer), devices or contexts("cpu"))


def batch(seed):
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

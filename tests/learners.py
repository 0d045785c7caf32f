"""Small learners, their batches, and what they have learned."""

from __future__ import annotations

import numpy as np
from builders import small_config

from ssd_train import mxnet_compat
from ssd_train.data.loaders import TrainBatch
from ssd_train.data.structures import LabeledImage
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set
from ssd_train.data.transforms import EvalTransform
from ssd_train.devices import contexts
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.net import build_net
from ssd_train.model.targets import TargetEncoder
from ssd_train.training.step import TrainStep

mx = mxnet_compat.mxnet()
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


def learner(devices="cpu", **settings):
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

"""Every network, at a small size: a few steps lower its loss, its answers are sound, and its weights come back."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.data import small_config

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.config import BASE_NETWORKS
from ssd_train.data.loaders import EvalBatch, TrainBatch
from ssd_train.data.structures import LabeledImage
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set
from ssd_train.data.transforms import EvalTransform
from ssd_train.devices import contexts
from ssd_train.model.anchors import layout_of, make_anchors
from ssd_train.model.net import net_of
from ssd_train.model.targets import TargetEncoder
from ssd_train.training.engine import Evaluator
from ssd_train.training.step import TrainStep

pytestmark = pytest.mark.integration

mx = mxnet_compat.mxnet()

SIDE = 128
QUICK = ("mobilenet0.25", "mobilenetv2_1.0")


def batch_for(config, kind=TrainBatch, **more):
    transform = EvalTransform(SIDE, TargetEncoder(make_anchors(layout_of(config))))
    drawn = draw_shapes_set(4, 1, (SIDE, SIDE), empty_fraction=0.25)
    arrays = [np.stack(column) for column in zip(*(transform(s.image, s.boxes, s.class_ids) for s in drawn))]
    return kind(*arrays, tuple(LabeledImage(s.name, s.boxes, s.class_ids, (SIDE, SIDE)) for s in drawn), **more)


@pytest.mark.parametrize(
    "base_network, strides",
    [
        pytest.param(n, strides, marks=() if n in QUICK else pytest.mark.slow)
        for n in BASE_NETWORKS
        for strides in ("", "8,16,...")
    ],
)
def test_train_step_of_each_network_lowers_the_loss(tmp_path, base_network, strides):
    config = small_config(base_network=base_network, feature_strides=strides)
    net = net_of(config, SHAPE_CLASSES)
    learned = TrainStep(net, config, contexts("cpu"))
    batch = batch_for(config)
    losses = [learned.step(batch, 0.0005).sum() / batch.positives for _ in range(6)]
    assert all(np.isfinite(losses)) and losses[-1] < 0.9 * losses[0]
    assert losses[0] < 60, "an untrained net knows nothing, and not less"

    sizes = ((SIDE, SIDE),) * 4
    evaluator = Evaluator(net, config, mx.cpu(), 100)
    answers, losses = evaluator.predict(batch_for(config, EvalBatch, sizes=sizes))
    assert min(losses) > 0 and all(len(answer) <= 100 for answer in answers)

    SavedModel(config, SHAPE_CLASSES, 100, 0).save(tmp_path, net)
    again = Evaluator(SavedModel.load(tmp_path).build(), config, mx.cpu(), 100)
    found, _ = again.predict(batch_for(config, EvalBatch, sizes=sizes))
    for a, b in zip(answers, found):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)

"""Tests of the graphs: equal to GluonCV's forward, in any order of calls."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.voting import candidates_of, voted

from ssd_train import mxnet_compat
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.graphs import (
    CandidateGraph,
    DetectGraph,
    EvalGraph,
    TrainGraph,
    hybridize_static,
)
from ssd_train.model.loss import DetectionLoss
from ssd_train.model.net import build_net
from ssd_train.model.normalization import PIXEL_MEAN, PIXEL_STD

mx = mxnet_compat.mxnet()

SIDE, CLASSES = 128, ("cat", "dog", "cow")
ANCHORS = len(make_anchors(anchor_layout("mobilenet0.25", SIDE)))
NMS = {"nms_threshold": 0.45, "nms_topk": 400, "post_nms": 100}


def make_net(base_network="mobilenet0.25", seed=1):
    """Return a network with random heads, so that class scores and boxes differ."""
    net = build_net(base_network, SIDE, CLASSES, seed)
    for name, parameter in net._collect_params_with_prefix().items():
        if "predictors." in name and name.endswith("weight"):
            parameter.set_data(parameter.data() * 20)
    return net


def pictures(count=3, seed=0):
    coarse = np.random.RandomState(seed).randint(0, 256, (count, 8, 8, 3))
    return np.kron(coarse, np.ones((1, SIDE // 8, SIDE // 8, 1))).astype(np.uint8)


def targets(count=3, positives=5):
    random = np.random.RandomState(1)
    classes = np.zeros((count, ANCHORS), np.float32)
    for row in classes:
        row[random.choice(ANCHORS, positives, replace=False)] = random.randint(1, 4, positives)
    boxes = random.normal(0, 1, (count, ANCHORS, 4)).astype(np.float32) * (classes > 0)[..., None]
    return classes, boxes


def normalised(pixels):
    """Return images as GluonCV's default transforms normalize them: (B, 3, S, S)."""
    return mx.nd.array(((pixels / 255.0 - PIXEL_MEAN) / PIXEL_STD).transpose(0, 3, 1, 2))


def arrays(pixels, *others):
    return [mx.nd.array(pixels, dtype="uint8"), *(mx.nd.array(a) for a in others)]


@pytest.mark.parametrize(
    "nms", [NMS, {"nms_threshold": 0.7, "nms_topk": 50, "post_nms": 10}], ids=["usual", "other-nms"]
)
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_detect_graph_equals_gluoncv_forward(compiled, nms):
    graph = DetectGraph(make_net(), **nms)
    rows = (hybridize_static(graph) if compiled else graph)(*arrays(pictures())).asnumpy()
    net = make_net()
    net.set_nms(nms["nms_threshold"], nms["nms_topk"], nms["post_nms"])
    ids, scores, boxes = (a.asnumpy() for a in net(normalised(pictures())))
    assert (rows[..., 0] >= 0).sum() > 20, "a test of detections needs some"
    np.testing.assert_array_equal(rows[..., :1], ids)
    np.testing.assert_allclose(rows[..., 1:2], scores, atol=1e-5)
    np.testing.assert_allclose(rows[..., 2:], boxes, atol=1e-2)


@pytest.mark.parametrize("device", [mx.cpu(0), mx.cpu(1)], ids=str)
def test_graphs_with_box_voting_equal_numpy(device):
    """The network has no parameters on cpu(0) if it is on cpu(1)."""
    net = make_net()
    net.collect_params().reset_ctx(device)
    given = [array.as_in_context(device) for array in arrays(pictures(), *targets())]
    graphs = {
        "plain": DetectGraph(net, **NMS),
        "detect": DetectGraph(net, **NMS, box_voting=True),
        "compiled": hybridize_static(DetectGraph(net, **NMS, box_voting=True)),
        "candidates": CandidateGraph(net),
    }
    plain, *found, (scores, boxes) = (as_numpy(graph(given[0])) for graph in graphs.values())
    loss = DetectionLoss(3.0, 3)
    found.append(as_numpy(hybridize_static(EvalGraph(net, loss, *NMS.values(), True))(*given)))
    every = [candidates_of(*image, NMS["nms_topk"]) for image in zip(scores, boxes)]
    expected = np.stack([voted(*image) for image in zip(plain[0], every)])
    assert (np.abs(expected - plain[0])[..., 2:] > 1).any(axis=(1, 2)).all(), "voting moves boxes"
    for rows, *_ in found:
        np.testing.assert_allclose(rows, expected, atol=1e-2)


class Trio:
    """The three graphs of one net, each called as training calls it."""

    def __init__(self):
        self.net = make_net()
        loss = DetectionLoss(3.0, 3)
        self.graphs = {
            "train": hybridize_static(TrainGraph(self.net, loss)),
            "eval": hybridize_static(EvalGraph(self.net, loss, *NMS.values())),
            "detect": hybridize_static(DetectGraph(self.net, *NMS.values())),
        }

    def call(self, name):
        pixels, given = pictures(), targets()
        if name == "detect":
            return self.graphs[name](*arrays(pixels))
        if name == "eval":
            return self.graphs[name](*arrays(pixels, *given))
        with mx.autograd.record():
            outputs = self.graphs[name](*arrays(pixels, *given, np.array([1 / 15], np.float32)))
        outputs[0].backward()
        mx.nd.waitall()  # MXNet moves BatchNorm's statistics in backward, and reading them does not wait for that
        return outputs


def as_numpy(outputs):
    return [o.asnumpy() for o in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]


ORDERS = [("train", "detect", "train", "eval"), ("detect", "train", "detect"), ("eval", "train", "detect", "eval")]


@pytest.mark.parametrize("order", ORDERS, ids=["-".join(order) for order in ORDERS])
def test_graphs_called_in_any_order_give_the_same(order):
    """GluonCV's SSD, hybridized, keeps the form of its first call. Each call here is compared with a net of which only
    this graph was called; BatchNorm statistics, which training moves, are put back before each."""
    trio = Trio()
    parameters = trio.net._collect_params_with_prefix()
    before = {name: parameter.data().copy() for name, parameter in parameters.items()}
    for name in order:
        for key, value in before.items():
            parameters[key].set_data(value)
        found, expected = as_numpy(trio.call(name)), as_numpy(Trio().call(name))
        assert len(found) == len(expected) == {"train": 3, "eval": 3, "detect": 1}[name]
        for a, b in zip(found, expected):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_eval_graph_returns_detections_and_loss():
    trio = Trio()
    rows, cross_entropy, smooth_l1 = as_numpy(trio.call("eval"))
    np.testing.assert_allclose(rows, as_numpy(trio.call("detect"))[0], atol=1e-4)
    class_preds, box_preds, _ = trio.graphs["eval"].heads(*arrays(pictures()))
    wanted = DetectionLoss(3.0, 3)(class_preds, box_preds, *(mx.nd.array(a) for a in targets()))
    np.testing.assert_allclose([cross_entropy[0], smooth_l1[0]], [w.asscalar() for w in wanted], rtol=1e-4)


def test_train_graph_scale_applies_to_the_gradient_only():
    gradients = []
    for scale in (1.0, 0.25):
        trio = Trio()
        with mx.autograd.record():
            loss, cross_entropy, smooth_l1 = trio.graphs["train"](
                *arrays(pictures(), *targets(), np.array([scale], np.float32))
            )
        loss.backward()
        np.testing.assert_allclose(loss.asscalar(), scale * (cross_entropy + smooth_l1).asscalar(), rtol=1e-5)
        gradients.append(trio.net.class_predictors[0].predictor.weight.grad().asnumpy())
    assert np.abs(gradients[0]).max() > 0
    np.testing.assert_allclose(gradients[1], gradients[0] * 0.25, rtol=1e-4, atol=1e-6)

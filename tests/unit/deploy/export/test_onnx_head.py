"""Preprocessing, decoding and NMS as ONNX equal MXNet's operators."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.voting import candidates_of, voted

from ssd_train import mxnet_compat
from ssd_train.deploy.export.onnx import (
    FLOAT,
    UINT8,
    GraphBuilder,
    Suppression,
    Value,
    add_decoding,
    add_detection,
    add_normalisation,
)
from ssd_train.model.graphs import SCORE_THRESHOLD, _decode, _Normalize, _Suppress

mx = mxnet_compat.mxnet()
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore:Cannot decide type")
ANCHORS, CLASSES = 60, 3
USUAL = Suppression(threshold=0.45, topk=400, post_nms=100, score_floor=SCORE_THRESHOLD)
VOTING = USUAL._replace(box_voting=True)


def run(document, **inputs):
    onnx.checker.check_model(document)
    return runtime.InferenceSession(document.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)[
        0
    ]


def candidates(count=2, seed=0, spread=3.0):
    """Return class scores before softmax (B, A, C + 1) and boxes (B, A, 4) in clusters, so that many overlap."""
    random = np.random.RandomState(seed)
    scores = random.normal(0, spread, (count, ANCHORS, CLASSES + 1)).astype(np.float32)
    corners = np.repeat(random.uniform(0, 90, (count, ANCHORS // 6, 2)), 6, axis=1) + random.uniform(
        0, 8, (count, ANCHORS, 2)
    )
    sizes = random.uniform(20, 30, (count, ANCHORS, 2))
    return scores, np.concatenate([corners, corners + sizes], axis=2).astype(np.float32)


def document_of(rules):
    graph = GraphBuilder()
    add_detection(graph, "scores", "boxes", (ANCHORS, CLASSES), rules, "rows")
    # the builder's models have one input; this test needs two
    document = graph.to_model(
        Value("scores", FLOAT, ["N", ANCHORS, CLASSES + 1]), [Value("rows", FLOAT, ["N", None, 6])]
    )
    document.graph.input.append(onnx.helper.make_tensor_value_info("boxes", FLOAT, ["N", ANCHORS, 4]))
    return document


def by_onnx(scores, boxes, rules):
    return run(document_of(rules), scores=scores, boxes=boxes)


def by_openvino(scores, boxes, rules):
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(document_of(rules).SerializeToString()), "CPU", settings)
    return compiled({"scores": scores, "boxes": boxes})[0]


def by_mxnet(scores, boxes, rules):
    block = _Suppress(CLASSES, rules.threshold, rules.topk, rules.post_nms, rules.box_voting)
    return block(mx.nd.array(scores), mx.nd.array(boxes)).asnumpy()


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(USUAL, id="usual"),
        pytest.param(USUAL._replace(threshold=0.7), id="higher-threshold"),
        pytest.param(USUAL._replace(threshold=1.0), id="nothing-is-dropped"),
        pytest.param(USUAL._replace(topk=25), id="few-enter"),
        pytest.param(USUAL._replace(post_nms=7), id="few-leave"),
        pytest.param(USUAL._replace(topk=9, post_nms=180), id="few-enter-all-may-leave"),
        pytest.param(USUAL._replace(topk=180, post_nms=180), id="all"),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_add_detection_rows_equal_mxnets(rules, count):
    scores, boxes = candidates(count)
    expected = by_mxnet(scores, boxes, rules)
    assert (expected[..., 0] >= 0).any(axis=1).all() and {0, 1, 2} <= set(expected[..., 0].ravel())
    found = by_onnx(scores, boxes, rules)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("write", [by_mxnet, by_onnx, by_openvino])
@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(USUAL, id="usual"),
        pytest.param(USUAL._replace(topk=25), id="few-enter"),
        pytest.param(USUAL._replace(topk=25, post_nms=7), id="few-enter-and-leave"),
        pytest.param(USUAL._replace(topk=9, post_nms=180), id="few-enter-all-may-leave"),
        pytest.param(USUAL._replace(threshold=0.7, topk=1000), id="more-may-enter-than-there-are"),
    ],
)
def test_add_detection_with_box_voting_equals_numpy(rules, write, count):
    scores, boxes = candidates(count)
    plain = by_mxnet(scores, boxes, rules)
    with_voting = write(scores, boxes, rules._replace(box_voting=True))
    odds = np.exp(scores)
    shares = (odds / odds.sum(axis=2, keepdims=True))[..., 1:]
    every = [candidates_of(*image, rules.topk) for image in zip(shares, boxes)]
    expected = np.stack([voted(*image) for image in zip(plain, every)])
    moved = np.abs(expected - plain)[..., 2:].max(axis=2)
    assert (moved > 0.5).any(), "voting moves boxes"
    np.testing.assert_allclose(with_voting, expected, atol=1e-3)
    np.testing.assert_allclose(with_voting[..., :2], plain[..., :2], atol=1e-6)


@pytest.mark.parametrize("rules", [USUAL, VOTING], ids=["plain", "voting"])
@pytest.mark.parametrize("write", [by_mxnet, by_onnx])
def test_add_detection_background_only_gives_unused_rows(write, rules):
    scores, boxes = candidates(3)
    scores[1, :, 0] += 30  # background, by far
    found = write(scores, boxes, rules)
    assert (found[1] == -1).all() and (found[[0, 2], 0, 0] >= 0).all()
    scores[..., 0] += 30
    assert (write(scores, boxes, rules) == -1).all()


@pytest.mark.parametrize("rules", [USUAL, VOTING], ids=["plain", "voting"])
def test_add_detection_nan_scores_give_nan_rows_of_that_image(rules):
    scores, boxes = candidates(2)
    scores[0, 5, 1] = np.nan
    found = by_onnx(scores, boxes, rules)
    assert np.isnan(found[0]).all() and np.isfinite(found[1]).all()


def test_add_decoding_equals_the_network():
    random = np.random.RandomState(0)
    anchors = random.uniform(5, 60, (ANCHORS, 4)).astype(np.float32)
    offsets = random.normal(0, 2, (3, ANCHORS, 4)).astype(np.float32)
    graph = GraphBuilder()
    boxes = add_decoding(graph, "offsets", anchors, (0.1, 0.2))
    document = graph.to_model(Value("offsets", FLOAT, ["N", ANCHORS, 4]), [Value(boxes, FLOAT, ["N", ANCHORS, 4])])
    expected = _decode(mx.nd, mx.nd.array(offsets), mx.nd.array(anchors[None])).asnumpy()
    np.testing.assert_allclose(run(document, offsets=offsets), expected, rtol=1e-5, atol=1e-4)


def test_add_normalisation_equals_the_network():
    pixels = np.random.RandomState(0).randint(0, 256, (2, 5, 5, 3)).astype(np.uint8)
    graph = GraphBuilder()
    name = add_normalisation(graph, "pixels")
    document = graph.to_model(Value("pixels", UINT8, ["N", 5, 5, 3]), [Value(name, FLOAT, ["N", 3, 5, 5])])
    expected = _Normalize()(mx.nd.array(pixels, dtype="uint8")).asnumpy()
    np.testing.assert_allclose(run(document, pixels=pixels), expected, atol=1e-5)

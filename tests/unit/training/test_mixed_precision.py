"""Tests of mixed precision: the casts of MXNet's amp.init, in the training graph alone."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from helpers import models
from helpers.models import batch_of, drawn_inputs, gradients, pulled, talking_model, train_step, weights

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.data.loaders import EvalBatch
from ssd_train.data.structures import ClassNames
from ssd_train.data.synthetic import SHAPE_CLASSES
from ssd_train.deploy.gluon_backend import GluonEngine
from ssd_train.deploy.symbol import make_symbol
from ssd_train.training import step
from ssd_train.training.engine import Evaluator, evaluate, train_one_epoch

mx = mxnet_compat.mxnet()
bfloat16 = importlib.import_module("mxnet.contrib.amp.amp").bfloat16

# in a process of its own, because amp.init cannot be undone
AMP_INIT = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from helpers.models import batch_of, drawn_samples, gradients, pulled, train_step
from mxnet.contrib import amp
from ssd_train.training import step
step.fused_features = lambda net, shape: None
amp.init(target_dtype="bfloat16")
learned = train_step(amp=0)
losses, _ = pulled(learned, batch_of(drawn_samples(), [0, 1, 2, 6]), 0.01)
np.savez(sys.argv[2], losses=losses, **gradients(learned))
"""


def test_train_step_amp_equals_amp_init_bit_for_bit(samples, tmp_path):
    learned = train_step(amp=1)
    losses, _ = pulled(learned, batch_of(samples, [0, 1, 2, 6]), 0.01)
    arguments = [str(Path(models.__file__).parents[1]), str(tmp_path / "init.npz")]
    done = subprocess.run([sys.executable, "-c", AMP_INIT, *arguments], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    expected = dict(np.load(tmp_path / "init.npz"))
    np.testing.assert_array_equal(losses, expected.pop("losses"))
    for name, array in gradients(learned).items():
        np.testing.assert_array_equal(array, expected.pop(name), err_msg=name)
    assert not expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "network, settings, class_weights",
    [
        ("mobilenet0.25", {}, ()),
        ("mobilenet0.25", {"classification_loss": "focal", "label_smoothing": 0.1}, (2.0,)),
        ("resnet-50", {}, ()),
        ("vgg-16", {}, (2.0,)),
    ],
)
def test_train_step_amp_computes_convolutions_in_16_bits_and_the_loss_in_32(dtype, network, settings, class_weights):
    """float16 as on GPUs: the graph is built, not computed."""
    net = models.build_net(network, 128, ["cat"], 1)
    loss = step.make_loss(models.small_config(**settings), class_weights)
    graph = step.with_mixed_precision(step.TrainGraph(net, loss), dtype)
    inputs, symbol = graph._cached_graph
    names = {node["name"]: node["op"] for node in json.loads(symbol.tojson(remove_amp_cast=False))["nodes"]}
    internals = symbol.get_internals()
    _, types, _ = internals.infer_type(**{one.name: "uint8" if one.name == "pixels" else "float32" for one in inputs})
    dtypes = defaultdict(set)
    for output, kind in zip(internals.list_outputs(), types):
        dtypes[names.get(re.sub("_output0?$", "", output))].add(np.dtype(kind))
    low = np.dtype(bfloat16 if dtype == "bfloat16" else dtype)
    assert dtypes["Convolution"] == {low}
    for operator in ("log_softmax", "smooth_l1", "pick", "sum"):
        assert dtypes[operator] == {np.dtype("float32")}, operator
    assert {np.dtype(parameter.dtype) for parameter in graph.collect_params().values()} == {np.dtype("float32")}


def seen(folder):
    """What the model in `folder` computes and exports."""
    rows = GluonEngine(folder, "cpu:1").run(drawn_inputs(4))
    return rows, make_symbol(SavedModel.load(folder))[0].tojson(remove_amp_cast=False)


def test_train_step_amp_changes_no_other_network_of_the_process(samples, tmp_path):
    talking_model(tmp_path)
    batch = batch_of(samples, [0, 1])
    (rows, symbol), losses = seen(tmp_path), pulled(train_step(amp=0), batch, 0.01)
    train_step(amp=1).step(batch, 1e-3)
    (rows_after, symbol_after), losses_after = seen(tmp_path), pulled(train_step(amp=0), batch, 0.01)
    np.testing.assert_array_equal(rows_after, rows)
    np.testing.assert_array_equal(losses_after[0], losses[0])
    assert symbol_after == symbol and "amp_cast" not in symbol


def test_train_one_epoch_amp_after_an_evaluation_equals_one_without(samples):
    """Inference changes the layout of the weights in place, which the casts cannot read."""
    batches = [batch_of(samples, indices) for indices in ([0, 1, 6], [2, 7], [3, 4, 5])]
    unread, evaluated = train_step(amp=1), train_step(amp=1)
    evaluator = Evaluator(evaluated.net, models.small_config(amp=1), mx.cpu(), 10)
    evaluate(
        evaluator, [batch_of(samples, range(4), EvalBatch, sizes=((128, 128),) * 4)], ClassNames(tuple(SHAPE_CLASSES))
    )
    for learned in (unread, evaluated):
        train_one_epoch(learned, batches, [1e-3] * 3)
    expected = weights(unread)
    for name, array in weights(evaluated).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)

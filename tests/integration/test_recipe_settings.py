"""What shapes learning beyond the defaults, through the whole job: averages, losses, anchors."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.data import HeardProgress, shapes_set, small_config

from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.cli.train import train
from ssd_train.environment import Environment
from ssd_train.model.anchors import anchor_layout

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return (*shapes_set(folder / "train", 12, seed=1), *shapes_set(folder / "validation", 5, seed=2))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Trains with these settings; the model, the weights by name, the history's rows and what was said."""

    def trained(pretrained=None, **settings):
        folder, progress = tmp_path_factory.mktemp("run"), HeardProgress()
        environment = Environment(*data, folder / "model", folder / "output", pretrained=pretrained)
        result = train(small_config(**settings), environment, progress)
        model = SavedModel.load(folder / "model")
        scores = result.scores.to_json()  # with details, which the model's do not have
        assert {name: scores[name] for name in model.scores} == model.scores
        arrays = {n: p.list_data()[0].asnumpy() for n, p in model.build()._collect_params_with_prefix().items()}
        rows = (folder / "model" / "history.jsonl").read_text().splitlines()
        return model, arrays, rows, progress.lines

    return trained


@pytest.fixture(scope="module")
def plain(run):
    return run()


def differing(a, b):
    return [name for name in a if not np.array_equal(a[name], b[name])]


def test_train_with_ema_saves_the_average_and_leaves_training_unchanged(plain, run):
    _, weights, rows, _ = plain
    _, averaged, its_rows, _ = run(ema_decay=0.9)
    assert len(differing(weights, averaged)) > 100
    for row, other in zip(rows, its_rows):
        assert row.split('"learning_rate"')[0] == other.split('"learning_rate"')[0]  # both losses of training


def test_train_with_auto_anchors_keeps_them_in_the_model(plain, run):
    model, weights, _, lines = plain
    sizes = anchor_layout("mobilenet0.25", 128, model.config.anchor_scales).sizes
    assert any(line.startswith(f"anchor_sizes {model.config.anchor_sizes}: mean IoU") for line in lines)
    usual, its_weights, _, its_lines = run(auto_anchors=False)
    assert usual.config.anchor_sizes == "" and not any("anchor_sizes" in line for line in its_lines)
    assert sizes != anchor_layout("mobilenet0.25", 128).sizes
    anchors = [name for name in weights if name.endswith("anchors")]
    assert set(anchors) & set(differing(weights, its_weights)), "the network's own anchors are the fitted ones"

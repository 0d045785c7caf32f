"""Tests of learning rates against tables, and of early stopping as the built-in algorithm defines it."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train.config import TrainConfig
from ssd_train.training.schedule import BestTracker, epoch_learning_rates


def config(**settings):
    return TrainConfig(**{"learning_rate": 0.1, "warmup_epochs": 0, "epochs": 4, **settings})


def rates(settings, steps):
    return [rate for epoch in range(settings.epochs) for rate in epoch_learning_rates(settings, epoch, steps)]


@pytest.mark.parametrize(
    "settings, steps, expected",
    [
        pytest.param({"lr_schedule": "constant"}, 2, [0.1] * 8, id="constant"),
        pytest.param({"lr_scheduler_step": "2"}, 2, [0.1] * 4 + [0.01] * 4, id="step"),
        pytest.param({"lr_scheduler_step": "9"}, 1, [0.1] * 4, id="a-step-that-never-comes"),
        # half of 1 + cos of 0, 45, 90, 135 degrees
        pytest.param({}, 1, [0.1, 0.0853553, 0.05, 0.0146447], id="cosine"),
        pytest.param({"epochs": 1}, 1, [0.1], id="cosine-of-one-step"),
        # 2 epochs of 2 steps: fifths of the rate, then on
        pytest.param(
            {"lr_schedule": "constant", "warmup_epochs": 2, "epochs": 3},
            2,
            [0.02, 0.04, 0.06, 0.08, 0.1, 0.1],
            id="warm-up",
        ),
        pytest.param(
            {"lr_schedule": "constant", "warmup_epochs": 9, "epochs": 1},
            4,
            [0.1 * n / 37 for n in (1, 2, 3, 4)],
            id="warm-up-only",
        ),
        # after the warm-up of 1 epoch the half cosine over the 2 others
        pytest.param(
            {"warmup_epochs": 1, "epochs": 3},
            2,
            [0.1 / 3, 0.2 / 3, 0.1, 0.0853553, 0.05, 0.0146447],
            id="warm-up-and-cosine",
        ),
        pytest.param(
            {"lr_scheduler_step": "1,2", "warmup_epochs": 1, "epochs": 3},
            1,
            [0.05, 0.01, 0.001],
            id="warm-up-and-steps",
        ),
    ],
)
def test_learning_rate_equals_hand_computed(settings, steps, expected):
    np.testing.assert_allclose(rates(config(**settings), steps), expected, rtol=1e-5)


def run(scores, **settings):
    """Return the number of epochs until early stopping, and the best epoch, for these scores."""
    settings = {"early_stopping_min_epochs": 1, "metric_for_best_model": "voc07", **settings}
    chosen = config(early_stopping=True, epochs=len(scores), **settings)
    best, history = BestTracker(), []
    for epoch, score in enumerate(scores):
        if best.should_stop(chosen, epoch):
            return epoch, best.epoch
        take(best, history, chosen, score, score)
    return len(scores), best.epoch


def take(best, history, chosen, coco, voc07):
    """Add an epoch to `history`; return whether its model is the best so far."""
    row = {"epoch": len(history), "mAP": coco, "VOC07": voc07}
    kept = best.update(row, history, chosen)
    history.append(row)
    return kept


@pytest.mark.parametrize(
    "scores, settings, expected",
    [
        pytest.param([0.3] * 9, {"early_stopping_patience": 3}, (4, 0), id="level"),
        pytest.param([0.3, 0.2, 0.1, 0.3, 0.2, 0.2], {"early_stopping_patience": 2}, (3, 0), id="falling"),
        pytest.param(
            [0.3, 0.2, 0.2, 0.4, 0.1, 0.1, 0.1], {"early_stopping_patience": 3}, (7, 3), id="an-improvement-in-time"
        ),
        pytest.param(
            [0.3] * 9,
            {"early_stopping_patience": 2, "early_stopping_min_epochs": 6},
            (6, 0),
            id="not-before-min-epochs",
        ),
        # of the best before: 0.5 to 0.52 is 4 %
        pytest.param(
            [0.5, 0.52, 0.54, 0.56],
            {"early_stopping_patience": 2, "early_stopping_tolerance": 0.1},
            (3, 2),
            id="too-little",
        ),
        pytest.param([0.0, 0.0, 0.0, 0.0], {"early_stopping_patience": 2}, (3, 0), id="nothing-found"),
        pytest.param(
            [0.0, 0.1, 0.2], {"early_stopping_patience": 1, "early_stopping_tolerance": 1.0}, (3, 2), id="from-nothing"
        ),
        pytest.param([None, None, 0.1], {"early_stopping_patience": 1}, (3, 2), id="not-scored-is-no-failure"),
    ],
)
def test_early_stopping_stops_after_the_expected_epoch(scores, settings, expected):
    assert run(scores, **settings) == expected


def test_early_stopping_patience_counts_epochs_without_evaluation():
    best, history, chosen = BestTracker(), [], config(validation_interval=2)
    take(best, history, chosen, 0.5, 0.5)
    take(best, history, chosen, 0.4, 0.4)
    assert best.epochs_since_improvement == 2
    take(best, history, chosen, 0.4, 0.4)
    assert best.epochs_since_improvement == 4
    take(best, history, chosen, 0.6, 0.6)
    assert (best.epochs_since_improvement, best.value, best.epoch) == (0, 0.6, 3)


def test_best_score_update_keeps_any_improvement():
    best, history, chosen = BestTracker(), [], config(early_stopping_tolerance=0.1, metric_for_best_model="voc07")
    kept = [take(best, history, chosen, score, score) for score in (0.5, 0.5001, 0.5001)]
    assert kept == [True, True, False]
    assert (best.value, best.epoch) == (0.5001, 1)


# (COCO mAP, VOC07 mAP) of epochs as easy data has them: VOC07 saturates, COCO mAP goes on rising
EASY = [(0.3, 0.9), (0.5, 1.0), (0.6, 1.0), (0.6, 0.9), (0.6, 1.0), (0.59, 1.0)]


@pytest.mark.parametrize(
    "settings, expected",
    [
        pytest.param({}, [True, True, True, False, True, False], id="coco-then-voc07-the-later-of-equals"),
        pytest.param({"preset_defaults": "builtin"}, [True, True, False, False, False, False], id="builtin"),
        pytest.param(
            {"preset_defaults": "builtin", "metric_for_best_model": "coco"},
            [True, True, True, False, True, False],
            id="builtin-but-for-the-choice",
        ),
    ],
)
def test_best_score_update_keeps_the_model_of_the_metric(settings, expected):
    best, history, chosen = BestTracker(), [], TrainConfig.from_mapping(settings)
    kept = [take(best, history, chosen, *figures) for figures in EASY]
    assert kept == expected
    assert best.epoch == max(epoch for epoch, keep in enumerate(kept) if keep)
    # early stopping's figure is validation:mAP whatever chooses
    assert (best.value, best.epochs_since_improvement) == (1.0, 4)


@pytest.mark.parametrize(
    "row, expected",
    [
        pytest.param({"epoch": 0, "mAP": 0.5, "VOC07": 0.9}, False, id="better"),
        pytest.param({"epoch": 0, "mAP": 0.4, "VOC07": 0.9}, True, id="worse"),
        pytest.param({"epoch": 0, "VOC07": 0.9}, True, id="coco-unknown"),
        pytest.param({"epoch": 7, "mAP": 0.9, "VOC07": 0.9}, True, id="of-no-row"),
    ],
)
def test_best_score_update_after_a_resume_compares_with_the_kept_row(row, expected):
    best = BestTracker(0.9, 0, 0)
    assert best.update({"epoch": 1, "mAP": 0.45, "VOC07": 0.8}, [row], config()) is expected
    assert (best.value, best.epochs_since_improvement) == (0.9, 1)

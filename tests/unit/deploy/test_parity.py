"""compare counts the boxes that only one of two engines has, except those that ties of scores explain."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.models import drawn_inputs, suppressed, talking_model, undecided_model

from ssd_train.deploy.gluon_backend import GluonEngine
from ssd_train.deploy.parity import compare
from ssd_train.errors import SsdTrainError

UNUSED = [-1.0] * 6
A, B, C = [0, 0.9, 10, 10, 50, 50], [1, 0.7, 20, 20, 40, 60], [0, 0.4, 5, 5, 9, 9]
LAST, FAINT = [1, 0.1, 1, 1, 3, 3], [1, 0.0105, 1, 1, 3, 3]


def rows(*table, length=6):
    padded = [*table, *[UNUSED] * (length - len(table))]
    return np.array([padded], np.float32)


def moved(row, **by):
    names = ["id", "score", "x1", "y1", "x2", "y2"]
    return [value + by.get(name, 0) for name, value in zip(names, row)]


@pytest.mark.parametrize(
    "expected, actual, unmatched",
    [
        pytest.param([A, B, C], [A, B, C], 0, id="same"),
        pytest.param([A, B, C], [B, A, C], 0, id="other-order"),
        pytest.param([A, B, LAST], [moved(A, score=5e-4, x1=0.05), B, LAST], 0, id="within-tolerance"),
        pytest.param([A, B, LAST], [moved(A, score=2e-3), B, LAST], 2, id="other-score"),
        pytest.param([A, B, LAST], [moved(A, id=1), B, LAST], 2, id="other-class"),
        pytest.param([A, LAST], [A, B, LAST], 1, id="too-many"),
        pytest.param([A, B, LAST], [A, B], 1, id="last-only-here"),
        pytest.param([A, B], [A, B, FAINT], 0, id="faint-only-there"),
        pytest.param([A, B, C, A, B, LAST], [A, B, C, A, B, moved(LAST, x1=9)], 0, id="last-of-full-lists"),
        pytest.param([A, B, C, A, B, LAST], [A, B, C, A, LAST, LAST], 1, id="not-last-of-full-lists"),
        pytest.param([], [], 0, id="both-nothing"),
        pytest.param([A, B, LAST], [[np.nan] * 6, B, LAST], 1, id="nan"),
    ],
)
def test_compare_two_tables_counts_unmatched_rows(expected, actual, unmatched):
    agreement = compare(rows(*expected), rows(*actual))
    assert agreement.rows == len(expected)
    assert agreement.unmatched == unmatched


def test_compare_near_rows_returns_largest_differences():
    agreement = compare(rows(A, B, LAST), rows(A, moved(B, score=-5e-4, y1=0.06), LAST))
    assert (agreement.rows, agreement.unmatched) == (3, 0)
    assert agreement.score_difference == pytest.approx(5e-4, rel=1e-2)
    assert agreement.box_difference == pytest.approx(0.06, rel=1e-2)
    assert all(value in str(agreement) for value in ("5.0e-04", "6.0e-02 px"))


def test_require_too_many_unmatched_raises():
    many = [moved(A, score=-0.005 * i, x1=i) for i in range(150)]
    compare(rows(*many, LAST, length=160), rows(*many[1:], LAST, length=160)).raise_for_mismatch("one of 151")
    agreement = compare(rows(*many, LAST, length=160), rows(*many[5:], LAST, length=160))
    assert (agreement.rows, agreement.unmatched) == (151, 5)
    with pytest.raises(SsdTrainError, match="^x.onnx: "):
        agreement.raise_for_mismatch("x.onnx")


IMAGES = drawn_inputs(3)


MODELS = {
    "scores-all-equal": (undecided_model, {"box_voting": False}),
    "scores-all-equal-voting": (undecided_model, {}),
    "scores-differ": (talking_model, {"box_voting": False, "post_nms": 400}),
    "scores-differ-voting": (talking_model, {"post_nms": 400}),
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS.keys())
def answers(request, tmp_path_factory):
    """Rows of a network, its candidates before NMS, and its maximum number of rows."""
    folder = tmp_path_factory.mktemp("model")
    make, settings = request.param
    model = make(folder, **settings)
    engine = GluonEngine(folder, "cpu")
    return engine.run(IMAGES), [engine.candidates(picture) for picture in IMAGES], model.post_nms


def compared(answers, **change):
    """Compare with an engine whose scores or boxes are changed before NMS, without and with candidates."""
    expected, candidates, post_nms = answers
    actual = np.stack([suppressed(of_image, post_nms, **change) for of_image in candidates])
    return compare(expected, actual), compare(expected, actual, candidates.__getitem__)


def test_compare_rows_made_of_the_candidates_has_no_unmatched(answers):
    assert compared(answers)[1].unmatched == 0


@pytest.mark.parametrize("noise", [1e-6, 1e-5])
def test_compare_tied_scores_has_no_unmatched(answers, noise):
    without, agreement = compared(answers, noise=noise)
    assert agreement.rows > 100 and agreement.unmatched == 0
    agreement.raise_for_mismatch("the exported network")
    if without.unmatched:  # rows alone do not show ties
        with pytest.raises(SsdTrainError):
            without.raise_for_mismatch("the exported network")


@pytest.mark.parametrize(
    "fault", [{"shift": 0.5}, {"shift": -0.2}, {"noise": 0.1}], ids=["moved-boxes", "moved-a-little", "other-scores"]
)
def test_require_changed_boxes_or_scores_raises_in_spite_of_ties(answers, fault):
    _, agreement = compared(answers, **fault)
    assert agreement.rows
    with pytest.raises(SsdTrainError, match="^x.onnx: "):
        agreement.raise_for_mismatch("x.onnx")

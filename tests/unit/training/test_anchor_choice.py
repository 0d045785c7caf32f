"""Anchor sizes chosen by boxes: large boxes, small ones, few among many, and none."""

from __future__ import annotations

import numpy as np
import pytest
from builders import label_set, small_config

from ssd_train.errors import DataError
from ssd_train.model.anchors import anchor_layout, even_shares
from ssd_train.training.anchor_choice import LARGEST, SECOND, SMALLEST, fitted_shares

SIZE = (400, 200)


def config(**settings):
    return small_config(**{"base_network": "mobilenet1.0", "image_shape": 300, "augmentation": "none", **settings})


def boxes_of(share, count, seed=0):
    """Boxes of `share` of both sides of an image of SIZE, somewhere in it."""
    place = np.random.RandomState(seed).uniform(0, 1 - share, (count, 2))
    return [[x * 400, y * 200, (x + share) * 400, (y + share) * 200] for x, y in place]


def labels_of(*groups):
    """An image for each group of boxes, which has a class of its own."""
    names = [f"class{i}" for i in range(len(groups))]
    return label_set(groups, [[i] * len(g) for i, g in enumerate(groups)], size_wh=SIZE, class_names=names)


def test_large_boxes_get_large_anchors_and_more_overlap():
    choice = fitted_shares(config(), labels_of(boxes_of(0.7, 40)))
    assert choice.shares[0] >= 0.2 and choice.shares[1] >= 0.4
    assert choice.overlap > choice.usual + 0.1


def test_small_boxes_get_small_anchors():
    choice = fitted_shares(config(), labels_of(boxes_of(0.05, 40)))
    assert choice.shares[0] <= 0.07
    assert choice.overlap > choice.usual


def test_sizes_fit_the_network_at_every_side():
    for side in (128, 300, 512):
        choice = fitted_shares(config(image_shape=side), labels_of(boxes_of(0.3, 20)))
        layout = anchor_layout("mobilenet1.0", side, choice.shares)
        np.testing.assert_allclose(layout.sizes, np.multiply(choice.shares, side))
        assert list(choice.shares) == sorted(set(choice.shares))


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    many, few = boxes_of(0.6, 300), boxes_of(0.06, 3, seed=1)
    alone, both = fitted_shares(config(), labels_of(many)), fitted_shares(config(), labels_of(many, few))
    assert both.shares[0] < alone.shares[0]


def test_augmentation_that_zooms_is_reckoned_with():
    """Boxes of one size are half and twice as large in training: their overlap with any anchors is less even."""
    labels = labels_of(boxes_of(0.35, 40))
    plain, zooming = (fitted_shares(config(augmentation=a), labels) for a in ("flip", "strong"))
    assert zooming.overlap < plain.overlap


def test_the_same_boxes_give_the_same_sizes():
    labels = labels_of(boxes_of(0.2, 500), boxes_of(0.5, 20))
    assert fitted_shares(config(), labels) == fitted_shares(config(), labels)


def test_never_worse_than_the_usual_sizes():
    for share in (0.02, 0.1, 0.3, 0.5, 0.9, 1.0):
        choice = fitted_shares(config(), labels_of(boxes_of(share, 10)))
        assert choice.overlap >= choice.usual, share


def test_it_is_the_best_of_what_is_tried():
    """Boxes exactly as large as the first map's anchors of one candidate."""
    share = 0.14
    assert share in SMALLEST and 2.0 in SECOND and 1.05 in LARGEST
    choice = fitted_shares(config(), labels_of(boxes_of(share, 60)))
    assert share in choice.shares or choice.shares[0] * choice.shares[1] == pytest.approx(share**2, rel=0.2)


def test_images_of_unknown_size_have_nothing_to_fit():
    labels = label_set([boxes_of(0.3, 2)], size_wh=None)
    with pytest.raises(DataError, match="found no box of an image of known size, expected some to fit anchors to"):
        fitted_shares(config(), labels)


def test_even_shares():
    np.testing.assert_allclose(even_shares(3, 0.1, 0.2, 1.0), [0.1, 0.2, 0.6, 1.0])

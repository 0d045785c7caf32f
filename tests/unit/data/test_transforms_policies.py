"""Policies: what they may choose, and that `ssd` chooses as GluonCV does."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train.data.transforms import (
    AUGMENTATIONS,
    STRETCH,
    TO_YIQ,
    ZOOM,
    View,
    colour_matrix,
    kept_mask,
    policy_of,
)

WH = (200, 120)
BOXES = np.array([[20, 30, 60, 80], [100, 10, 190, 110]], np.float32)
NO_BOXES = np.zeros((0, 4), np.float32)


def views(policy, count=300, size_wh=WH, boxes=BOXES, seed=0):
    random = np.random.RandomState(seed)
    return [AUGMENTATIONS[policy](size_wh, boxes, random) for _ in range(count)]


@pytest.mark.parametrize("policy", AUGMENTATIONS)
@pytest.mark.parametrize("boxes", [BOXES, NO_BOXES], ids=["boxes", "none"])
def test_the_same_random_state_gives_the_same_view(policy, boxes):
    for a, b in zip(views(policy, 20, boxes=boxes, seed=4), views(policy, 20, boxes=boxes, seed=4)):
        assert (a.rect, a.quarter_turns, a.flip_x, a.flip_y) == (b.rect, b.quarter_turns, b.flip_x, b.flip_y)
        assert (a.colour is None) == (b.colour is None) and (a.colour is None or np.array_equal(a.colour, b.colour))


@pytest.mark.parametrize("policy", AUGMENTATIONS)
def test_policy_of_without_mirror_draws_the_same_views_unmirrored(policy):
    unmirrored, random = policy_of(policy, mirror=False), np.random.RandomState(0)
    found = [unmirrored(WH, BOXES, random) for _ in range(300)]
    assert not any(view.flip_x or view.flip_y for view in found)
    usual = views(policy)
    assert [(v.rect, v.quarter_turns) for v in found] == [(v.rect, v.quarter_turns) for v in usual]
    assert any(view.flip_x for view in usual) == (policy != "none")


def test_policy_none_leaves_the_image_unchanged():
    assert {(v.rect, v.quarter_turns, v.flip_x, v.flip_y, v.colour) for v in views("none")} == {
        ((0, 0, *WH), 0, False, False, None)
    }


def test_flip_mirrors_half_of_them():
    found = views("flip", 1000)
    assert {(v.rect, v.quarter_turns, v.flip_y, v.colour) for v in found} == {((0, 0, *WH), 0, False, None)}
    assert 0.45 < np.mean([v.flip_x for v in found]) < 0.55


def test_geometry_takes_each_of_five_as_often():
    found = [(v.quarter_turns, v.flip_x, v.flip_y) for v in views("geometry", 2000)]
    kinds = {(0, False, False), (0, True, False), (0, False, True), (1, False, False), (3, False, False)}
    assert set(found) == kinds
    assert all(0.17 < found.count(kind) / len(found) < 0.23 for kind in kinds)
    assert {v.rect for v in views("geometry")} == {(0, 0, *WH)}


@pytest.mark.parametrize("boxes", [BOXES, NO_BOXES], ids=["boxes", "none"])
@pytest.mark.parametrize("size_wh", [(200, 120), (10, 10), (1000, 20), (20, 1000)], ids=lambda wh: f"{wh[0]}x{wh[1]}")
def test_strong_zooms_and_stretches_within_its_limits(size_wh, boxes):
    scale = np.array([*size_wh, *size_wh]) / np.array([*WH, *WH])
    found = views("strong", 500, size_wh, (boxes * scale).astype(np.float32))
    sides = np.array([v.rect[2:] for v in found]) / size_wh
    zoom, stretch = 1 / np.sqrt(sides.prod(axis=1)), sides[:, 1] / sides[:, 0]
    assert 1 / ZOOM <= zoom.min() < 0.6 and 1.7 < zoom.max() <= ZOOM * 1.001
    assert 1 / STRETCH * 0.999 <= stretch.min() < 0.85 and 1.2 < stretch.max() <= STRETCH * 1.001
    for view in found:
        for start, side, full in zip(view.rect[:2], view.rect[2:], size_wh):
            inside = start >= -1e-6 and start + side <= full + 1e-6
            around = start <= 1e-6 and start + side >= full - 1e-6
            assert inside or around, "a view lies inside the picture or the picture inside it"


def test_strong_keeps_an_object_in_view_almost_always():
    """A small box at the rim: one view in a few shows it, and ten are tried."""
    corner = np.array([[190, 110, 200, 120]], np.float32)
    assert np.mean([kept_mask(corner, v).any() for v in views("strong", 500, boxes=corner)]) > 0.98


@pytest.mark.parametrize(
    "box, rect, least, by_centre, expected",
    [
        ((10, 10, 20, 20), (0, 0, 50, 50), 0.4, False, True),
        ((10, 10, 20, 20), (16, 0, 50, 50), 0.4, False, True),
        ((10, 10, 20, 20), (16.1, 0, 50, 50), 0.4, False, False),
        ((10, 10, 20, 20), (30, 0, 50, 50), 0.4, False, False),
        ((10, 10, 20, 20), (14, 0, 50, 50), 0.0, True, True),
        ((10, 10, 20, 20), (15, 0, 50, 50), 0.0, True, False),
        ((-5, 0, 5, 10), (0, 0, 50, 50), 0.0, True, False),
    ],
    ids=["whole", "four-tenths", "a-little-less", "out", "centre-in", "centre-on-the-rim", "centre-on-the-other-rim"],
)  # fmt: skip
def test_kept_mask_of_cut_boxes(box, rect, least, by_centre, expected):
    view = View(rect, min_visibility=least, keep_by_center=by_centre)
    assert kept_mask(np.array([box], np.float32), view).tolist() == [expected]


class Gluon:
    """GluonCV's expansion and crop on empty pictures, as SSDDefaultTrainTransform chains them."""

    def __init__(self, seed):
        import random

        from ssd_train import mxnet_compat

        mxnet_compat.gluoncv()
        self.crops = mxnet_compat.gluoncv("data.transforms.experimental.bbox")
        self.boxes = mxnet_compat.gluoncv("data.transforms.bbox")
        random.seed(seed)
        np.random.seed(seed)
        self.random = random

    def draw(self, size_wh, boxes):
        """(crop in pixels of the picture, boxes kept of it)."""
        (width, height), left, top = size_wh, 0, 0
        given = np.concatenate([boxes, np.arange(len(boxes))[:, None]], axis=1)
        if np.random.uniform(0, 1) > 0.5:
            # gluoncv.data.transforms.image.random_expand, its arithmetic without the pixels
            ratio = self.random.uniform(1, 4)
            expanded = int(width * ratio), int(height * ratio)
            left, top = self.random.randint(0, expanded[0] - width), self.random.randint(0, expanded[1] - height)
            given = self.boxes.translate(given, x_offset=left, y_offset=top)
            width, height = expanded
        kept, (x, y, w, h) = self.crops.random_crop_with_constraints(given, (width, height))
        return (x - left, y - top, w, h), kept[:, 4].astype(int)


def described(size_wh, draws):
    """Figures of (rect, indices of kept boxes): area and aspect of the rect, its left rim, boxes kept."""
    rects = np.array([rect for rect, _ in draws], float)
    areas, aspects = rects[:, 2] * rects[:, 3] / (size_wh[0] * size_wh[1]), rects[:, 2] / rects[:, 3]
    return {
        "log area": np.log(areas),
        "log aspect": np.log(aspects),
        "left": rects[:, 0] / size_wh[0],
        "top": rects[:, 1] / size_wh[1],
        "kept": np.array([len(kept) for _, kept in draws], float),
    }


def distance(a, b):
    """Kolmogorov and Smirnov's: the largest difference of the two distributions."""
    places = np.concatenate([a, b]) + 1e-6  # what differs by rounding only is the same
    return max(np.abs([(a <= place).mean() - (b <= place).mean() for place in places]))


@pytest.mark.parametrize("boxes", [BOXES, BOXES[:1], NO_BOXES], ids=["two", "one", "none"])
def test_ssd_chooses_as_gluoncv_does(boxes):
    count = 400
    gluon = Gluon(0)
    theirs = described(WH, [gluon.draw(WH, boxes) for _ in range(count)])
    found = views("ssd", count, boxes=boxes, seed=1)
    ours = described(WH, [(v.rect, np.flatnonzero(kept_mask(boxes, v))) for v in found])
    for name, values in ours.items():
        assert distance(values, theirs[name]) <= 1.95 * np.sqrt(2 / count), name  # once in a thousand by chance
    assert 0.45 < np.mean([v.flip_x for v in found]) < 0.55


def apply(matrix, colours):
    return np.asarray(colours, float) @ matrix[:, :3].T + matrix[:, 3]


def test_light_stays_within_ssds_limits():
    random = np.random.RandomState(0)
    drawn = [colour_matrix(random) for _ in range(3000)]
    assert 1 / 16 * 0.7 < np.mean([m is None for m in drawn]) < 1 / 16 * 1.3, "four dice, each a half"
    gray, red = np.array([[100.0, 100, 100]]), np.array([[200.0, 50, 50]])
    levels = np.array([apply(m, gray)[0] for m in drawn if m is not None])
    # hue and saturation leave gray as it is; brightness and contrast move all channels alike
    np.testing.assert_allclose(levels, levels[:, :1] * np.ones(3), atol=1.0)
    assert 0.5 * (100 - 32) <= levels.min() < 60 and 160 < levels.max() <= 1.5 * (100 + 32)
    luma = np.array([0.299, 0.587, 0.114])
    colourful = [apply(m, red)[0] - apply(m, gray)[0] for m in drawn if m is not None]
    ratio = np.array([c @ luma for c in colourful]) / ((red - gray)[0] @ luma)
    assert 0.45 <= ratio.min() and ratio.max() <= 1.55, "hue and saturation keep the luma"


def test_hue_turns_by_less_than_a_tenth_of_the_circle():
    random = np.random.RandomState(1)
    angles = []
    for _ in range(2000):
        matrix = colour_matrix(random)
        if matrix is not None:
            i, q = (TO_YIQ @ (apply(matrix, [[200, 50, 50]]) - apply(matrix, [[0, 0, 0]]))[0])[1:]
            was = (TO_YIQ @ np.array([200, 50, 50]))[1:]
            angles.append(np.degrees(np.arctan2(q, i) - np.arctan2(was[1], was[0])))
    assert np.abs(angles).max() <= 18.01 and np.max(angles) > 15 and np.min(angles) < -15

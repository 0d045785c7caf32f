"""Pictures and boxes stay together: a coloured rectangle is drawn, augmented, found again by its colour."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.data import picture

from ssd_train import boxes as geometry
from ssd_train.data.transforms import (
    AUGMENTATIONS,
    FILL,
    EvalTransform,
    TrainTransform,
    View,
    apply_view,
    preprocess,
    resize,
    to_gray,
    transform_boxes,
)

pytestmark = pytest.mark.usefixtures("pixel_library")

SIDE = 128
NO_BOXES, NO_IDS = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)


def keep(boxes, class_ids):
    """An encoder that hands on the boxes themselves."""
    return boxes, class_ids


def drawn(size_wh, box):
    """Green in `box`, black elsewhere."""
    image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    x1, y1, x2, y2 = (int(v) for v in box)
    image[y1:y2, x1:x2] = (0, 255, 0)
    return image


def hull_of_green(image):
    """The box of what is green by a half or more, in whatever light."""
    red, green, blue = (image[..., channel].astype(float) for channel in range(3))
    greenness = green - (red + blue) / 2
    y, x = np.nonzero(greenness > greenness.max() / 2)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float32) if len(x) else None


def augment(transform, image, boxes, class_ids, random):
    """Draw a view of a decoded image and apply it."""
    return transform.apply(image, boxes, class_ids, transform.policy(image.shape[1::-1], boxes, random))


@pytest.mark.parametrize(
    "size_wh", [(160, 120), (120, 160), (500, 400), (128, 128), (60, 40)], ids=lambda s: f"{s[0]}x{s[1]}"
)
@pytest.mark.parametrize("policy", AUGMENTATIONS)
def test_boxes_follow_the_pixels(policy, size_wh):
    """In whatever view, the box projected is the hull of the coloured pixels seen."""
    seen = 0
    for seed in range(60):
        random = np.random.RandomState(seed)
        corner = (random.uniform(0, 0.6, 2) * size_wh).astype(int)
        box = np.array(
            [*corner, *np.minimum(corner + random.uniform(0.2, 0.5, 2) * size_wh + 4, size_wh).astype(int)], np.float32
        )
        transform = TrainTransform(SIDE, policy, keep)
        image = drawn(size_wh, box)
        found, boxes, ids = augment(transform, image, box[None], np.array([7]), random)
        assert found.shape == (SIDE, SIDE, 3) and found.dtype == np.uint8 and found.flags.c_contiguous
        hull = hull_of_green(found)
        if not len(boxes):
            continue  # less of it is seen than the policy asks for
        assert ids.tolist() == [7]
        # half a pixel of the source and one of the result
        view = transform.policy(size_wh, box[None], np.random.RandomState(seed))
        slack = 1.5 + 0.6 * max(SIDE / side for side in view.rect[2:])
        np.testing.assert_allclose(hull, boxes[0], atol=slack)
        seen += 1
    assert seen >= 40


@pytest.mark.parametrize("policy", AUGMENTATIONS)
@pytest.mark.parametrize(
    "size_wh", [(300, 200), (10, 10), (1000, 20), (20, 1000), (17, 230)], ids=lambda s: f"{s[0]}x{s[1]}"
)
def test_transform_boxes_stay_inside_the_image(policy, size_wh):
    transform = TrainTransform(SIDE, policy, keep)
    image = picture(size_wh)
    for seed in range(100):
        random = np.random.RandomState(seed)
        corners = np.sort(random.uniform(0, 1, (6, 2, 2)), axis=1) * size_wh
        boxes = corners.reshape(6, 4).astype(np.float32)
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2] > 0).all(axis=1)]
        pixels, found, ids = augment(transform, image, boxes, np.arange(len(boxes)), random)
        assert pixels.shape == (SIDE, SIDE, 3) and len(found) == len(ids)
        assert geometry.find_invalid_box(found, (SIDE, SIDE)) is None
        assert (found[:, 2:] - found[:, :2] >= 1).all(), "no box of less than a pixel"
        assert found.dtype == np.float32


@pytest.mark.parametrize("policy", AUGMENTATIONS)
def test_the_source_is_left_as_it_was(policy):
    image, boxes = picture((90, 60)), np.array([[10, 10, 50, 40]], np.float32)
    image.setflags(write=False)  # as the cache has it
    boxes.setflags(write=False)
    for seed in range(10):
        augment(TrainTransform(SIDE, policy, keep), image, boxes, np.array([0]), np.random.RandomState(seed))
    np.testing.assert_array_equal(image, picture((90, 60)))


@pytest.mark.parametrize(
    "view, move, turn",
    [
        ({}, lambda b, s: b, lambda p: p),
        ({"flip_x": True}, geometry.flip_x, lambda p: p[:, ::-1]),
        ({"flip_y": True}, geometry.flip_y, lambda p: p[::-1]),
        ({"quarter_turns": 1}, geometry.rotate_ccw, lambda p: np.rot90(p)),
        ({"quarter_turns": 3}, geometry.rotate_cw, lambda p: np.rot90(p, -1)),
    ],
    ids=["as-it-is", "flip-x", "flip-y", "rotate-ccw", "rotate-cw"],
)
@pytest.mark.parametrize("size_wh", [(160, 120), (120, 160)], ids=["wide", "high"])
def test_geometry_is_that_of_offline_augmentation(size_wh, view, move, turn):
    """First moved, then resized, as offline; or first resized, then moved, as here."""
    boxes = np.array([[10, 20, 70, 90], [0, 0, *size_wh]], np.float32)
    offline = move(boxes, size_wh)
    width, height = turn(picture(size_wh)).shape[1::-1]
    offline = offline * np.array([SIDE / width, SIDE / height] * 2, np.float32)
    found, _ = transform_boxes(boxes, np.arange(2), View((0, 0, *size_wh), **view), SIDE)
    np.testing.assert_allclose(found, offline, atol=1e-3)
    image = np.kron(picture((size_wh[0] // 20, size_wh[1] // 20)), np.ones((20, 20, 1), np.uint8))
    ours = apply_view(image, View((0, 0, *size_wh), **view), SIDE).astype(int)
    theirs = resize(np.ascontiguousarray(turn(image)), (SIDE, SIDE)).astype(int)
    assert np.abs(ours - theirs).max() <= 2


def test_apply_view_fills_outside_with_the_mean_colour():
    image = np.full((100, 100, 3), 255, np.uint8)
    found = apply_view(image, View((-100, -50, 200, 200)), SIDE)
    assert (found[:30] == FILL).all() and (found[:, :60] == FILL).all() and (found[100:] == FILL).all()
    assert (found[33:95, 66:] == 255).all()


def test_a_view_of_less_than_a_pixel_shows_that_pixel():
    image = picture((10, 10))
    found = apply_view(image, View((3.2, 6.1, 0.2, 0.3)), SIDE)
    assert (found == image[6, 3]).all()


def test_colour_is_applied_to_red_green_blue():
    matrix = np.array([[0, 0, 1, 0], [0, 0.5, 0, 10], [1, 0, 0, -20]], np.float32)
    image = np.full((20, 20, 3), (100, 60, 30), np.uint8)
    assert (apply_view(image, View((0, 0, 20, 20), colour=matrix), 20) == (30, 40, 80)).all()
    bright = np.eye(3, 4, dtype=np.float32) * 9
    assert (apply_view(image, View((0, 0, 20, 20), colour=bright), 20) == (255, 255, 255)).all(), (
        "saturates, never wraps"
    )


def test_small_boxes_are_left_out_with_their_ids():
    boxes = np.array([[0, 0, 50, 50], [10, 10, 10.5, 40], [60, 60, 90, 90]], np.float32)
    found, ids = transform_boxes(boxes, np.array([1, 2, 3]), View((0, 0, 100, 100)), 100)
    assert ids.tolist() == [1, 3] and found.tolist() == boxes[[0, 2]].tolist()


@pytest.mark.parametrize("grayscale", [False, True])
@pytest.mark.parametrize("size_wh", [(128, 128), (300, 200), (50, 90)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_preprocessing_is_equal_in_training_evaluation_and_serving(size_wh, grayscale):
    """Without augmentation the three paths give the same bytes and the same boxes."""
    image = picture(size_wh)
    boxes = np.array([[5, 6, 40, 45]], np.float32)
    train = augment(
        TrainTransform(SIDE, "none", keep, grayscale), image, boxes, np.array([3]), np.random.RandomState(0)
    )
    evaluation = EvalTransform(SIDE, keep, grayscale)(image, boxes, np.array([3]))
    for a, b in zip(train, evaluation):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(preprocess(image, SIDE, grayscale), train[0])
    np.testing.assert_allclose(train[1], boxes * np.array([SIDE / size_wh[0], SIDE / size_wh[1]] * 2), rtol=1e-6)


def test_grayscale_comes_after_the_light():
    for policy in AUGMENTATIONS:
        found = augment(
            TrainTransform(SIDE, policy, keep, True), picture((60, 50)), NO_BOXES, NO_IDS, np.random.RandomState(3)
        )[0]
        assert (found[..., 0] == found[..., 1]).all() and (found[..., 1] == found[..., 2]).all(), policy
    np.testing.assert_array_equal(preprocess(picture((50, 50)), 50, True), to_gray(picture((50, 50))))

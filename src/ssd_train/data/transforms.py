"""Views of an image: drawn by augmentation policies, and rendered into inputs and targets of the network.

A policy draws a `View` without touching pixels: the visible rectangle of the image (it may extend beyond the image),
its rotation and flips, and a colour matrix. `apply_view` renders it in one pass over the pixels, in which the visible
part is cropped first and resized once, and `transform_boxes` transforms the boxes accordingly. Images stay uint8; the
network normalises them on its device.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Callable, Dict, Optional, Tuple

import numpy as np

from ssd_train import boxes as geometry
from ssd_train.boxes import SizeWH, iou_matrix
from ssd_train.data import pixels
from ssd_train.data.pixels import resize

Random = np.random.RandomState


@dataclass(frozen=True)
class View:
    """Geometry and colour of an augmented image.

    Attributes:
        rect: (x, y, width, height) in pixels of the source image; may extend beyond it.
        quarter_turns: Rotations by 90 degrees counter-clockwise, after cropping.
        flip_x: Flip left to right, after rotating.
        flip_y: Flip top to bottom, after rotating.
        colour: (3, 4) matrix applied to (R, G, B, 1), or None.
        min_visibility: Minimum visible fraction of a box's area for the box to be kept.
        keep_by_center: Keep a box if its centre is visible; `min_visibility` is then ignored.
    """

    rect: Tuple[float, float, float, float]
    quarter_turns: int = 0
    flip_x: bool = False
    flip_y: bool = False
    colour: Optional[np.ndarray] = None
    min_visibility: float = 0.4
    keep_by_center: bool = False


Policy = Callable[[SizeWH, np.ndarray, Random], View]


def _none(size_wh: SizeWH, boxes: np.ndarray, random: Random) -> View:
    return View((0, 0, *size_wh))


def _flip(size_wh: SizeWH, boxes: np.ndarray, random: Random) -> View:
    return View((0, 0, *size_wh), flip_x=_chance(random, 0.5))


def _geometry(size_wh: SizeWH, boxes: np.ndarray, random: Random) -> View:
    """Draw one of five views with equal probability: none, two flips, two rotations.

    This is the offline augmentation (times five) of AWS's Greengrass sample, done online.
    """
    kind = random.randint(5)
    turns = {3: 1, 4: 3}.get(kind, 0)
    return View((0, 0, *size_wh), quarter_turns=turns, flip_x=kind == 1, flip_y=kind == 2)


def _ssd(size_wh: SizeWH, boxes: np.ndarray, random: Random) -> View:
    """Draw a view like the original SSD.

    Colour distortion, zoom-out by up to 4 with probability 0.5, a crop with a minimum overlap with the objects, and a
    horizontal flip with probability 0.5 (paper, section 2.2, and GluonCV's SSDDefaultTrainTransform).
    """
    colour = colour_matrix(random)
    width, height = size_wh
    left = top = 0.0
    if _chance(random, 0.5):
        ratio = random.uniform(1, 4)
        left, top = random.uniform(0, width * (ratio - 1)), random.uniform(0, height * (ratio - 1))
        width, height = int(width * ratio), int(height * ratio)
    x, y, w, h = constrained_crop((width, height), boxes + np.array([left, top, left, top], np.float32), random)
    return View((x - left, y - top, w, h), flip_x=_chance(random, 0.5), colour=colour, keep_by_center=True)


# of `strong`: zoom from half to twice the size, log-uniform, and an aspect ratio changed by up to a quarter
ZOOM, STRETCH, ATTEMPTS = 2.0, 1.25, 10


def _strong(size_wh: SizeWH, boxes: np.ndarray, random: Random) -> View:
    """Draw zoom, stretch, shift, horizontal flip and colour together.

    Draws again, up to ATTEMPTS views in all, until an object is visible.
    """
    colour = colour_matrix(random)
    flip = _chance(random, 0.5)
    view = View((0, 0, *size_wh))
    for _ in range(ATTEMPTS):
        zoom = math.exp(random.uniform(-math.log(ZOOM), math.log(ZOOM)))
        stretch = math.exp(random.uniform(-math.log(STRETCH), math.log(STRETCH)) / 2)
        sides = (size_wh[0] / (zoom * stretch), size_wh[1] * stretch / zoom)
        # a view smaller than the image lies inside it; a larger view contains the image
        x, y = (random.uniform(min(0.0, full - side), max(0.0, full - side)) for full, side in zip(size_wh, sides))
        view = View((x, y, *sides), flip_x=flip, colour=colour)
        if not len(boxes) or kept_mask(boxes, view).any():
            break
    return view


AUGMENTATIONS: Dict[str, Policy] = {
    "none": _none,
    "flip": _flip,
    "geometry": _geometry,
    "ssd": _ssd,
    "strong": _strong,
}


def policy_of(name: str, mirror: bool = True) -> Policy:
    """Return the policy `name`.

    Args:
        name: Key of AUGMENTATIONS.
        mirror: If False, the views are never flipped in either direction and are otherwise the same.
    """
    policy = AUGMENTATIONS[name]
    if mirror:
        return policy

    def unmirrored(size_wh: SizeWH, boxes: np.ndarray, random: Random) -> View:
        """Draw a view of `policy` and remove its flips."""
        return dataclasses.replace(policy(size_wh, boxes, random), flip_x=False, flip_y=False)

    return unmirrored


def kept_mask(boxes: np.ndarray, view: View) -> np.ndarray:
    """Return which boxes are kept in `view`, as a bool mask (N,).

    A box is kept if at least `view.min_visibility` of its area is visible, or with `view.keep_by_center` its centre.

    Args:
        boxes: (N, 4) xyxy in pixels of the source image.
        view: The view.
    """
    x, y, width, height = view.rect
    rect = np.array([x, y, x + width, y + height])
    if view.keep_by_center:
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        return ((centre > rect[:2]) & (centre < rect[2:])).all(axis=1)
    seen = np.minimum(boxes[:, 2:], rect[2:]) - np.maximum(boxes[:, :2], rect[:2])
    fraction = np.prod(np.maximum(seen, 0), axis=1) / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return fraction >= view.min_visibility


# SSD's samplers: minimum IoU of a crop with every object; the last accepts any crop
CROP_OVERLAPS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
CROP_TRIALS = 50
CROP_SCALES = (0.3, 1.0)
CROP_ASPECT = 2.0


def constrained_crop(size_wh: SizeWH, boxes: np.ndarray, random: Random) -> Tuple[float, float, float, float]:
    """Draw a crop that contains the centre of at least one box.

    Candidates are the whole image and, for each IoU in CROP_OVERLAPS, the first random crop that reaches it with every
    box, if any does. One candidate that contains the centre of a box is chosen at random; if there is none, the whole
    image is. Without boxes, any random crop is returned.

    Args:
        size_wh: (width, height) of the image.
        boxes: (N, 4) xyxy in pixels.
        random: Source of randomness.

    Returns:
        (x, y, width, height) in pixels.
    """
    if not len(boxes):
        return _as_rect(_random_crops(size_wh, 1, random)[0])
    whole = np.array([[0, 0, *size_wh]], np.float32)
    candidates = np.concatenate([whole, _crops_with_overlap(size_wh, boxes, random)])
    corners = _corners(candidates)
    centres = (boxes[:, :2] + boxes[:, 2:])[:, None] / 2  # (N, 1, 2)
    keeps_one = ((centres > corners[:, :2]) & (centres < corners[:, 2:])).all(axis=2).any(axis=0)
    keepers = np.flatnonzero(keeps_one)
    return _as_rect(candidates[keepers[random.randint(len(keepers))]] if len(keepers) else whole[0])


def _crops_with_overlap(size_wh: SizeWH, boxes: np.ndarray, random: Random) -> np.ndarray:
    """Return for each of CROP_OVERLAPS the first random crop that reaches it, if any.

    CROP_TRIALS crops are drawn for each overlap.

    Returns:
        (K, 4) x, y, width, height, K <= 6: overlaps that no crop reaches are missing.
    """
    crops = _random_crops(size_wh, len(CROP_OVERLAPS) * CROP_TRIALS, random)
    overlap = iou_matrix(boxes, _corners(crops)).min(axis=0).reshape(len(CROP_OVERLAPS), CROP_TRIALS)
    fitting = overlap >= np.array(CROP_OVERLAPS)[:, None]
    first = np.arange(len(CROP_OVERLAPS)) * CROP_TRIALS + fitting.argmax(axis=1)
    return crops[first[fitting.any(axis=1)]]


def _corners(crops: np.ndarray) -> np.ndarray:
    return np.concatenate([crops[:, :2], crops[:, :2] + crops[:, 2:]], axis=1)


def _as_rect(crop: np.ndarray) -> Tuple[float, float, float, float]:
    x, y, width, height = crop.tolist()
    return x, y, width, height


def _random_crops(size_wh: SizeWH, count: int, random: Random) -> np.ndarray:
    """Draw crops (count, 4) of x, y, width, height.

    Scale and aspect ratio are those of GluonCV's random_crop_with_constraints.
    """
    width, height = size_wh
    scale = random.uniform(*CROP_SCALES, size=count)
    low, high = np.maximum(1 / CROP_ASPECT, scale**2), np.minimum(CROP_ASPECT, 1 / scale**2)
    aspect = np.sqrt(random.uniform(low, high))
    w, h = np.floor(width * scale * aspect), np.floor(height * scale / aspect)
    x, y = np.floor(random.uniform(size=count) * (width - w)), np.floor(random.uniform(size=count) * (height - h))
    return np.stack([x, y, w, h], axis=1).astype(np.float32)


# SSD's distortions, each with probability 0.5: brightness by up to 32 levels, contrast and saturation 0.5 to 1.5, hue
# by up to 18 of OpenCV's 180 degrees. (GluonCV rotates by up to 18 half circles, which gives any hue.)
BRIGHTNESS, CONTRAST, SATURATION, HUE_DEGREES = 32.0, (0.5, 1.5), (0.5, 1.5), 18.0
LUMA = np.array([0.299, 0.587, 0.114])
TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
FROM_YIQ = np.linalg.inv(TO_YIQ)


def colour_matrix(random: Random) -> Optional[np.ndarray]:
    """Draw brightness, contrast, saturation and hue as one colour matrix.

    Returns:
        Float32 (3, 4), or None if nothing changes.
    """
    matrix = np.eye(3)
    offset = random.uniform(-BRIGHTNESS, BRIGHTNESS) if _chance(random, 0.5) else 0.0
    contrast = random.uniform(*CONTRAST) if _chance(random, 0.5) else 1.0
    if _chance(random, 0.5):
        saturation = random.uniform(*SATURATION)
        matrix = saturation * matrix + (1 - saturation) * np.tile(LUMA, (3, 1))
    if _chance(random, 0.5):
        angle = math.radians(random.uniform(-HUE_DEGREES, HUE_DEGREES))
        turn = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
        matrix = FROM_YIQ @ turn @ TO_YIQ @ matrix
    if offset == 0.0 and contrast == 1.0 and np.array_equal(matrix, np.eye(3)):
        return None
    return np.concatenate([matrix * contrast, np.full((3, 1), offset * contrast)], axis=1).astype(np.float32)


def _chance(random: Random, probability: float) -> bool:
    return bool(random.uniform() < probability)


# padding beyond the image: the mean of ImageNet's pixels, which normalisation maps to about 0
FILL = (124, 116, 104)
SMALLEST_BOX = 1.0  # minimum side in input pixels; smaller boxes cannot be matched meaningfully

Encoder = Callable[[np.ndarray, np.ndarray], Tuple[np.ndarray, np.ndarray]]


def apply_view(image: np.ndarray, view: View, side: int) -> np.ndarray:
    """Return the part of an image (H, W, 3) that `view` shows, as (side, side, 3)."""
    image = _crop_and_resize(image, view.rect, side)
    # NumPy's rotated views take forty times as long to make contiguous
    if view.quarter_turns:
        image = pixels.operations.rotate(image, view.quarter_turns)
    if view.flip_x or view.flip_y:
        image = pixels.operations.flip(image, view.flip_x, view.flip_y)
    return image if view.colour is None else pixels.operations.transform_colour(image, view.colour)


def _crop_and_resize(image: np.ndarray, rect: Tuple[float, float, float, float], side: int) -> np.ndarray:
    height, width = image.shape[:2]
    x, y, w, h = rect
    # the visible part in whole pixels of the source, and its position in the result
    x1, x2 = _span(x, x + w, width)
    y1, y2 = _span(y, y + h, height)
    left, right = (int(round((v - x) * side / w)) for v in (x1, x2))
    top, bottom = (int(round((v - y) * side / h)) for v in (y1, y2))
    left, top = min(max(left, 0), side - 1), min(max(top, 0), side - 1)
    right, bottom = min(max(right, left + 1), side), min(max(bottom, top + 1), side)
    crop = resize(image[y1:y2, x1:x2], (right - left, bottom - top))
    if crop.shape[:2] == (side, side):
        return crop
    rims = (top, side - bottom, left, side - right)
    return pixels.operations.pad(crop, rims, FILL)


def _span(start: float, stop: float, limit: int) -> Tuple[int, int]:
    """Round an interval to whole pixels within 0..limit, at least one."""
    first = min(max(int(round(start)), 0), limit - 1)
    return first, max(min(int(round(stop)), limit), first + 1)


def transform_boxes(boxes: np.ndarray, class_ids: np.ndarray, view: View, side: int) -> Tuple[np.ndarray, np.ndarray]:
    """Transform boxes from the source image to (side, side) pixels of `view`.

    Boxes that `kept_mask` drops are left out. The rest are clipped to the view, and dropped if a side is then below
    SMALLEST_BOX. Regions to be ignored (class id -1) are kept if any part of them is visible.

    Args:
        boxes: (N, 4) xyxy in pixels of the source image.
        class_ids: (N,).
        view: The view.
        side: Side of the result in pixels.

    Returns:
        Boxes (M, 4) xyxy and class ids (M,).
    """
    x, y, width, height = view.rect
    kept = kept_mask(boxes, view) | (class_ids < 0)
    moved = (boxes[kept] - np.array([x, y, x, y])) * (side / np.array([width, height, width, height]))
    moved = geometry.clip_boxes(moved.astype(np.float32), (side, side))
    for _ in range(view.quarter_turns):
        moved = geometry.rotate_ccw(moved, (side, side))
    if view.flip_x:
        moved = geometry.flip_x(moved, (side, side))
    if view.flip_y:
        moved = geometry.flip_y(moved, (side, side))
    large = (moved[:, 2:] - moved[:, :2] >= SMALLEST_BOX).all(axis=1)
    return moved[large], class_ids[kept][large]


class TrainTransform:
    """Augment an image and its boxes, and encode the targets: `policy` draws a view, `apply` applies it.

    Args:
        side: Input side of the network in pixels.
        augmentation: Name of an augmentation policy.
        encode: Function of boxes and class ids that returns class targets and box targets.
        grayscale: Convert images to grayscale.
        mirror: Allow flips.
    """

    def __init__(
        self, side: int, augmentation: str, encode: Encoder, grayscale: bool = False, mirror: bool = True
    ) -> None:
        self.side = side
        self.policy = policy_of(augmentation, mirror)
        self.encode = encode
        self.grayscale = grayscale

    def apply(
        self, image: np.ndarray, boxes: np.ndarray, class_ids: np.ndarray, view: View
    ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Apply a view that `policy` has drawn.

        Args:
            image: Uint8 (H, W, 3).
            boxes: (N, 4) xyxy in pixels of the image.
            class_ids: (N,); -1 for regions to be ignored.
            view: The view, in pixels of the image.

        Returns:
            Image uint8 (side, side, 3), class targets (A,), box targets (A, 4).
        """
        shown = apply_view(image, view, self.side)
        if self.grayscale:
            shown = to_gray(shown)
        return (shown, *self.encode(*transform_boxes(boxes, class_ids, view, self.side)))


def preprocess(image: np.ndarray, side: int, grayscale: bool = False) -> np.ndarray:
    """Resize an image (H, W, 3) to the network's input uint8 (side, side, 3).

    Used in evaluation and serving. The aspect ratio is not preserved, as in the built-in algorithm.
    """
    resized = resize(image, (side, side))
    return to_gray(resized) if grayscale else resized


class EvalTransform:
    """Resize an image without augmentation, and encode the targets."""

    def __init__(self, side: int, encode: Encoder, grayscale: bool = False) -> None:
        self.side = side
        self.encode = encode
        self.grayscale = grayscale

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, class_ids: np.ndarray
    ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the same as TrainTransform.apply, of the whole image."""
        height, width = image.shape[:2]
        targets = transform_boxes(boxes, class_ids, View((0, 0, width, height)), self.side)
        return (preprocess(image, self.side, self.grayscale), *self.encode(*targets))


def to_gray(image: np.ndarray) -> np.ndarray:
    """Convert RGB uint8 (H, W, 3) to three equal channels of luma (ITU-R BT.601)."""
    return pixels.operations.to_gray(image)

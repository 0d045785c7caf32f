"""(image, boxes) -> (image, boxes): what the network is fed, in training and in evaluation.

One pass over the pixels: the part of the picture that a View shows is cut out first and resized once. Pictures stay
uint8; the network normalises them on its device.
"""

from __future__ import annotations

from typing import Callable, Tuple

import numpy as np

from ssd_train.data import boxes as geometry
from ssd_train.data import pixels
from ssd_train.data.augment import Random, View, policy_of, visible
from ssd_train.data.pixels import resize

# what lies beyond the picture: the mean of ImageNet's pixels, which the network sees as 0
FILL = (124, 116, 104)
SMALLEST_BOX = 1.0  # pixels of the network's input; a smaller box cannot be matched sensibly

Encoder = Callable[[np.ndarray, np.ndarray], Tuple[np.ndarray, np.ndarray]]


def render(image: np.ndarray, view: View, side: int) -> np.ndarray:
    """What `view` shows of `image` (H, W, 3), as (side, side, 3)."""
    picture = _cut_and_resize(image, view.rect, side)
    # not NumPy's views: made contiguous, they take forty times as long
    if view.quarter_turns:
        picture = pixels.operations.rotate(picture, view.quarter_turns)
    if view.flip_x or view.flip_y:
        picture = pixels.operations.flip(picture, view.flip_x, view.flip_y)
    return picture if view.colour is None else pixels.operations.transform_colour(picture, view.colour)


def _cut_and_resize(image: np.ndarray, rect: Tuple[float, float, float, float], side: int) -> np.ndarray:
    height, width = image.shape[:2]
    x, y, w, h = rect
    # the part of the picture that is seen, in whole pixels of the source, and where it comes to lie
    x1, x2 = _span(x, x + w, width)
    y1, y2 = _span(y, y + h, height)
    left, right = (int(round((v - x) * side / w)) for v in (x1, x2))
    top, bottom = (int(round((v - y) * side / h)) for v in (y1, y2))
    left, top = min(max(left, 0), side - 1), min(max(top, 0), side - 1)
    right, bottom = min(max(right, left + 1), side), min(max(bottom, top + 1), side)
    part = resize(image[y1:y2, x1:x2], (right - left, bottom - top))
    if part.shape[:2] == (side, side):
        return part
    rims = (top, side - bottom, left, side - right)
    return pixels.operations.pad(part, rims, FILL)


def _span(start: float, stop: float, limit: int) -> Tuple[int, int]:
    """The whole pixels of 0..limit that start..stop touches, at least one."""
    first = min(max(int(round(start)), 0), limit - 1)
    return first, max(min(int(round(stop)), limit), first + 1)


def project(boxes: np.ndarray, class_ids: np.ndarray, view: View, side: int) -> Tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) of the source, and their class ids, as they come to lie in (side, side) pixels of `view`; those that
    are out of view, or less than a pixel there, are left out. Of a region to be ignored (-1) any part in view stays."""
    x, y, width, height = view.rect
    kept = visible(boxes, view) | (class_ids < 0)
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
    """A picture and its boxes, seen as an augmentation policy has it, and the targets for the network's anchors."""

    def __init__(
        self, side: int, augmentation: str, encode: Encoder, grayscale: bool = False, mirror: bool = True
    ) -> None:
        self.side = side
        self.policy = policy_of(augmentation, mirror)
        self.encode = encode
        self.grayscale = grayscale

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, class_ids: np.ndarray, random: Random
    ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """uint8 (side, side, 3), class targets (A,), box targets (A, 4) from (H, W, 3), boxes (N, 4) xyxy, ids (N,)."""
        height, width = image.shape[:2]
        return self.show(image, boxes, class_ids, self.policy((width, height), boxes[class_ids >= 0], random))

    def show(
        self, image: np.ndarray, boxes: np.ndarray, class_ids: np.ndarray, view: View
    ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same of a view that is chosen already."""
        picture = render(image, view, self.side)
        if self.grayscale:
            picture = to_gray(picture)
        return (picture, *self.encode(*project(boxes, class_ids, view, self.side)))


def to_input(image: np.ndarray, side: int, grayscale: bool = False) -> np.ndarray:
    """A picture (H, W, 3) as the network sees it in evaluation and in service: uint8 (side, side, 3), stretched to a
    square as the built-in algorithm does."""
    picture = resize(image, (side, side))
    return to_gray(picture) if grayscale else picture


class EvalTransform:
    """A picture as it is, resized, and its targets."""

    def __init__(self, side: int, encode: Encoder, grayscale: bool = False) -> None:
        self.side = side
        self.encode = encode
        self.grayscale = grayscale

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, class_ids: np.ndarray
    ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As TrainTransform, without chance."""
        height, width = image.shape[:2]
        targets = project(boxes, class_ids, View((0, 0, width, height)), self.side)
        return (to_input(image, self.side, self.grayscale), *self.encode(*targets))


def to_gray(image: np.ndarray) -> np.ndarray:
    """RGB uint8 (H, W, 3) -> the same shape with three equal channels of luma (ITU-R BT.601)."""
    return pixels.operations.to_gray(image)

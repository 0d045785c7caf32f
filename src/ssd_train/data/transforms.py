"""(image, boxes) -> (image, boxes): what the network is fed, in training and in evaluation.

One pass over the pixels: the part of the picture that a View shows is cut out first and resized once. Pictures stay
uint8; the network normalises them on its device.
"""

from __future__ import annotations

from typing import Callable, Tuple

import cv2
import numpy as np

from ssd_train.data import boxes as geometry
from ssd_train.data.augment import AUGMENTATIONS, Random, View, visible

# what lies beyond the picture: the mean of ImageNet's pixels, which the network sees as 0
FILL = (124, 116, 104)
SMALLEST_BOX = 1.0  # pixels of the network's input; a smaller box cannot be matched sensibly

Encoder = Callable[[np.ndarray, np.ndarray], Tuple[np.ndarray, np.ndarray]]


def render(image: np.ndarray, view: View, side: int) -> np.ndarray:
    """What `view` shows of `image` (H, W, 3), as (side, side, 3)."""
    picture = _cut_and_resize(image, view.rect, side)
    # OpenCV's turns and flips: NumPy's views, made contiguous, take forty times as long
    if view.quarter_turns:
        picture = cv2.rotate(picture, _QUARTER_TURNS[view.quarter_turns])
    if view.flip_x or view.flip_y:
        picture = cv2.flip(picture, _FLIPS[view.flip_x, view.flip_y])
    return picture if view.colour is None else cv2.transform(picture, view.colour)


_QUARTER_TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
_FLIPS = {(True, False): 1, (False, True): 0, (True, True): -1}


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
    return cv2.copyMakeBorder(part, *rims, cv2.BORDER_CONSTANT, value=FILL)


def _span(start: float, stop: float, limit: int) -> Tuple[int, int]:
    """The whole pixels of 0..limit that start..stop touches, at least one."""
    first = min(max(int(round(start)), 0), limit - 1)
    return first, max(min(int(round(stop)), limit), first + 1)


def project(boxes: np.ndarray, class_ids: np.ndarray, view: View, side: int) -> Tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) of the source, and their class ids, as they come to lie in (side, side) pixels of `view`; those that
    are out of view, or less than a pixel there, are left out."""
    x, y, width, height = view.rect
    kept = visible(boxes, view)
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

    def __init__(self, side: int, augmentation: str, encode: Encoder, grayscale: bool = False) -> None:
        self.side = side
        self.policy = AUGMENTATIONS[augmentation]
        self.encode = encode
        self.grayscale = grayscale

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, class_ids: np.ndarray, random: Random
    ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """uint8 (side, side, 3), class targets (A,), box targets (A, 4) from (H, W, 3), boxes (N, 4) xyxy, ids (N,)."""
        height, width = image.shape[:2]
        return self.show(image, boxes, class_ids, self.policy((width, height), boxes, random))

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


def resize(image: np.ndarray, size_wh: geometry.SizeWH) -> np.ndarray:
    """`image` (H, W, 3) at `size_wh`: halved while a side is at least twice too long, then linear.

    Within a grey level or so of the mean over each pixel's area (OpenCV's INTER_AREA), three to nine times as fast.
    """
    (width, height), (w, h) = size_wh, (image.shape[1], image.shape[0])
    while w >= 2 * width or h >= 2 * height:
        w, h = (-(-w // 2) if w >= 2 * width else w), (-(-h // 2) if h >= 2 * height else h)
        image = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def to_gray(image: np.ndarray) -> np.ndarray:
    """RGB uint8 (H, W, 3) -> the same shape with three equal channels of luma (ITU-R BT.601)."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)

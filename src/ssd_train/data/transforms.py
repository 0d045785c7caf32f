"""Transform images and boxes into inputs and targets of the network.

The pixels are processed in one pass: the visible part of the image is cropped first and resized once. Images stay
uint8; the network normalises them on its device.
"""

from __future__ import annotations

from typing import Callable, Tuple

import numpy as np

from ssd_train import boxes as geometry
from ssd_train.data import pixels
from ssd_train.data.augment import View, policy_of, visible_mask
from ssd_train.data.pixels import resize

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

    Boxes that are not visible or have a side below one pixel are left out. Regions to be ignored (class id -1) are kept
    if any part of them is visible.

    Args:
        boxes: (N, 4) xyxy in pixels of the source image.
        class_ids: (N,).
        view: The view.
        side: Side of the result in pixels.

    Returns:
        Boxes (M, 4) xyxy and class ids (M,).
    """
    x, y, width, height = view.rect
    kept = visible_mask(boxes, view) | (class_ids < 0)
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

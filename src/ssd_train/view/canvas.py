"""Canvas: boxes and labels drawn on an image; labels stay inside it and avoid each other."""

from __future__ import annotations

from typing import List, NamedTuple, Tuple

import numpy as np
from PIL import Image, ImageDraw

from ssd_train.data.boxes import SizeWH
from ssd_train.errors import DataError
from ssd_train.view import fonts
from ssd_train.view.palette import DARK, RGB, text_colour_on

_HALO = (*DARK, 110)
_GAP = (*DARK, 170)
Area = Tuple[int, int, int, int]  # pixels, inclusive: left, top, right, bottom


def line_width(size_wh: SizeWH) -> int:
    """Return the line width of boxes in pixels: 1 on a thumbnail, 2 at 480 px, 6 at 2000 px."""
    return int(np.clip(round(max(size_wh) / 400 + 0.75), 1, 16))


def text_size(size_wh: SizeWH) -> int:
    """Return the font size in pixels for an image of `size_wh`."""
    return int(np.clip(round(max(size_wh) / 42 + 6), 9, 96))


def as_picture(image: np.ndarray) -> Image.Image:
    """Convert an RGB uint8 (H, W, 3) array to a Pillow image; raise a DataError for any other array."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"picture: found {image.dtype} {image.shape}, expected RGB uint8 (H, W, 3) with H, W > 0")
    return Image.fromarray(np.ascontiguousarray(image))


def pixel_edges(box: np.ndarray, size_wh: SizeWH) -> Area:
    """Return the pixels of an xyxy box, clipped to the image and at least one pixel in size."""
    (x1, y1, x2, y2), (width, height) = (round(float(v)) for v in box), size_wh
    left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    return left, top, max(left, min(x2, width) - 1), max(top, min(y2, height) - 1)


def _dashes(area: Area, width: int) -> List[Area]:
    """Return the dashes along the four sides of `area`, starting at corners so that corners are always drawn."""
    left, top, right, bottom = area
    dash, dashes = 4 * width + 2, []
    for start in range(left, right + 1, 2 * dash):
        end = min(start + dash - 1, right)
        dashes.append((start, top, end, min(top + width - 1, bottom)))
        dashes.append((right - (end - left), max(bottom - width + 1, top), right - (start - left), bottom))
    for start in range(top, bottom + 1, 2 * dash):
        end = min(start + dash - 1, bottom)
        dashes.append((left, bottom - (end - top), min(left + width - 1, right), bottom - (start - top)))
        dashes.append((max(right - width + 1, left), start, right, end))
    return dashes


def _overlap(a: Area, b: Area) -> int:
    """Return the number of pixels that two areas share."""
    across, down = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    return max(across, 0) * max(down, 0)


class _Label(NamedTuple):
    area: Area
    text: str
    colour: RGB


class Canvas:
    """A copy of an image to draw on. Labels are drawn last, so that no box line crosses a label."""

    def __init__(self, image: np.ndarray) -> None:
        self._image = as_picture(image)
        self.size_wh: SizeWH = self._image.size
        self._draw = ImageDraw.Draw(self._image, "RGBA")
        self._text_size = text_size(self.size_wh)
        self._padding = max(1, self._text_size // 6)
        self._labels: List[_Label] = []

    def frame(self, area: Area, colour: RGB, dashed: bool) -> None:
        """Draw a box line inside `area` between two thin dark lines, visible on light and dark backgrounds."""
        width = line_width(self.size_wh)
        left, top, right, bottom = area
        self._draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_HALO)
        inner = (left + width, top + width, right - width, bottom - width)
        if inner[0] < inner[2] and inner[1] < inner[3]:
            self._draw.rectangle(inner, outline=_HALO)
        # dark between white dashes: one of the two is visible on any background
        self._draw.rectangle(area, outline=_GAP if dashed else colour, width=width)
        for dash in _dashes(area, width) if dashed else ():
            self._draw.rectangle(dash, fill=colour)

    def label(self, area: Area, text: str, colour: RGB, below: bool) -> None:
        """Place the label of the box `area` where it covers the least of earlier labels; `render` draws it."""
        text = fonts.shortened(text, self._text_size, self.size_wh[0] - 2 * self._padding)
        width, height = fonts.text_wh(text, self._text_size)
        self._labels.append(_Label(self._place(area, (width + 2 * self._padding, height), below), text, colour))

    def render(self) -> np.ndarray:
        """Draw the labels and return the image, RGB uint8 (H, W, 3)."""
        for area, text, colour in reversed(self._labels):  # of overlapping labels, the first stays fully visible
            self._draw.rectangle(area, fill=(*colour, 225))
            font = fonts.any_font(text, self._text_size)
            self._draw.text((area[0] + self._padding, area[1]), text, text_colour_on(colour), font, anchor="la")
        return np.asarray(self._image)

    def _place(self, area: Area, label_wh: SizeWH, below: bool) -> Area:
        """Return the first candidate area inside the image that covers the least of other labels.

        Candidates lie outside and inside the box's upper and lower edge, aligned to its left or right side.
        """
        max_left, max_top = self.size_wh[0] - label_wh[0], self.size_wh[1] - label_wh[1]
        tops = [area[1] - label_wh[1], area[1], area[3] + 1, area[3] + 1 - label_wh[1]]
        tops = tops[2:] + tops[:2] if below else tops
        # an image lower than a line of text: the label begins at its top
        inside = [top for top in tops if 0 <= top <= max_top] or [0]
        lefts = [max(0, min(left, max_left)) for left in (area[0], area[2] + 1 - label_wh[0])]
        corners = [(left, top) for left in lefts for top in inside]
        candidates = [(left, top, left + label_wh[0] - 1, top + label_wh[1] - 1) for left, top in corners]
        return min(candidates, key=lambda area: sum(_overlap(area, other.area) for other in self._labels))

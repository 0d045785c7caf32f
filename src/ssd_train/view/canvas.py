"""A picture being drawn on: frames, and labels that stay inside it and off each other."""

from __future__ import annotations

from typing import List, NamedTuple, Tuple

import numpy as np
from PIL import Image, ImageDraw

from ssd_train.data.boxes import SizeWH
from ssd_train.errors import DataError
from ssd_train.view import fonts
from ssd_train.view.palette import DARK, RGB, ink_on

_HALO = (*DARK, 110)
_GAP = (*DARK, 170)
Area = Tuple[int, int, int, int]  # first and last pixel: left, top, right, bottom


def line_width(size_wh: SizeWH) -> int:
    """Thickness of a box in pixels for a picture of `size_wh`: 1 on a thumbnail, 2 at 480 px, 6 on a 2000 px photo."""
    return int(np.clip(round(max(size_wh) / 400 + 0.75), 1, 16))


def text_size(size_wh: SizeWH) -> int:
    """Height of the letters in pixels for a picture of `size_wh`."""
    return int(np.clip(round(max(size_wh) / 42 + 6), 9, 96))


def as_picture(image: np.ndarray) -> Image.Image:
    """`image` for Pillow, which copies before it draws; a DataError when it is no RGB uint8 (H, W, 3)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"picture: found {image.dtype} {image.shape}, expected RGB uint8 (H, W, 3) with H, W > 0")
    return Image.fromarray(np.ascontiguousarray(image))


def pixel_edges(box: np.ndarray, size_wh: SizeWH) -> Area:
    """First and last pixel of a box, inside the picture; never less than one pixel."""
    (x1, y1, x2, y2), (width, height) = (round(float(v)) for v in box), size_wh
    left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    return left, top, max(left, min(x2, width) - 1), max(top, min(y2, height) - 1)


def _dashes(area: Area, width: int) -> List[Area]:
    """Dashes along the four sides of `area`, each starting at a corner so that corners are always drawn."""
    left, top, right, bottom = area
    dash, found = 4 * width + 2, []
    for start in range(left, right + 1, 2 * dash):
        end = min(start + dash - 1, right)
        found.append((start, top, end, min(top + width - 1, bottom)))
        found.append((right - (end - left), max(bottom - width + 1, top), right - (start - left), bottom))
    for start in range(top, bottom + 1, 2 * dash):
        end = min(start + dash - 1, bottom)
        found.append((left, bottom - (end - top), min(left + width - 1, right), bottom - (start - top)))
        found.append((max(right - width + 1, left), start, right, end))
    return found


def _overlap(a: Area, b: Area) -> int:
    """How many pixels two areas have in common."""
    across, down = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    return max(across, 0) * max(down, 0)


class _Label(NamedTuple):
    """A line of text and the place it has taken."""

    place: Area
    text: str
    colour: RGB


class Canvas:
    """A picture being drawn on. Frames are drawn at once, labels at the end, so that no frame crosses a label."""

    def __init__(self, image: np.ndarray) -> None:
        self._picture = as_picture(image)
        self.size_wh: SizeWH = self._picture.size
        self._pen = ImageDraw.Draw(self._picture, "RGBA")
        self._text_size = text_size(self.size_wh)
        self._padding = max(1, self._text_size // 6)
        self._labels: List[_Label] = []

    def frame(self, area: Area, colour: RGB, dashed: bool) -> None:
        """A frame inside `area` between two thin dark ones, so that it shows on light and dark ground alike."""
        width = line_width(self.size_wh)
        left, top, right, bottom = area
        self._pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_HALO)
        inner = (left + width, top + width, right - width, bottom - width)
        if inner[0] < inner[2] and inner[1] < inner[3]:
            self._pen.rectangle(inner, outline=_HALO)
        # dark between white dashes: one of the two shows on any ground
        self._pen.rectangle(area, outline=_GAP if dashed else colour, width=width)
        for dash in _dashes(area, width) if dashed else ():
            self._pen.rectangle(dash, fill=colour)

    def label(self, area: Area, text: str, colour: RGB, below: bool) -> None:
        """The label of a box, at the best place that earlier ones have left."""
        text = fonts.shortened(text, self._text_size, self.size_wh[0] - 2 * self._padding)
        width, height = fonts.text_wh(text, self._text_size)
        self._labels.append(_Label(self._place(area, (width + 2 * self._padding, height), below), text, colour))

    def finished(self) -> np.ndarray:
        """The picture, its labels drawn now: RGB uint8 (H, W, 3)."""
        for place, text, colour in reversed(self._labels):  # where two had to overlap, the first one stays whole
            self._pen.rectangle(place, fill=(*colour, 225))
            font = fonts.any_font(text, self._text_size)
            self._pen.text((place[0] + self._padding, place[1]), text, ink_on(colour), font, anchor="la")
        return np.asarray(self._picture)

    def _place(self, area: Area, label_wh: SizeWH, below: bool) -> Area:
        """Outside the edge, inside it, or at the opposite edge, from the box's left side or up to its right: the first
        place inside the picture that covers the least of other labels."""
        room = (self.size_wh[0] - label_wh[0], self.size_wh[1] - label_wh[1])
        tops = [area[1] - label_wh[1], area[1], area[3] + 1, area[3] + 1 - label_wh[1]]
        tops = tops[2:] + tops[:2] if below else tops
        # a picture lower than a line of text: the label begins at its top
        inside = [top for top in tops if 0 <= top <= room[1]] or [0]
        lefts = [max(0, min(left, room[0])) for left in (area[0], area[2] + 1 - label_wh[0])]
        corners = [(left, top) for left in lefts for top in inside]
        places = [(left, top, left + label_wh[0] - 1, top + label_wh[1] - 1) for left, top in corners]
        return min(places, key=lambda place: sum(_overlap(place, other.place) for other in self._labels))

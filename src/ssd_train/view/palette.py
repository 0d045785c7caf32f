"""Colours that people with any common kind of colour blindness tell apart (Okabe and Ito, 2008)."""

from __future__ import annotations

from typing import Tuple

RGB = Tuple[int, int, int]

WHITE: RGB = (255, 255, 255)
DARK: RGB = (17, 24, 32)

# the order keeps neighbours far apart; black is left out because it is lost on dark pictures
CLASS_COLOURS: Tuple[RGB, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)


def class_colour(class_id: int) -> RGB:
    """The colour of a class; with more than seven classes colours repeat, and the label tells which it is."""
    return CLASS_COLOURS[class_id % len(CLASS_COLOURS)]


def ink_on(colour: RGB) -> RGB:
    """Dark or white, whichever is read better on `colour` (relative luminance of ITU-R BT.601)."""
    red, green, blue = colour
    return DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else WHITE


def css(colour: RGB) -> str:
    """The colour as ``#rrggbb``."""
    return "#%02x%02x%02x" % colour

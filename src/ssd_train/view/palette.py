"""Class colours that are distinct under the common kinds of colour blindness (Okabe and Ito, 2008)."""

from __future__ import annotations

from typing import Tuple

RGB = Tuple[int, int, int]

WHITE: RGB = (255, 255, 255)
DARK: RGB = (17, 24, 32)

# neighbours in the list differ most; without Okabe and Ito's black, which is invisible on dark images
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
    """Return the colour of a class; colours repeat after seven classes."""
    return CLASS_COLOURS[class_id % len(CLASS_COLOURS)]


def text_colour_on(colour: RGB) -> RGB:
    """Return DARK or WHITE, whichever contrasts more with `colour` (luma of ITU-R BT.601)."""
    red, green, blue = colour
    return DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else WHITE


def css(colour: RGB) -> str:
    """Return the colour as ``#rrggbb``."""
    return "#%02x%02x%02x" % colour

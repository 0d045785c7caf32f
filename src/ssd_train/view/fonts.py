"""Text on pictures: a font that has the glyphs, a text that has the room."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Optional, Tuple

import PIL
from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont

from ssd_train.errors import DependencyError

# Pillow looks these up in the system's font folders. The first covers Latin, Greek and Cyrillic, the others Chinese,
# Japanese and Korean on Linux, Windows and macOS; none of them is required.
FONT_FILES: Tuple[str, ...] = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "NanumGothic.ttf",
    "msyh.ttc",
    "malgun.ttf",
    "Arial Unicode.ttf",
)
# a code point that no font assigns: what is drawn for it is the font's mark for "no such glyph"
_UNASSIGNED = "\U0010fffd"


def _matplotlib_font(name: str) -> Optional[Path]:
    """A font that matplotlib carries, without importing it (half a second)."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / name
    return path if path.is_file() else None


@lru_cache(maxsize=None)
def _font_paths() -> Tuple[str, ...]:
    """The files of FONT_FILES that are on this machine."""
    found = []
    for name in FONT_FILES:
        try:
            found.append(str(ImageFont.truetype(name, 12).path))
        except OSError:
            carried = _matplotlib_font(name)
            if carried:
                found.append(str(carried))
    return tuple(found)


@lru_cache(maxsize=64)
def _fonts(size: int) -> Tuple[FreeTypeFont, ...]:
    return tuple(ImageFont.truetype(path, size) for path in _font_paths()) or (_built_in(size),)


def _built_in(size: int) -> FreeTypeFont:
    """The font that Pillow carries: little more than ASCII, but there on every machine."""
    try:
        font = ImageFont.load_default(size)
    except TypeError:  # before Pillow 10.1 there was one of a fixed size
        font = None
    if not isinstance(font, FreeTypeFont):
        raise DependencyError(
            f"Pillow {PIL.__version__}: found no font to write on pictures with, "
            f"expected {FONT_FILES[0]} on this machine, matplotlib, or Pillow 10.1 or newer with FreeType"
        )
    return font


@lru_cache(maxsize=4096)
def _has_glyph(font: FreeTypeFont, character: str) -> bool:
    return character.isspace() or bytes(font.getmask(character)) != bytes(font.getmask(_UNASSIGNED))


@lru_cache(maxsize=4096)
def font_for(text: str, size: int) -> Optional[FreeTypeFont]:
    """The first font of `size` pixels that has every glyph of `text`; None when none on this machine has."""
    for font in _fonts(size):
        if all(_has_glyph(font, character) for character in set(text)):
            return font
    return None


def drawable(text: str, otherwise: str) -> str:
    """`text` on one line if some font here can draw it, else `otherwise` (ASCII, such as ``#3``)."""
    line = " ".join(text.split())
    return line if line and line.isprintable() and font_for(line, 12) else otherwise


def any_font(text: str, size: int) -> FreeTypeFont:
    """The font for `text`, or where no font has all of it the first there is (missing glyphs show as its empty box)."""
    return font_for(text, size) or _fonts(size)[0]


def text_wh(text: str, size: int) -> Tuple[int, int]:
    """Width of `text` and height of a line at `size`, in pixels."""
    font = any_font(text, size)
    ascent, descent = font.getmetrics()
    return int(font.getlength(text) + 0.999), ascent + descent


def shortened(text: str, size: int, room: int) -> str:
    """`text`, cut with an ellipsis so that it is at most `room` pixels wide; empty when not even one letter fits."""
    if text_wh(text, size)[0] <= room:
        return text
    # the longest prefix that fits, by bisection: widths grow with the length
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_wh(text[:middle].rstrip() + "…", size)[0] <= room else (low, middle - 1)
    return text[:low].rstrip() + "…" if low else ""

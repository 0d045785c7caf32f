"""Fonts for text on images: find one with the needed glyphs, measure text and shorten it."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Optional, Tuple

import PIL
from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont

from ssd_train.errors import DependencyError

# Pillow searches the system's font folders for these names. The first covers Latin, Greek and Cyrillic, the others
# Chinese, Japanese and Korean on Linux, Windows and macOS; none is required.
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
# an unassigned code point: fonts draw their "missing glyph" box for it
_UNASSIGNED = "\U0010fffd"


def _matplotlib_font(name: str) -> Optional[Path]:
    """Return the path of a font bundled with matplotlib, without importing it (half a second)."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / name
    return path if path.is_file() else None


@lru_cache(maxsize=None)
def _font_paths() -> Tuple[str, ...]:
    """Return the paths of those FONT_FILES that are installed."""
    paths = []
    for name in FONT_FILES:
        try:
            paths.append(str(ImageFont.truetype(name, 12).path))
        except OSError:
            bundled = _matplotlib_font(name)
            if bundled:
                paths.append(str(bundled))
    return tuple(paths)


@lru_cache(maxsize=64)
def _fonts(size: int) -> Tuple[FreeTypeFont, ...]:
    return tuple(ImageFont.truetype(path, size) for path in _font_paths()) or (_built_in(size),)


def _built_in(size: int) -> FreeTypeFont:
    """Return the font bundled with Pillow, which has little more than ASCII."""
    try:
        font = ImageFont.load_default(size)
    except TypeError:  # before Pillow 10.1 it had a fixed size
        font = None
    if not isinstance(font, FreeTypeFont):
        raise DependencyError(
            f"Pillow {PIL.__version__}: found no font for text on images, "
            f"expected {FONT_FILES[0]} or matplotlib to be installed, or Pillow 10.1 or newer with FreeType"
        )
    return font


@lru_cache(maxsize=4096)
def _has_glyph(font: FreeTypeFont, character: str) -> bool:
    return character.isspace() or bytes(font.getmask(character)) != bytes(font.getmask(_UNASSIGNED))


@lru_cache(maxsize=4096)
def font_for(text: str, size: int) -> Optional[FreeTypeFont]:
    """Return the first font of `size` pixels with every glyph of `text`; None if there is none."""
    for font in _fonts(size):
        if all(_has_glyph(font, character) for character in set(text)):
            return font
    return None


def drawable(text: str, fallback: str) -> str:
    """Return `text` on one line if an installed font has its glyphs, else `fallback` (ASCII, e.g. ``#3``)."""
    line = " ".join(text.split())
    return line if line and line.isprintable() and font_for(line, 12) else fallback


def any_font(text: str, size: int) -> FreeTypeFont:
    """Return the font for `text`, or the first font if none has all its glyphs (they are drawn as empty boxes)."""
    return font_for(text, size) or _fonts(size)[0]


def text_wh(text: str, size: int) -> Tuple[int, int]:
    """Return the width of `text` and the line height at `size`, in pixels."""
    font = any_font(text, size)
    ascent, descent = font.getmetrics()
    return int(font.getlength(text) + 0.999), ascent + descent


def shortened(text: str, size: int, max_width: int) -> str:
    """Return `text` cut with an ellipsis to at most `max_width` pixels; "" if not even one letter fits."""
    if text_wh(text, size)[0] <= max_width:
        return text
    # bisection for the longest prefix that fits: widths grow with the length
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        fits = text_wh(text[:middle].rstrip() + "…", size)[0] <= max_width
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low].rstrip() + "…" if low else ""

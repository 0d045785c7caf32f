"""HTML and SVG as text in which everything is escaped unless it is markup already.

File and class names come from strangers: `element` escapes every child and attribute that is not `Html`, so a name can
never become a tag.
"""

from __future__ import annotations

import base64
import io
import math
from html import escape
from typing import Optional, Union

import numpy as np
from PIL import Image


class Html(str):
    """Text that is markup already."""


Child = Union[str, int, float, None]


def element(tag: str, *children: Child, **attributes: Child) -> Html:
    """``<tag attributes>children</tag>``, children and values escaped.

    In names ``class_`` is class and ``stroke_width`` is stroke-width; an attribute of None is left out.
    """
    pairs = [(name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None]
    opening = "".join(f' {name}="{escape(str(value))}"' for name, value in pairs)
    if tag in ("img", "meta", "br"):
        return Html(f"<{tag}{opening}>")
    return Html(f"<{tag}{opening}>{join(*children)}</{tag}>")


def join(*children: Child) -> Html:
    """The children one after the other, escaped where they are not markup; None is nothing."""
    parts = [child if isinstance(child, Html) else escape(str(child)) for child in children if child is not None]
    return Html("".join(parts))


def number(value: object, digits: int = 3) -> str:
    """A figure for people: ``0.812``, ``12``; what is missing, NaN, infinite or no number at all is ``n/a``."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return "n/a"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}"
    return f"{value:,.{digits}f}" if math.isfinite(value) else "n/a"


def finite(value: object) -> Optional[float]:
    """`value` as a float, or None where `number` would say n/a."""
    return None if number(value) == "n/a" else float(value)  # type: ignore[arg-type]


def picture(image: np.ndarray, description: str, quality: int = 85) -> Html:
    """An ``<img>`` that carries its JPEG with it; `image` is RGB uint8 (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return element("img", src=source, alt=description, width=image.shape[1], height=image.shape[0], loading="lazy")

"""HTML and SVG elements as text.

File and class names are untrusted: `element` escapes every child and attribute that is not `Html`.
"""

from __future__ import annotations

import base64
import io
import math
from html import escape
from pathlib import Path
from typing import Optional, Union

import numpy as np
from PIL import Image


class Html(str):
    """Text that is markup and is not escaped."""


Child = Union[str, int, float, None]


def element(tag: str, *children: Child, **attributes: Child) -> Html:
    """Return ``<tag attributes>children</tag>`` with children and values escaped.

    The attribute ``class_`` is written as class and ``stroke_width`` as stroke-width; attributes of None are left out.
    """
    pairs = [(name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None]
    opening = "".join(f' {name}="{escape(str(value))}"' for name, value in pairs)
    if tag in ("img", "meta", "br"):
        return Html(f"<{tag}{opening}>")
    return Html(f"<{tag}{opening}>{join(*children)}</{tag}>")


def join(*children: Child) -> Html:
    """Concatenate the children, escaping those that are not markup and leaving out None."""
    parts = [child if isinstance(child, Html) else escape(str(child)) for child in children if child is not None]
    return Html("".join(parts))


def document(title: str, head: Child, *body: Child) -> str:
    """Return an HTML page with the style of the report, which loads nothing; `head` is added to its head."""
    fixed = (
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # the page loads nothing, even if a file or class name contains markup
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
    )
    whole = element("head", *fixed, head, element("title", title), element("style", Html(STYLE)))
    return "<!DOCTYPE html>\n" + element("html", whole, element("body", *body), lang="en") + "\n"


def number(value: object, digits: int = 3) -> str:
    """Format a number, e.g. ``0.812`` or ``12``; missing, non-finite and non-numeric values become ``n/a``."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return "n/a"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}"
    return f"{value:,.{digits}f}" if math.isfinite(value) else "n/a"


def finite(value: object) -> Optional[float]:
    """Return `value` as a float, or None if `number` formats it as n/a."""
    return None if number(value) == "n/a" else float(value)  # type: ignore[arg-type]  # a number


def inline_image(image: np.ndarray, description: str, quality: int = 80) -> Html:
    """Return an ``<img>`` with the image, RGB uint8 (H, W, 3), as a JPEG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return element("img", src=source, alt=description, width=image.shape[1], height=image.shape[0], loading="lazy")


STYLE = Path(__file__).with_name("report.css").read_text("utf-8")

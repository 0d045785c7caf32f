"""HTML and SVG elements as text.

File and class names are untrusted: `element` escapes every child and attribute that is not `Html`.
"""

from __future__ import annotations

import base64
import io
import math
from html import escape
from typing import Optional, Union

import numpy as np
from PIL import Image

from ssd_train.visualization.draw import CLASS_COLOURS, css


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


# yellow is hard to see on white: lines and legend keys are darker there
_ON_LIGHT = {4: "#b09a00"}


def _class_colours(on_light: bool) -> str:
    colours = [_ON_LIGHT.get(i, css(c)) if on_light else css(c) for i, c in enumerate(CLASS_COLOURS)]
    return " ".join(f"--c{index}: {colour};" for index, colour in enumerate(colours))


_SERIES = "".join(f".c{index} {{ --ink: var(--c{index}); }}\n" for index in range(len(CLASS_COLOURS)))

STYLE = (
    ":root { color-scheme: light dark; " + _class_colours(on_light=True) + " }\n"
    "@media screen and (prefers-color-scheme: dark) { :root { " + _class_colours(on_light=False) + " } }\n"
    """
:root {
  --page: #ffffff; --card: #f5f7f9; --line: #dfe4ea; --text: #18212b; --soft: #5a6675; --accent: #0066a6;
  --s0: #0072b2; --s1: #d55e00; --s2: #008a65; --faint: #9aa7b5; --note: #fff6df; --note-line: #e69f00;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #12171d; --card: #1b222a; --line: #303a45; --text: #e7ecf1; --soft: #9fadbb; --accent: #6cbcf0;
    --s0: #56b4e9; --s1: #f08a3c; --s2: #2fc79b; --faint: #5d6a78; --note: #2a2414; --note-line: #b98400;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 70rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", Arial,
    "Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", sans-serif;
}
h1, h2, h3 { line-height: 1.2; letter-spacing: -0.01em; text-wrap: balance; overflow-wrap: anywhere; }
h1 { margin: 0 0 0.3rem; font-size: 2rem; }
h2 { margin: 3.25rem 0 0.3rem; padding-top: 1.4rem; border-top: 1px solid var(--line); font-size: 1.35rem; }
h3 { margin: 1.75rem 0 0.6rem; font-size: 1rem; }
p { margin: 0.25rem 0 1rem; max-width: 46rem; }
.soft, .lead, figcaption, .empty { color: var(--soft); }
.lead { font-size: 0.94rem; }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.25rem; margin-top: 1rem; font-size: 0.9rem; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.notes {
  margin: 0.8rem 0; padding: 0.8rem 1rem; list-style: none;
  background: var(--note); border-left: 3px solid var(--note-line);
}
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 0.75rem; margin-top: 1.1rem; }
.tile { padding: 0.9rem 1rem; background: var(--card); border-radius: 8px; }
.tile b { display: block; font-size: 1.75rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: 0.86rem; font-weight: 600; }
.tile small { display: block; margin-top: 0.15rem; font-size: 0.78rem; line-height: 1.35; color: var(--soft); }
.tile.first b { color: var(--accent); }
.verdict { margin: 0.4rem 0 0.6rem; max-width: none; font-size: 1.25rem; line-height: 1.35; text-wrap: balance; }
.command { margin: 0.8rem 0; padding: 0.6rem 0.8rem; background: var(--card); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: 0.86rem; }
.steps { margin: 1.1rem 0; padding: 0.8rem 1rem; background: var(--card); border-radius: 8px; }
.steps h2 { margin: 0; padding: 0; border: 0; font-size: 1rem; }
.steps ol { margin: 0.4rem 0 0; padding-left: 1.3rem; }
.steps li { margin: 0.25rem 0; }
.steps p { margin: 0.4rem 0 0; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 0.5rem 2rem; }
.columns > * { min-width: 0; }
.chart svg { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { font-size: 11.5px; fill: var(--soft); font-family: inherit; font-variant-numeric: tabular-nums; }
.chart text.mark { fill: var(--text); }
line.grid { stroke: var(--line); }
line.mark { stroke: var(--soft); stroke-dasharray: 3 3; }
.s0 { --ink: var(--s0); } .s1 { --ink: var(--s1); } .s2 { --ink: var(--s2); }
.faint { --ink: var(--faint); } .strong { --ink: var(--text); }
path.line { fill: none; stroke: var(--ink); stroke-width: 2; stroke-linejoin: round; }
path.line.faint { stroke-width: 1; opacity: 0.6; }
path.line.strong { stroke-width: 2.5; stroke-dasharray: 7 4; }
path.line.validation { stroke-dasharray: 5 4; }
.key.validation { background: repeating-linear-gradient(90deg, var(--ink) 0 4px, transparent 4px 6px); }
.dot { fill: var(--ink); }
.hover { fill: transparent; }
.hover:hover { fill: var(--ink); fill-opacity: 0.45; }
.bar { fill: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; font-size: 0.84rem; overflow-wrap: anywhere; }
.chart .legend { padding: 0.2rem 0 0.6rem 8%; }
section > .legend { margin: 0.5rem 0 1rem; }
.key {
  display: inline-block; width: 0.85em; height: 0.85em; margin-right: 0.4em;
  border-radius: 2px; background: var(--ink); vertical-align: -0.06em;
}
.key.true { background: #fff; border: 2px dashed #4a5663; }
.key.hit { background: none; border: 2px solid var(--text); }
.key.false { background: none; border: 2px dotted var(--text); }
.scroll { overflow-x: auto; margin: 0.5rem 0 1rem; }
.scroll.long { max-height: 30rem; overflow-y: auto; }
.long th { position: sticky; top: 0; background: var(--page); }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.55rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: 0.82rem; white-space: nowrap; vertical-align: bottom; }
th:first-child, td:first-child { padding-left: 0; }
td { overflow-wrap: anywhere; }
td:first-child { min-width: 5rem; }
td.n, th.n { text-align: right; white-space: nowrap; }
.share { min-width: 4rem; height: 0.6rem; margin-top: 0.42rem; background: var(--card); border-radius: 3px; }
.share i { display: block; height: 100%; background: var(--s0); border-radius: 3px; }
.bars i { display: block; height: 0.45rem; min-width: 1px; margin: 0.12rem 0; background: var(--ink); }
.bars { min-width: 8rem; }
.matrix { width: auto; }
.matrix td { min-width: 3.6rem; border: 1px solid var(--line); }
.matrix .right { background: rgb(0 158 115 / calc(var(--share) * 75%)); }
.matrix .wrong { background: rgb(213 94 0 / calc(var(--share) * 75%)); }
.zoom { margin: 0; }
.zoom > summary { list-style: none; cursor: zoom-in; }
.zoom > summary::-webkit-details-marker { display: none; }
.zoom[open] > summary {
  position: fixed; inset: 0; z-index: 9; padding: 1.5rem; background: rgb(0 0 0 / 88%); cursor: zoom-out;
}
.zoom[open] > summary img { width: 100%; height: 100%; aspect-ratio: auto; background: none; }
.gallery { display: grid; gap: 1.25rem 1rem; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); }
figure { margin: 0; }
img {
  display: block; width: 100%; height: auto; aspect-ratio: 4 / 3; object-fit: contain;
  background: var(--card); border-radius: 6px;
}
.square img { aspect-ratio: 1; }
figcaption { margin-top: 0.4rem; font-size: 0.84rem; line-height: 1.35; overflow-wrap: anywhere; }
figcaption b { display: block; font-weight: 600; color: var(--text); }
details { margin: 0.6rem 0; }
summary { cursor: pointer; font-weight: 600; }
code { font: 0.9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.5rem; }
  .tile b { font-size: 1.45rem; }
  .tiles { grid-template-columns: repeat(2, 1fr); }
  .chart text { font-size: 16px; }
}
@media print {
  html { font-size: 11px; }
  body { max-width: none; padding: 0; font-size: 1rem; }
  nav { display: none; }
  .zoom[open] > summary { position: static; padding: 0; background: none; }
  .zoom[open] > summary img { height: auto; aspect-ratio: 4 / 3; }
  figure, tr, .tile, .chart { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .columns { grid-template-columns: repeat(2, 1fr); }
  .tiles { grid-template-columns: repeat(4, 1fr); }
  .gallery { grid-template-columns: repeat(3, 1fr); }
  .scroll, .scroll.long { max-height: none; overflow: visible; }
  details::details-content { content-visibility: visible; height: auto; }
  .tile, .bar, .key, .share, .share i, .bars i, .matrix td {
    print-color-adjust: exact; -webkit-print-color-adjust: exact;
  }
}
""" + _SERIES
)

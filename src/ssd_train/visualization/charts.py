"""Line charts and histograms as inline SVG without scripts; CSS classes set the colours, for light and dark themes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from ssd_train.boxes import SizeWH
from ssd_train.visualization.html import Html, element, finite, join, number

Limits = Tuple[float, float]
_MARGIN = (48, 26, 14, 36)  # left, top, right, bottom, in SVG units
# more hover marks than this would make most of the file
_MAX_HOVER_POINTS = 200
# the style of many lines that share one legend entry
FAINT = "faint"


@dataclass(frozen=True)
class Series:
    """A line through points (x, y). A None is skipped, a NaN breaks the line; `style` is a CSS class."""

    name: str
    x: Sequence[object]
    y: Sequence[object]
    style: str = "s0"


@dataclass(frozen=True)
class Axes:
    """Axis labels, limits (None: those of the points), a labelled vertical line at `mark_x`, and only whole x ticks."""

    x_label: str
    y_label: str
    x_limits: Optional[Limits] = None
    y_limits: Optional[Limits] = None
    mark_x: Optional[float] = None
    mark_label: str = ""
    whole_x: bool = False


@dataclass(frozen=True)
class Frame:
    """The mapping from values to SVG units: the limits span a chart of `size_wh` inside its margins, y upwards."""

    size_wh: SizeWH
    x_limits: Limits
    y_limits: Limits

    def x(self, value: float) -> float:
        """Return the SVG x coordinate of a value."""
        left, _, right, _ = _MARGIN
        return left + _fraction(value, self.x_limits) * (self.size_wh[0] - left - right)

    def y(self, value: float) -> float:
        """Return the SVG y coordinate of a value."""
        _, top, _, bottom = _MARGIN
        return self.size_wh[1] - bottom - _fraction(value, self.y_limits) * (self.size_wh[1] - top - bottom)


def line_chart(series: Sequence[Series], axes: Axes, size_wh: SizeWH = (560, 300), legend: bool = True) -> Html:
    """Return a chart with axes, ticks, hover titles and a legend, or a note if there are no values."""
    points = [_points(one) for one in series]
    flat = [point for runs in points for run in runs for point in run]
    if not flat:
        return element("p", "No values to draw.", class_="empty")
    frame = _frame(flat, axes, size_wh)
    lines = [_line(one, runs, frame) for one, runs in zip(series, points)]
    # hover marks come last: a line above them would catch the mouse
    hover = [_hover(one, runs, frame, axes) for one, runs in zip(series, points)]
    body = join(_grid(frame, axes), _mark(frame, axes), *lines, *hover)
    drawn = [one for one, runs in zip(series, points) if runs]
    return element("div", _svg(body, size_wh, axes), _legend(drawn) if legend else None, class_="chart")


def histogram(
    series: Sequence[Tuple[str, Sequence[int]]], edges: Sequence[float], axes: Axes, size_wh: SizeWH = (560, 240)
) -> Html:
    """Return a histogram with bars side by side for each named series of counts, in percent of its sum.

    Bins are of equal width, labelled by their `edges` (N + 1,) of N counts.
    """
    drawn = [(index, name, counts) for index, (name, counts) in enumerate(series) if sum(counts)]
    if not drawn:
        return element("p", "No values to draw.", class_="empty")
    highest = max(100 * max(counts) / sum(counts) for _, _, counts in drawn)
    frame = Frame(size_wh, (0, len(edges) - 1), (0, _nice_ticks(0, highest)[-1]))
    bars = [
        _bar(frame, (bin_, position, len(drawn)), 100 * count / sum(counts), f"s{index}", title)
        for position, (index, name, counts) in enumerate(drawn)
        for bin_, count in enumerate(counts)
        for title in [f"{name}, {_tick_text(edges[bin_])} to {_tick_text(edges[bin_ + 1])}: {count:,}"]
    ]
    labels = [(index, _tick_text(edge)) for index, edge in enumerate(edges)]
    body = join(_y_grid(frame), _x_labels(frame, labels), _titles(frame, axes), *bars)
    legend = _legend([Series(name, (), (), f"s{index}") for index, name, _ in drawn])
    return element("div", _svg(body, size_wh, axes), legend, class_="chart")


def _fraction(value: float, limits: Limits) -> float:
    return (value - limits[0]) / (limits[1] - limits[0])


def _points(series: Series) -> List[List[Tuple[float, float]]]:
    """Return the runs of finite points between NaNs."""
    runs: List[List[Tuple[float, float]]] = [[]]
    for x, y in ((x, y) for x, y in zip(series.x, series.y) if x is not None and y is not None):
        finite_x, finite_y = finite(x), finite(y)
        if finite_x is not None and finite_y is not None:
            runs[-1].append((finite_x, finite_y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _frame(points: Sequence[Tuple[float, float]], axes: Axes, size_wh: SizeWH) -> Frame:
    xs, ys = zip(*points)
    return Frame(size_wh, axes.x_limits or _limits(xs, from_zero=False), axes.y_limits or _limits(ys, from_zero=True))


def _limits(values: Sequence[float], from_zero: bool) -> Limits:
    """Return limits around the values, never of zero length."""
    low, high = min(values), max(values)
    if not from_zero:
        return (low, high) if high > low else (low - 0.5, high + 0.5)
    ticks = _nice_ticks(min(low, 0.0), high if high > min(low, 0.0) else low + 1.0)
    return ticks[0], ticks[-1]


def _nice_ticks(low: float, high: float, about: int = 5) -> List[float]:
    """Return ticks in steps of 1, 2 or 5 times a power of ten that enclose low..high."""
    raw = max((high - low) / about, 1e-12)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * index for index in range(first, max(last, first + 1) + 1)]


def _tick_text(value: float) -> str:
    if value and abs(value) < 0.001:
        return f"{value:.0e}"
    return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:.1e}"


def _text(content: str, x: float, y: float, anchor: str = "middle", **more: str) -> Html:
    return element("text", content, x=round(x, 2), y=round(y, 2), text_anchor=anchor, **more)


def _rule(x1: float, y1: float, x2: float, y2: float, style: str) -> Html:
    return element("line", x1=round(x1, 2), y1=round(y1, 2), x2=round(x2, 2), y2=round(y2, 2), class_=style)


def _y_grid(frame: Frame) -> Html:
    ticks = [
        tick
        for tick in _nice_ticks(*frame.y_limits)
        if frame.y_limits[0] - 1e-9 <= tick <= frame.y_limits[1] * (1 + 1e-9)
    ]
    left, right = _MARGIN[0], frame.size_wh[0] - _MARGIN[2]
    rules = [_rule(left, frame.y(tick), right, frame.y(tick), "grid") for tick in ticks]
    return join(*rules, *[_text(_tick_text(tick), left - 6, frame.y(tick) + 4, "end") for tick in ticks])


def _x_labels(frame: Frame, labels: Sequence[Tuple[float, str]]) -> Html:
    bottom = frame.size_wh[1] - _MARGIN[3]
    return join(*[_text(text, frame.x(value), bottom + 15) for value, text in labels])


def _titles(frame: Frame, axes: Axes) -> Html:
    """Return the axis labels: x centred below its ticks, y above its ticks, where long numbers do not collide."""
    left, _, right, _ = _MARGIN
    width, height = frame.size_wh
    x_label = _text(axes.x_label, (left + width - right) / 2, height - 3, class_="axis")
    return join(x_label, _text(axes.y_label, 0, 12, "start", class_="axis"))


def _grid(frame: Frame, axes: Axes) -> Html:
    low, high = frame.x_limits
    ticks = [tick for tick in _nice_ticks(low, high, 8) if low - 1e-9 <= tick <= high + 1e-9]
    if axes.whole_x:
        ticks = sorted({round(tick) for tick in ticks if low <= round(tick) <= high})
    return join(_y_grid(frame), _x_labels(frame, [(tick, _tick_text(tick)) for tick in ticks]), _titles(frame, axes))


def _mark(frame: Frame, axes: Axes) -> Optional[Html]:
    if axes.mark_x is None or not frame.x_limits[0] <= axes.mark_x <= frame.x_limits[1]:
        return None
    x, top, bottom = frame.x(axes.mark_x), _MARGIN[1], frame.size_wh[1] - _MARGIN[3]
    left_half = x < frame.size_wh[0] / 2
    # above the chart, where no line crosses it
    label = _text(axes.mark_label, x, top - 4, "start" if left_half else "end", class_="mark")
    return join(_rule(x, top, x, bottom, "mark"), label)


def _line(series: Series, runs: Sequence[Sequence[Tuple[float, float]]], frame: Frame) -> Html:
    """Return the runs as one path, and runs of a single point as dots, which a path would not show."""
    moves = ["M" + " L".join(f"{frame.x(x):.2f},{frame.y(y):.2f}" for x, y in run) for run in runs if len(run) > 1]
    dots = [_dot(frame, *run[0], f"dot {series.style}") for run in runs if len(run) == 1]
    path = element("path", d=" ".join(moves), class_=f"line {series.style}") if moves else None
    return join(path, *dots)


def _dot(frame: Frame, x: float, y: float, style: str, title: Optional[Html] = None) -> Html:
    return element(
        "circle", title, cx=round(frame.x(x), 2), cy=round(frame.y(y), 2), r=3.5 if title is None else 7, class_=style
    )


def _hover(series: Series, runs: Sequence[Sequence[Tuple[float, float]]], frame: Frame, axes: Axes) -> Html:
    """Return invisible discs whose titles the browser shows under the mouse."""
    flat = [point for run in runs for point in run]
    points = flat[:: max(1, -(-len(flat) // _MAX_HOVER_POINTS))]
    titles = [(x, y, f"{series.name}: {number(y, 4)} at {axes.x_label.lower()} {_tick_text(x)}") for x, y in points]
    return join(*[_dot(frame, x, y, f"hover {series.style}", element("title", text)) for x, y, text in titles])


def _bar(frame: Frame, position: Tuple[int, int, int], value: float, style: str, text: str) -> Html:
    """Return a bar; `place` is its bin, its number among the bars of the bin, and their number."""
    bin_, number, count = position
    width = (frame.x(bin_ + 1) - frame.x(bin_) - 4) / count
    left, top = frame.x(bin_) + 2 + number * width, frame.y(value)
    return element(
        "rect",
        element("title", text),
        x=round(left, 2),
        y=round(top, 2),
        width=round(width - 1, 2),
        height=round(frame.y(0) - top, 2),
        rx=1.5,
        class_=f"bar {style}",
    )


def _svg(body: Html, size_wh: SizeWH, axes: Axes) -> Html:
    label = f"{axes.y_label} by {axes.x_label}".lower()
    return element("svg", body, viewBox=f"0 0 {size_wh[0]} {size_wh[1]}", role="img", aria_label=label)


def _legend(series: Sequence[Series]) -> Html:
    """Return a legend with one entry per line, and one for all faint lines together."""
    entries = [(one.style, one.name) for one in series if one.style != FAINT]
    if len(entries) < len(series):
        entries.append((FAINT, f"each of the {len(series) - len(entries)}"))
    return element(
        "div", *[element("span", element("i", class_=f"key {s}"), name) for s, name in entries], class_="legend"
    )

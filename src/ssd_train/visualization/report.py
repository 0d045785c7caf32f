"""The training report: one self-contained HTML file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ssd_train import __version__
from ssd_train.data.structures import ClassNames
from ssd_train.errors import ConfigError
from ssd_train.storage.atomic import translate_io_errors, write_text_atomic
from ssd_train.visualization import error_analysis
from ssd_train.visualization.charts import FAINT, Axes, Series, histogram, line_chart
from ssd_train.visualization.draw import CLASS_COLOURS, class_label
from ssd_train.visualization.html import Child, Html, document, element, finite, inline_image, join, number
from ssd_train.visualization.report_data import (
    RELATIVE_SIZE_EDGES,
    Reason,
    ReportData,
    Sample,
    SubsetSummary,
    duration_text,
    interval_of,
    next_steps,
    verdict,
)

# more points do not show in the chart and enlarge the file
_CURVE_POINTS = 200
# longer tables scroll
_ROWS_SHOWN = 15
_ZERO_TO_ONE: "tuple[float, float]" = (0.0, 1.0)


def section(anchor: str, title: str, *children: Child) -> Html:
    """Return a section of a page with its heading."""
    return element("section", element("h2", title), *children, id=anchor)


def table(head: Sequence[str], rows: Sequence[Sequence[Child]], numeric: Sequence[int] = ()) -> Html:
    """Return a table; the columns in `numeric` are right-aligned."""
    style = ["n" if index in numeric else None for index in range(len(head))]
    header = element("tr", *[element("th", text, class_=style[i]) for i, text in enumerate(head)])
    body = [element("tr", *[element("td", cell, class_=style[i]) for i, cell in enumerate(row)]) for row in rows]
    table_style = "scroll long" if len(rows) > _ROWS_SHOWN else "scroll"
    return element("div", element("table", element("thead", header), element("tbody", *body)), class_=table_style)


def _empty(text: str) -> Html:
    return element("p", text, class_="empty")


def _lead(text: str) -> Html:
    return element("p", text, class_="lead")


def _columns(*titled: Tuple[str, Html]) -> Html:
    """Return titled parts side by side."""
    return element("div", *[element("div", element("h3", title), part) for title, part in titled], class_="columns")


def _scores(data: ReportData) -> List[Child]:
    """Return the main metrics, each with its definition."""
    if data.scores is None:
        return [_empty("The model was not scored: there were no validation images.")]
    scores, f1 = data.scores, data.scores.get("best_f1") or {}
    threshold = f"at score {number(f1.get('threshold'), 2)} or more, where F1 is best ({number(f1.get('f1'))})"
    iou = number(scores.get("overlap_threshold", 0.5), 2)
    metric = data.settings.get("metric_for_best_model")
    chooses = {name: "; chooses the best model" if name == metric else "" for name in ("coco", "voc07")}
    tiles = [
        _tile("mAP@0.5", number(scores.get("mAP@0.5")), f"{_interval(scores, 'mAP@0.5')}COCO: IoU 0.50", "tile first"),
        _tile(
            "mAP",
            number(scores.get("mAP")),
            f"{_interval(scores, 'mAP')}COCO: IoU 0.50 to 0.95{chooses['coco']}",
        ),
        _tile("mAP@0.75", number(scores.get("mAP@0.75")), "COCO: IoU 0.75"),
        _tile("VOC07 mAP", number(scores.get("VOC07")), f"11 points, IoU {iou}{chooses['voc07']}"),
        _tile("Precision", number(f1.get("precision")), "detections that are correct, " + threshold),
        _tile("Recall", number(f1.get("recall")), "objects that are found, at the same score"),
        _tile(
            "False positives",
            number(scores.get("false_positives_per_background_image"), 2),
            "per image without objects, at the same score",
        ),
        _tile("Images", number(scores.get("images")), _scored_images(scores)),
    ]
    return [element("div", *tiles, class_="tiles")]


def _interval(scores: Mapping[str, Any], name: str) -> str:
    limits = interval_of(scores, name)
    return f"95 % interval {number(limits[0])} to {number(limits[1])}; " if limits else ""


def _tile(name: str, value: str, definition: str, style: str = "tile") -> Html:
    return element("div", element("span", name), element("b", value), element("small", definition), class_=style)


def _scored_images(scores: Mapping[str, Any]) -> str:
    background, boxes = (number(scores.get(key)) for key in ("background_images", "boxes"))
    return f"validated, {background} of them without objects; {boxes} labelled boxes"


def _training(data: ReportData) -> List[Child]:
    """Return charts of loss, mAP, learning rate and speed by epoch."""
    if not data.history:
        return [_empty("No epoch was trained.")]
    best, best_label = finite(data.best_epoch), f"best epoch {number(data.best_epoch)}"
    losses = [
        _series(data, "CrossEntropy", "class loss (CrossEntropy)", "s0"),
        _series(data, "SmoothL1", "box loss (SmoothL1)", "s1"),
        _series(data, "val_CrossEntropy", "class loss, validation", "s0 validation"),
        _series(data, "val_SmoothL1", "box loss, validation", "s1 validation"),
    ]
    means = [
        _series(data, "mAP@0.5", "mAP@0.5", "s2"),
        _series(data, "VOC07", "VOC07 mAP", "s0"),
        _series(data, "mAP", "COCO mAP", "s1"),
    ]
    rate, speed = (_series(data, key, "", "s0") for key in ("learning_rate", "images_per_second"))
    epochs = Axes("Epoch", "", _epochs(data), whole_x=True)
    marked = replace(epochs, mark_x=best, mark_label=best_label)
    charts = (
        ("Loss", line_chart(losses, replace(marked, y_label="Per matched anchor"))),
        ("Validation mAP", line_chart(means, replace(marked, y_label="mAP", y_limits=_ZERO_TO_ONE))),
        ("Learning rate", line_chart([rate], replace(epochs, y_label="Rate"), (560, 170), legend=False)),
        ("Speed", line_chart([speed], replace(epochs, y_label="Images/s"), (560, 170), legend=False)),
    )
    return [_columns(*charts)]


def _series(data: ReportData, key: str, name: str, style: str) -> Series:
    return Series(name, [row.get("epoch") for row in data.history], [row.get(key) for row in data.history], style)


def _epochs(data: ReportData) -> "Optional[tuple[float, float]]":
    """Return the range of all epochs, including those not evaluated, so that the charts share their x axis."""
    epochs = [epoch for epoch in (finite(row.get("epoch")) for row in data.history) if epoch is not None]
    return (min(epochs), max(epochs)) if epochs and min(epochs) < max(epochs) else None


def _precision(data: ReportData) -> List[Child]:
    """Return curves over recall and score, AP by class and box size, and the confusion matrix."""
    lead = "Precision at each recall, as the score threshold falls: a good model stays high to the far right."
    chart = line_chart(_curves(data), Axes("Recall", "Precision", _ZERO_TO_ONE, _ZERO_TO_ONE), (560, 340))
    scores = data.scores or {}
    per_class = scores.get("per_class") or {}
    classes = _class_table(per_class) if per_class else _empty("No class was scored.")
    by_size, confusion = scores.get("by_size"), scores.get("confusion")
    parts = [
        ("Precision by recall", chart),
        ("Precision, recall and F1 by score", _score_chart(data)),
        ("AP by class", classes),
        *([("AP by box size", _size_table(by_size))] if by_size else []),
    ]
    return [_lead(lead), _columns(*parts), _confusion(confusion, data) if confusion else None]


def _score_chart(data: ReportData) -> Html:
    """Return precision, recall and F1 of all classes together by score, with the chosen score marked."""
    curve = data.score_curve or {"score": [], "recall": [], "precision": []}
    score, recall, precision = (np.asarray(curve[key], float) for key in ("score", "recall", "precision"))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    # the best F1 stays among the points
    keep = np.union1d(_spread(-score), [np.argmax(f1)]).astype(int) if len(score) else np.zeros(0, int)
    series = [
        Series(name, score[keep].tolist(), values[keep].tolist(), style)
        for name, values, style in (("F1", f1, "s0"), ("precision", precision, "s1"), ("recall", recall, "s2"))
    ]
    mark = f"chosen score {number(data.threshold, 2)}"
    axes = Axes("Score", "All classes", _ZERO_TO_ONE, _ZERO_TO_ONE, data.threshold, mark)
    return line_chart(series, axes, (560, 340))


_AREAS = {"small": "below 32 x 32 px", "medium": "32 x 32 to 96 x 96 px", "large": "above 96 x 96 px"}


def _size_table(by_size: Mapping[str, Mapping[str, Any]]) -> Html:
    """Return COCO AP by box size, in pixels of the image."""
    rows: List[List[Child]] = [
        [name, _AREAS.get(name, ""), _bar(row.get("AP")), number(row.get("AP")), number(row.get("boxes"))]
        for name, row in by_size.items()
    ]
    return table(("Size", "Area", "", "AP", "Boxes"), rows, numeric=(3, 4))


_MATRIX_CLASSES, _CONFUSIONS_SHOWN = 15, 15


def _confusion(matrix: Sequence[Sequence[int]], data: ReportData) -> Html:
    """Return the confusion matrix, or the most frequent confusions of many classes."""
    lead = (
        f"Labelled boxes by the class that was detected there, at score {number(data.threshold, 2)} or more and an IoU "
        "of at least 0.5. Background: objects that were missed, and detections without a label."
    )
    names = [*data.class_names, "background"]
    content = _matrix(matrix, names) if len(names) <= _MATRIX_CLASSES + 1 else _confusion_list(matrix, names)
    return element("div", element("h3", "Confusion matrix"), _lead(lead), content)


def _matrix(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Html:
    head = element("tr", element("th", "labelled \\ detected"), *[element("th", name, class_="n") for name in names])
    rows = []
    for index, (name, counts) in enumerate(zip(names, matrix)):
        total = sum(counts)
        cells = [
            element(
                "td",
                "" if index == column == len(names) - 1 else number(count),
                class_="n right" if index == column else "n wrong",
                style=f"--share:{count / total if total else 0:.3f}",
            )
            for column, count in enumerate(counts)
        ]
        rows.append(element("tr", element("th", name), *cells))
    return element("div", element("table", head, *rows, class_="matrix"), class_="scroll")


def _confusion_list(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Html:
    pairs = [(count, a, b) for a, row in zip(names, matrix) for b, count in zip(names, row) if a != b and count]
    rows: List[List[Child]] = [[a, b, number(n)] for n, a, b in sorted(pairs, key=lambda p: -p[0])[:_CONFUSIONS_SHOWN]]
    return table(("Labelled", "Detected", "Boxes"), rows, numeric=(2,))


def _curves(data: ReportData) -> List[Series]:
    """Return a curve per class, coloured if there are enough colours, and the mean curve of several classes."""
    few = len(data.curves) <= len(CLASS_COLOURS)
    names = list(data.class_names)
    lines = []
    for name, curve in data.curves.items():
        style = f"c{names.index(name) % len(CLASS_COLOURS)}" if few and name in names else FAINT
        recall, precision = np.asarray(curve["recall"], float), np.asarray(curve["precision"], float)
        keep = _spread(recall)
        lines.append(Series(name, recall[keep].tolist(), precision[keep].tolist(), style))
    return lines if len(lines) < 2 else [*lines, _mean_curve(data)]


def _spread(x: np.ndarray) -> np.ndarray:
    """Return the indexes of points that are spread evenly along rising `x`, with the first and the last."""
    if not len(x):
        return np.zeros(0, int)
    positions = np.searchsorted(x, np.linspace(x[0], x[-1], _CURVE_POINTS))
    return np.unique([0, *np.minimum(positions, len(x) - 1), len(x) - 1])


def _mean_curve(data: ReportData) -> Series:
    """Return the mean over classes of the interpolated precision.

    It is the highest precision at this recall or more; 0 above the highest recall.
    """
    grid = np.linspace(0, 1, 101)
    rows = []
    for curve in data.curves.values():
        recall, precision = np.asarray(curve["recall"], float), np.asarray(curve["precision"], float)
        # (N + 1,): the last value, 0, is for recalls that are not reached
        best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        rows.append(best[np.searchsorted(recall, grid)])
    return Series(f"mean of {len(rows)} classes", grid.tolist(), np.mean(rows, axis=0).tolist(), "strong")


def _class_table(per_class: Mapping[str, Mapping[str, Any]]) -> Html:
    ordered = sorted(per_class.items(), key=lambda item: -(finite(item[1].get("AP@0.5")) or 0.0))
    rows = [
        [
            name,
            _bar(scores.get("AP@0.5")),
            *[number(scores.get(key)) for key in ("AP@0.5", "AP", "AP@0.75", "VOC07", "boxes")],
        ]
        for name, scores in ordered
    ]
    return table(("Class", "", "AP@0.5", "AP", "AP@0.75", "VOC07", "Boxes"), rows, numeric=range(2, 7))


def _bar(value: Any) -> Html:
    fraction = min(max(finite(value) or 0.0, 0.0), 1.0)
    return element("div", element("i", style=f"width:{fraction:.1%}"), class_="share", aria_hidden="true")


def _settings(data: ReportData) -> List[Child]:
    """Return settings and versions, collapsed."""
    return [_details("Settings", data.settings), _details("Versions", data.versions)]


def _details(title: str, values: Mapping[str, Any]) -> Html:
    rows = [[element("code", name), _setting_text(value)] for name, value in values.items()]
    content = table(("Name", "Value"), rows) if rows else _empty("Not recorded.")
    return element("details", element("summary", f"{title} ({len(rows)})"), content)


def _setting_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "none" if value is None else str(value)


IMAGE_WH = (720, 720)
IMAGES_SHOWN = 12
CASES_SHOWN = 6
_NO_IMAGES = "There are no validation images."


def _images(data: ReportData) -> List[Child]:
    """Return validation images with labels and detections."""
    if not data.samples:
        return [_empty(_NO_IMAGES)]
    selected = _select_samples(data.samples, data.threshold)
    lead = (
        f"{len(selected)} of {len(data.samples):,} images, with detections of score {number(data.threshold, 2)} or "
        "more. An image shows at most twice as many detections as it has labels. Click to enlarge."
    )
    figures = [_sample_figure(sample, data) for sample in selected]
    return [_lead(lead), _legend(data.class_names), element("div", *figures, class_="gallery")]


def _select_samples(samples: Sequence[Sample], threshold: float) -> List[Sample]:
    """Return samples at even intervals of those with an object or a detection, or of all if there are none."""
    candidates = [s for s in samples if len(s.truth.boxes) or len(s.detections.above(threshold))] or list(samples)
    indices = np.unique(np.linspace(0, len(candidates) - 1, IMAGES_SHOWN).astype(int))
    return [candidates[index] for index in indices]


def _legend(class_names: ClassNames) -> Html:
    """Return the kinds of lines, the colours of the classes, and the names of those that images show only by number."""
    kinds = (("true", "label; with a name: missed"), ("hit", "hit"), ("false", "false positive, × before the name"))
    keys = [element("span", element("i", class_=f"key {kind}"), text) for kind, text in kinds]
    for index, name in enumerate(class_names):
        by_number = class_label(class_names, index) == f"#{index}"
        # with more classes colours repeat, and only the names in the images identify a class
        if by_number or len(class_names) <= len(CLASS_COLOURS):
            key = element("i", class_=f"key c{index % len(CLASS_COLOURS)}")
            keys.append(element("span", key, f"#{index} {name}" if by_number else name))
    return element("div", *keys, class_="legend")


def _sample_figure(sample: Sample, data: ReportData) -> Html:
    matching = error_analysis.match(sample, data.threshold)
    return figure(
        error_analysis.draw_scene(sample, matching, data.class_names, IMAGE_WH), sample.name, _summary(matching)
    )


def _summary(matching: error_analysis.MatchResult) -> str:
    """Return e.g. "3 of 4 found, 21 false positives, 5 of them drawn"."""
    detected, objects, false = int(matching.detected.sum()), len(matching.detected), int((~matching.correct).sum())
    recall = f"{detected} of {objects} found" if objects else "no labels"
    drawn = error_analysis.drawn_detections(matching, np.arange(len(matching.correct)), objects)
    shown = int((~matching.correct[drawn]).sum())
    hidden = f", {shown} of them drawn" if shown < false else ""
    return f"{recall}, {false or 'no'} false positive{'' if false == 1 else 's'}{hidden}"


def figure(image: np.ndarray, name: str, caption: str) -> Html:
    """Return an image with name and caption, which enlarges on a click."""
    basename = name.rsplit("/", 1)[-1]
    text = element("figcaption", element("b", basename, title=name), caption)
    # opened, the summary covers the window: an image enlarges without a script
    zoomable = element("details", element("summary", inline_image(image, f"{basename}: {caption}")), class_="zoom")
    return element("figure", zoomable, text)


def _worst(data: ReportData) -> List[Child]:
    """Return the images with the most missed objects and the highest-scoring false positives."""
    if not data.samples:
        return [_empty(_NO_IMAGES)]
    misses, false_positives = error_analysis.worst_cases(data.samples, data.class_names, data.threshold, CASES_SHOWN)
    lead = (
        "Look here first: wrong or missing labels show up here as well as weaknesses of the model. "
        "The box that an image is about is tinted and has a thick line."
    )
    return [
        _lead(lead),
        *_cases("Images with the most missed objects", misses, "No object was missed."),
        *_cases("False positives with the highest scores", false_positives, "There was no false positive."),
    ]


def _cases(title: str, cases: Sequence[error_analysis.ErrorCase], empty_text: str) -> List[Child]:
    figures = [figure(case.image, case.name, case.caption) for case in cases]
    gallery = element("div", *figures, class_="gallery square")
    return [element("h3", title), gallery if figures else _empty(empty_text)]


def _data(data: ReportData) -> List[Child]:
    """Return of both splits images, boxes by class and size, skipped and repaired lines."""
    if not data.data:
        return [_empty("No summary of the data was given.")]
    return [
        _overview(data.data),
        _columns(("Boxes by class", _boxes_by_class(data)), ("Box sizes", _sizes(data.data))),
        *[part for one in data.data for part in _label_issues(one)],
    ]


def _overview(subsets: Sequence[SubsetSummary]) -> Html:
    head = (
        "Split",
        "Images",
        "Without objects",
        "Boxes",
        "Boxes per image",
        "Lines skipped",
        "Lines repaired",
        "Image sizes",
    )
    return table(head, [_overview_row(one) for one in subsets], numeric=range(1, 7))


def _overview_row(one: SubsetSummary) -> List[Child]:
    boxes = sum(one.boxes_per_class)
    mean = boxes / one.images if one.images else float("nan")
    issues = [number(sum(reason.count for reason in reasons)) for reasons in (one.skipped, one.repaired)]
    counts = [number(value) for value in (one.images, one.background_images, boxes)]
    return [one.name, *counts, number(mean, 1), *issues, _image_sizes(one)]


def _image_sizes(one: SubsetSummary) -> str:
    """Return the only size, or the smallest, largest and most frequent size."""
    if not one.image_sizes:
        return "n/a"
    sizes = sorted(one.image_sizes, key=lambda size_wh: size_wh[0] * size_wh[1])
    low, high = (f"{size[0]} x {size[1]}" for size in (sizes[0], sizes[-1]))
    mode = max(one.image_sizes, key=lambda size: one.image_sizes[size])
    return low if len(sizes) == 1 else f"{low} to {high}, most often {mode[0]} x {mode[1]}"


def _boxes_by_class(data: ReportData) -> Html:
    """Return the number of boxes of each class, with bars of its share of each split."""
    sums = [max(sum(one.boxes_per_class), 1) for one in data.data]
    fractions = [
        [_count(one.boxes_per_class, i) / total for i in range(len(data.class_names))]
        for one, total in zip(data.data, sums)
    ]
    longest = max((fraction for row in fractions for fraction in row), default=0) or 1
    rows: List[List[Child]] = []
    for index, name in enumerate(data.class_names):
        bars = [
            element(
                "i",
                class_=f"s{split}",
                style=f"width:{row[index] / longest:.1%}",
                title=f"{one.name}: {row[index]:.1%}",
            )
            for split, (one, row) in enumerate(zip(data.data, fractions))
        ]
        counts = [number(_count(one.boxes_per_class, index)) for one in data.data]
        rows.append([name, element("div", *bars, class_="bars"), *counts])
    keys = [element("span", element("i", class_=f"key s{split}"), one.name) for split, one in enumerate(data.data)]
    counts_of = table(("Class", "Share of the split", *[one.name for one in data.data]), rows, numeric=(2, 3))
    return join(counts_of, element("div", *keys, class_="legend"))


def _count(counts: Tuple[int, ...], index: int) -> int:
    return counts[index] if index < len(counts) else 0


def _sizes(subsets: Sequence[SubsetSummary]) -> Html:
    axes = Axes("Size of the box relative to the image", "% of the split's boxes")
    none = (0,) * (len(RELATIVE_SIZE_EDGES) - 1)
    return histogram([(one.name, one.relative_sizes or none) for one in subsets], RELATIVE_SIZE_EDGES, axes)


def _label_issues(one: SubsetSummary) -> List[Child]:
    parts: List[Child] = []
    for action, reasons in (("skipped", one.skipped), ("repaired", one.repaired)):
        if reasons:
            parts += [element("h3", f"Lines {action}, {one.name}"), _reasons(reasons)]
    return parts


def _reasons(reasons: Sequence[Reason]) -> Html:
    rows: List[List[Child]] = []
    for reason in reasons:
        more = reason.count - len(reason.locations)
        locations = join(*[element("div", element("code", location)) for location in reason.locations])
        rows.append(
            [
                reason.text,
                number(reason.count),
                join(locations, element("div", f"and {more:,} more") if more > 0 else None),
            ]
        )
    return table(("Reason", "Lines", "First places"), rows, numeric=(1,))


# anchor, name in the navigation, heading, function that returns the children
_SECTIONS: Sequence[Tuple[str, str, str, Callable[[ReportData], List[Child]]]] = (
    ("scores", "Scores", "Scores", _scores),
    ("training", "Training", "Training", _training),
    ("precision", "By class", "Precision and recall by class", _precision),
    ("pictures", "Images", "Validation images", _images),
    ("worst", "Mistakes", "Missed objects and false positives", _worst),
    ("data", "Data", "Data", _data),
    ("settings", "Settings", "Settings and versions", _settings),
)
_RUN = "ssd_train:run"
_HEAD = 4096  # bytes of a report that hold its identity and title


def write_report(path: Path, data: ReportData) -> None:
    """Write the report to `path` atomically."""
    write_text_atomic(path, render(data))


def check_report(path: Path, run_id: str) -> None:
    """Raise a ConfigError if there is a file at `path` that is not the report of this run."""
    if not path.exists():
        return
    with translate_io_errors(path, 0):
        start = path.read_bytes()[:_HEAD].decode("utf-8", "replace")
    if str(element("meta", name=_RUN, content=run_id)) not in start:
        title = re.search("<title>(.*?)</title>", start)
        content = f"the report {title.group(1)!r} of another run" if title else "another file"
        raise ConfigError(
            f"{path}: found {content}, expected none: use another --output_dir, or --overwrite to replace it"
        )


def render(data: ReportData) -> str:
    """Return the report as HTML; each section says so if its data is missing."""
    sections = [section(anchor, heading, *children(data)) for anchor, _, heading, children in _SECTIONS]
    identity = element("meta", name=_RUN, content=data.run_id)
    return document(data.title, identity, _header(data), *sections)


def _header(data: ReportData) -> Html:
    links = [element("a", name, href=f"#{anchor}") for anchor, name, _, _ in _SECTIONS]
    notes = element("ul", *[element("li", note) for note in data.notes], class_="notes") if data.notes else None
    command = element("pre", element("code", data.command), class_="command") if data.command else None
    return element(
        "header",
        element("h1", data.title),
        element("p", verdict(data), class_="verdict"),
        notes,
        element("div", _facts(data), class_="soft"),
        command,
        _next_steps(data),
        element("nav", *links),
    )


def _facts(data: ReportData) -> str:
    """Return network, classes, time and version in a line."""
    network, side = data.settings.get("base_network"), data.settings.get("image_shape")
    classes = f"{len(data.class_names)} class{'' if len(data.class_names) == 1 else 'es'}"
    images = next((f"{number(one.images)} training images" for one in data.data if one.name == "train"), "")
    facts = (
        f"{network} at {side} px" if network and side else "",
        classes,
        images,
        data.started,
        "" if data.seconds is None else f"trained for {duration_text(data.seconds)}",
        f"ssd_train {__version__}",
    )
    return " · ".join(fact for fact in facts if fact)


def _next_steps(data: ReportData) -> Html:
    steps = [element("li", _with_code(step)) for step in next_steps(data)]
    advice = element("ol", *steps) if steps else element("p", "No rule found a weakness of the run or of its data.")
    return element("div", element("h2", "Next steps"), advice, class_="steps")


def _with_code(text: str) -> Html:
    """Return text with its parts in backquotes as code."""
    return join(*[element("code", part) if index % 2 else part for index, part in enumerate(text.split("`"))])

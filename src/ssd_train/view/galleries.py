"""Report sections with images and data statistics: validation images, worst mistakes, training and validation data."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np

from ssd_train.data.records import ClassNames
from ssd_train.view.charts import Axes, histogram
from ssd_train.view.draw import class_label
from ssd_train.view.markup import Child, Html, element, inline_image, join, number
from ssd_train.view.palette import CLASS_COLOURS
from ssd_train.view.report_data import RELATIVE_SIZE_EDGES, Reason, ReportData, Sample, SubsetSummary
from ssd_train.view.scenes import Matching, draw_scene, match
from ssd_train.view.sections import section, table
from ssd_train.view.worst import Case, worst_cases

PICTURE_WH = (480, 480)
PICTURES_SHOWN = 12
CASES_SHOWN = 6


def pictures_section(data: ReportData) -> Html:
    """Return the section of validation images with labels and detections."""
    if not data.samples:
        return section("pictures", "Validation pictures", _no_pictures())
    selected = _select_samples(data.samples, data.threshold)
    lead = (
        f"{len(selected)} of {len(data.samples):,} pictures. Detections with a score of at least "
        f"{number(data.threshold, 2)} are solid, labels dashed; missed objects are named."
    )
    figures = [_sample_figure(sample, data) for sample in selected]
    return section(
        "pictures",
        "Validation pictures",
        element("p", lead, class_="lead"),
        _legend(data.class_names),
        element("div", *figures, class_="gallery"),
    )


def _no_pictures() -> Html:
    return element("p", "There are no validation pictures.", class_="empty")


def _select_samples(samples: Sequence[Sample], threshold: float) -> List[Sample]:
    """Return samples at even intervals of those with an object or a detection, or of all if there are none."""
    candidates = [s for s in samples if len(s.truth.boxes) or len(s.detections.above(threshold))] or list(samples)
    indices = np.unique(np.linspace(0, len(candidates) - 1, PICTURES_SHOWN).astype(int))
    return [candidates[index] for index in indices]


def _legend(class_names: ClassNames) -> Html:
    """Return the colours of the classes, and the names of those that images show only by number."""
    keys = [element("span", element("i", class_="key true"), "labelled by people")]
    for index, name in enumerate(class_names):
        by_number = class_label(class_names, index) == f"#{index}"
        # with more classes colours repeat, and only the names in the images identify a class
        if by_number or len(class_names) <= len(CLASS_COLOURS):
            key = element("i", class_=f"key c{index % len(CLASS_COLOURS)}")
            keys.append(element("span", key, f"#{index} {name}" if by_number else name))
    return element("div", *keys, class_="legend")


def _sample_figure(sample: Sample, data: ReportData) -> Html:
    matching = match(sample, data.threshold)
    return _figure(draw_scene(sample, matching, data.class_names, PICTURE_WH), sample.name, _summary(matching))


def _summary(matching: Matching) -> str:
    """Return e.g. "3 of 4 found, 1 false positive"."""
    found, objects, false = int(matching.found.sum()), len(matching.found), int((~matching.correct).sum())
    recall = f"{found} of {objects} found" if objects else "no objects"
    return f"{recall}, {false or 'no'} false positive{'' if false == 1 else 's'}"


def _figure(image: np.ndarray, name: str, caption: str) -> Html:
    basename = name.rsplit("/", 1)[-1]
    text = element("figcaption", element("b", basename, title=name), caption)
    return element("figure", inline_image(image, f"{basename}: {caption}"), text)


def worst_section(data: ReportData) -> Html:
    """Return the section of images with the most missed objects and the highest-scoring false positives."""
    if not data.samples:
        return section("worst", "Missed objects and false positives", _no_pictures())
    worst = worst_cases(data.samples, data.class_names, data.threshold, CASES_SHOWN)
    lead = "Look here first: wrong or missing labels show up here as well as weaknesses of the model."
    return section(
        "worst",
        "Missed objects and false positives",
        element("p", lead, class_="lead"),
        *_cases("Pictures with the most missed objects", worst.misses, "No object was missed."),
        *_cases("False positives with the highest scores", worst.false_positives, "There was no false positive."),
    )


def _cases(title: str, cases: Sequence[Case], empty_text: str) -> List[Child]:
    figures = [_figure(case.image, case.name, case.caption) for case in cases]
    gallery = element("div", *figures, class_="gallery square")
    return [element("h3", title), gallery if figures else element("p", empty_text, class_="empty")]


def data_section(data: ReportData) -> Html:
    """Return the section of both splits: images, boxes by class and size, skipped and repaired lines."""
    if not data.data:
        return section("data", "Data", element("p", "No summary of the data was given.", class_="empty"))
    charts = [element("div", element("h3", f"Box sizes, {one.name}"), _sizes(one)) for one in data.data]
    return section(
        "data",
        "Data",
        _overview(data.data),
        element(
            "div",
            element("div", element("h3", "Boxes by class"), _boxes_by_class(data), class_="tall"),
            *charts,
            class_="columns",
        ),
        *[part for one in data.data for part in _label_issues(one)],
    )


def _overview(subsets: Sequence[SubsetSummary]) -> Html:
    head = (
        "Split",
        "Pictures",
        "Without objects",
        "Boxes",
        "Boxes per picture",
        "Lines skipped",
        "Lines repaired",
        "Picture sizes",
    )
    return table(head, [_overview_row(one) for one in subsets], numeric=range(1, 7))


def _overview_row(one: SubsetSummary) -> List[Child]:
    boxes = sum(one.boxes_per_class)
    mean = boxes / one.images if one.images else float("nan")
    issues = [number(sum(reason.count for reason in reasons)) for reasons in (one.skipped, one.mended)]
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
    rows: List[List[Child]] = []
    for index, name in enumerate(data.class_names):
        rows.append([name, *[number(_count(one.boxes_per_class, index)) for one in data.data]])
    return table(("Class", *[one.name for one in data.data]), rows, numeric=range(1, len(data.data) + 1))


def _count(counts: Tuple[int, ...], index: int) -> int:
    return counts[index] if index < len(counts) else 0


def _sizes(one: SubsetSummary) -> Html:
    axes = Axes("Size of the box relative to the picture", "Boxes")
    counts = one.relative_sizes or (0,) * (len(RELATIVE_SIZE_EDGES) - 1)
    return histogram(counts, RELATIVE_SIZE_EDGES, axes)


def _label_issues(one: SubsetSummary) -> List[Child]:
    parts: List[Child] = []
    for action, reasons in (("skipped", one.skipped), ("repaired", one.mended)):
        if reasons:
            parts += [element("h3", f"Lines {action}, {one.name}"), _reasons(reasons)]
    return parts


def _reasons(reasons: Sequence[Reason]) -> Html:
    rows: List[List[Child]] = []
    for reason in reasons:
        more = reason.count - len(reason.places)
        places = join(*[element("div", element("code", place)) for place in reason.places])
        rows.append(
            [
                reason.text,
                number(reason.count),
                join(places, element("div", f"and {more:,} more") if more > 0 else None),
            ]
        )
    return table(("Reason", "Lines", "First places"), rows, numeric=(1,))

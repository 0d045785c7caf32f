"""The report's sections of pictures and of data: validation pictures, worst mistakes, what was trained on."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np

from ssd_train.data.records import ClassNames
from ssd_train.view.charts import Axes, histogram
from ssd_train.view.draw import class_label
from ssd_train.view.markup import Child, Html, element, join, number, picture
from ssd_train.view.palette import CLASS_COLOURS
from ssd_train.view.report_data import RELATIVE_SIZE_EDGES, Reason, ReportData, Sample, SubsetSummary
from ssd_train.view.scenes import Matching, draw_scene, match
from ssd_train.view.sections import section, table
from ssd_train.view.worst import Case, worst_cases

PICTURE_WH = (480, 480)
PICTURES_SHOWN = 12
CASES_SHOWN = 6


def pictures_section(data: ReportData) -> Html:
    """A sheet of validation pictures, evenly picked, with truth and detections."""
    if not data.samples:
        return section("pictures", "Validation pictures", _no_pictures())
    picked = _picked(data.samples, data.threshold)
    lead = (
        f"{len(picked)} of {len(data.samples):,} pictures. Detections from a score of {number(data.threshold, 2)} on "
        "are solid, labels dashed; missed objects carry their name."
    )
    figures = [_sample_figure(sample, data) for sample in picked]
    return section(
        "pictures",
        "Validation pictures",
        element("p", lead, class_="lead"),
        _colours(data.class_names),
        element("div", *figures, class_="gallery"),
    )


def _no_pictures() -> Html:
    return element("p", "There are no validation pictures.", class_="empty")


def _picked(samples: Sequence[Sample], threshold: float) -> List[Sample]:
    """Evenly over those with something to see, an object or a detection; over all where none has."""
    telling = [s for s in samples if len(s.truth.boxes) or len(s.detections.above(threshold))] or list(samples)
    places = np.unique(np.linspace(0, len(telling) - 1, PICTURES_SHOWN).astype(int))
    return [telling[index] for index in places]


def _colours(class_names: ClassNames) -> Html:
    """What the colours mean, and the names of classes that pictures can only show by number."""
    keys = [element("span", element("i", class_="key true"), "labelled by people")]
    for index, name in enumerate(class_names):
        by_number = class_label(class_names, index) == f"#{index}"
        # where colours repeat, they tell nothing that the names in the pictures do not
        if by_number or len(class_names) <= len(CLASS_COLOURS):
            key = element("i", class_=f"key c{index % len(CLASS_COLOURS)}")
            keys.append(element("span", key, f"#{index} {name}" if by_number else name))
    return element("div", *keys, class_="legend")


def _sample_figure(sample: Sample, data: ReportData) -> Html:
    matching = match(sample, data.threshold)
    told = _tally(matching)
    image = picture(draw_scene(sample, matching, data.class_names, PICTURE_WH), f"{_short(sample.name)}: {told}")
    return _figure(image, sample.name, told)


def _tally(matching: Matching) -> str:
    """ "3 of 4 found, 1 false alarm"."""
    found, objects, alarms = int(matching.found.sum()), len(matching.found), int((~matching.correct).sum())
    first = f"{found} of {objects} found" if objects else "no objects"
    return f"{first}, {alarms or 'no'} false alarm{'' if alarms == 1 else 's'}"


def _figure(image: Html, name: str, told: str) -> Html:
    return element("figure", image, element("figcaption", element("b", _short(name), title=name), told))


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def worst_section(data: ReportData) -> Html:
    """The pictures with most missed objects, and the surest false alarms."""
    if not data.samples:
        return section("worst", "Worst misses and false alarms", _no_pictures())
    worst = worst_cases(data.samples, data.class_names, data.threshold, CASES_SHOWN)
    lead = "Look here first: wrong or missing labels show up here as well as weaknesses of the model."
    return section(
        "worst",
        "Worst misses and false alarms",
        element("p", lead, class_="lead"),
        *_cases("Most objects missed", worst.misses, "No object was missed."),
        *_cases("Surest false alarms", worst.false_alarms, "There was no false alarm."),
    )


def _cases(title: str, cases: Sequence[Case], none: str) -> List[Child]:
    figures = [
        _figure(picture(case.image, f"{_short(case.name)}: {case.caption}"), case.name, case.caption) for case in cases
    ]
    shown = element("div", *figures, class_="gallery square") if figures else element("p", none, class_="empty")
    return [element("h3", title), shown]


def data_section(data: ReportData) -> Html:
    """What was trained and validated on: pictures, boxes by class and size, lines left out or mended."""
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
        *[part for one in data.data for part in _left_out(one)],
    )


def _overview(subsets: Sequence[SubsetSummary]) -> Html:
    head = (
        "Set",
        "Pictures",
        "Without objects",
        "Boxes",
        "Boxes a picture",
        "Lines left out",
        "Lines mended",
        "Picture sizes",
    )
    return table(head, [_overview_row(one) for one in subsets], numeric=range(1, 7))


def _overview_row(one: SubsetSummary) -> List[Child]:
    boxes = sum(one.boxes_per_class)
    mean = boxes / one.images if one.images else float("nan")
    left_out, mended = (sum(reason.count for reason in reasons) for reasons in (one.skipped, one.mended))
    counts = [number(value) for value in (one.images, one.background_images, boxes)]
    return [one.name, *counts, number(mean, 1), number(left_out), number(mended), _image_sizes(one)]


def _image_sizes(one: SubsetSummary) -> str:
    """The one size, or the range of sizes with the most frequent."""
    if not one.image_sizes:
        return "n/a"
    sizes = sorted(one.image_sizes, key=lambda size_wh: size_wh[0] * size_wh[1])
    low, high = (f"{size[0]} x {size[1]}" for size in (sizes[0], sizes[-1]))
    often = max(one.image_sizes, key=lambda size: one.image_sizes[size])
    return low if len(sizes) == 1 else f"{low} to {high}, most often {often[0]} x {often[1]}"


def _boxes_by_class(data: ReportData) -> Html:
    rows: List[List[Child]] = []
    for index, name in enumerate(data.class_names):
        rows.append([name, *[number(_at(one.boxes_per_class, index)) for one in data.data]])
    return table(("Class", *[one.name for one in data.data]), rows, numeric=range(1, len(data.data) + 1))


def _at(counts: Tuple[int, ...], index: int) -> int:
    return counts[index] if index < len(counts) else 0


def _sizes(one: SubsetSummary) -> Html:
    axes = Axes("Side of the box as a share of the picture's", "Boxes")
    counts = one.relative_sizes or (0,) * (len(RELATIVE_SIZE_EDGES) - 1)
    return histogram(counts, RELATIVE_SIZE_EDGES, axes)


def _left_out(one: SubsetSummary) -> List[Child]:
    parts: List[Child] = []
    for what, reasons in (("left out", one.skipped), ("mended", one.mended)):
        if reasons:
            parts += [element("h3", f"Lines {what}, {one.name}"), _reasons(reasons)]
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

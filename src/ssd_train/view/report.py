"""The report: one HTML file that holds its pictures and charts and asks nothing of the network."""

from __future__ import annotations

from pathlib import Path

from ssd_train import __version__
from ssd_train.storage import write_text_atomic
from ssd_train.view.galleries import data_section, pictures_section, worst_section
from ssd_train.view.markup import Html, element, join
from ssd_train.view.report_data import ReportData
from ssd_train.view.sections import precision_section, scores_section, settings_section, training_section
from ssd_train.view.style import STYLE

_CONTENTS = (
    ("scores", "Scores"),
    ("training", "Training"),
    ("precision", "By class"),
    ("pictures", "Pictures"),
    ("worst", "Mistakes"),
    ("data", "Data"),
    ("settings", "Settings"),
)


def write_report(path: Path, data: ReportData) -> None:
    """Write the report to `path` (``report.html``), whole or not at all."""
    write_text_atomic(path, render(data))


def render(data: ReportData) -> str:
    """The page as text. Whatever is missing in `data` is said to be missing."""
    sections = (
        scores_section(data),
        training_section(data),
        precision_section(data),
        pictures_section(data),
        worst_section(data),
        data_section(data),
        settings_section(data),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # nothing is fetched, whatever a name in it may say
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        element("title", data.title),
        element("style", Html(STYLE)),
    )
    return "<!DOCTYPE html>\n" + element("html", head, element("body", _header(data), *sections), lang="en") + "\n"


def _header(data: ReportData) -> Html:
    classes = f"{len(data.class_names)} class{'' if len(data.class_names) == 1 else 'es'}"
    made = " · ".join(part for part in (data.started, classes, f"ssd_train {__version__}") if part)
    links = [element("a", text, href=f"#{anchor}") for anchor, text in _CONTENTS]
    notes = element("ul", *[element("li", note) for note in data.notes], class_="notes") if data.notes else None
    return join(
        element("header", element("h1", data.title), element("div", made, class_="soft"), element("nav", *links)), notes
    )

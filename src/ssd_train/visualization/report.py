"""The training report: one self-contained HTML file."""

from __future__ import annotations

import re
from pathlib import Path

from ssd_train import __version__
from ssd_train.errors import ConfigError
from ssd_train.storage.atomic import translate_io_errors, write_text_atomic
from ssd_train.visualization.html import Html, document, element, join, number
from ssd_train.visualization.report_data import ReportData
from ssd_train.visualization.report_sections import (
    data_section,
    images_section,
    precision_section,
    scores_section,
    settings_section,
    training_section,
    worst_section,
)
from ssd_train.visualization.report_summary import duration_text, next_steps, verdict

_CONTENTS = (
    ("scores", "Scores"),
    ("training", "Training"),
    ("precision", "By class"),
    ("pictures", "Images"),
    ("worst", "Mistakes"),
    ("data", "Data"),
    ("settings", "Settings"),
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
    sections = (
        scores_section(data),
        training_section(data),
        precision_section(data),
        images_section(data),
        worst_section(data),
        data_section(data),
        settings_section(data),
    )
    identity = element("meta", name=_RUN, content=data.run_id)
    return document(data.title, identity, _header(data), *sections)


def _header(data: ReportData) -> Html:
    links = [element("a", text, href=f"#{anchor}") for anchor, text in _CONTENTS]
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

"""The command prepare; each of its steps is a module in steps/."""

from __future__ import annotations

import importlib
from typing import NamedTuple, Sequence

from ssd_train.errors import ConfigError


class Step(NamedTuple):
    """Help of a step, its module in steps/ (default: its name) and its function."""

    summary: str
    module: str = ""
    function: str = "run"


STEPS = {
    "manifest": Step("write the input manifest of a labeling job for images"),
    "frames": Step("extract every n-th frame of videos"),
    "join": Step("merge manifests of several labeling jobs"),
    "keep": Step("keep the lines and boxes that match conditions"),
    "drop": Step("drop the lines that match conditions", "keep", "run_drop"),
    "relabel": Step("change classes: take names from keys, rename, merge, drop"),
    "split": Step("split a manifest into train, validation and test"),
    "grayscale": Step("convert images to grayscale"),
    "augment": Step("write mirrored and rotated copies of labelled images"),
    "convert": Step("convert labels to another format"),
    "sheet": Step("draw labelled images on a contact sheet"),
}


def run(arguments: Sequence[str]) -> int:
    """Run a step; its name is the first argument."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("--help", "-h", "help"):
        print(_overview())
        return 0
    if name not in STEPS:
        raise ConfigError(f"prepare: found {name!r}, expected one of {', '.join(STEPS)}")
    step = STEPS[name]
    module = importlib.import_module(f"ssd_train.cli.steps.{step.module or name}")
    return getattr(module, step.function)(rest)


def _overview() -> str:
    width = max(map(len, STEPS))
    lines = [f"  {name:<{width}}  {step.summary}" for name, step in STEPS.items()]
    head = "usage: python -m ssd_train prepare STEP [flags]"
    return "\n".join([head, "", *lines, "", "python -m ssd_train prepare STEP --help lists the flags of a step"])

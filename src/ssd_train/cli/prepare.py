"""The command prepare."""

from __future__ import annotations

from typing import Callable, NamedTuple, Sequence

from ssd_train.cli.steps import augment, convert, frames, grayscale, join, keep, manifest, relabel, sheet, split
from ssd_train.errors import ConfigError


class Step(NamedTuple):
    """Help and function of a step."""

    summary: str
    run: Callable[[Sequence[str]], int]


STEPS = {
    "manifest": Step("write the input manifest of a labeling job for images", manifest.run),
    "frames": Step("extract every n-th frame of videos", frames.run),
    "join": Step("merge manifests of several labeling jobs", join.run),
    "keep": Step("keep the lines and boxes that match conditions", keep.run),
    "drop": Step("drop the lines that match conditions", keep.run_drop),
    "relabel": Step("change classes: take names from keys, rename, merge, drop", relabel.run),
    "split": Step("split a manifest into train, validation and test", split.run),
    "grayscale": Step("convert images to grayscale", grayscale.run),
    "augment": Step("write mirrored and rotated copies of labelled images", augment.run),
    "convert": Step("convert labels to another format", convert.run),
    "sheet": Step("draw labelled images on a contact sheet", sheet.run),
}


def run(arguments: Sequence[str]) -> int:
    """Run a step; its name is the first argument."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("--help", "-h", "help"):
        print(_overview())
        return 0
    if name not in STEPS:
        raise ConfigError(f"prepare: found {name!r}, expected one of {', '.join(STEPS)}")
    return STEPS[name].run(rest)


def _overview() -> str:
    width = max(map(len, STEPS))
    lines = [f"  {name:<{width}}  {step.summary}" for name, step in STEPS.items()]
    head = "usage: python -m ssd_train prepare STEP [flags]"
    return "\n".join([head, "", *lines, "", "python -m ssd_train prepare STEP --help lists the flags of a step"])

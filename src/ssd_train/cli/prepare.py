"""prepare: manifests and pictures made ready for training, one step at a time; each step is a file in steps/."""

from __future__ import annotations

import importlib
from typing import NamedTuple, Sequence

from ssd_train.errors import ConfigError


class Step(NamedTuple):
    """A step: what it does, and where its function is, if not `run` of the module in steps/ that has its name."""

    summary: str
    module: str = ""
    function: str = "run"


STEPS = {
    "manifest": Step("images -> the input manifest of a labelling job"),
    "frames": Step("videos -> pictures, every n-th frame"),
    "join": Step("several jobs' manifests -> one"),
    "keep": Step("the lines, and boxes, that fulfil conditions"),
    "drop": Step("all other lines than those that fulfil conditions", "keep", "run_drop"),
    "relabel": Step("other classes: named by keys of each line, renamed, merged, dropped"),
    "split": Step("one manifest -> train, validation, test"),
    "grayscale": Step("pictures -> the same without colours"),
    "augment": Step("labelled pictures -> five of each: as it is, mirrored, turned"),
    "convert": Step("labels of one format -> another"),
    "sheet": Step("labelled pictures -> one picture to look at"),
}


def run(arguments: Sequence[str]) -> int:
    """Run the step that the first argument names."""
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

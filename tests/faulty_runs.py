"""The command on changed data, and what it must leave and say when it refuses."""

from __future__ import annotations

import json
import re

import numpy as np
from runs import flags

from ssd_train import mxnet_compat
from ssd_train.cli.main import main


def command(data, folder, **settings):
    """The arguments of the smallest run, of one epoch unless told otherwise."""
    return ["train", *flags(data, folder, **{"epochs": 1, **settings})]


def lines_of(manifest):
    """A manifest's lines."""
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def written(path, lines):
    """The manifest of `lines`."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def annotations(line):
    """A line's boxes."""
    return line["shapes"]["annotations"]


def refused(capsys, arguments, pattern, code=2):
    """The command ends with `code` and one line of error that matches; nothing else."""
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert re.match(f"error: {pattern}", error), error
    assert error.count("\n") == 1 and "Traceback" not in error


def assert_nothing_dead(folder):
    """No array below `folder` has a number that is not finite, and no file of JSON says so; the files of arrays."""
    mx = mxnet_compat.mxnet()
    files = list(folder.rglob("*.params"))
    for file in files:
        for name, array in mx.nd.load(str(file)).items():
            assert np.isfinite(array.asnumpy()).all(), (file, name)
    for file in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        assert not re.search(r"\bNaN\b|\bInfinity\b", file.read_text()), file
    return files


def with_box(line, **parts):
    """The line with one more box, of which `parts` are given."""
    annotations(line).append({"class_id": 0, "left": 10, "top": 10, "width": 30, "height": 30, **parts})
    return line

"""Training runs as processes of their own, to be killed, starved and gone on with; and what they leave, compared."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, List, Optional, Sequence

import numpy as np
import pytest
from builders import SMALL, DrawnSet, flags_of

from ssd_train.storage.atomic import finished_dirs, verify_checksums

SOURCE = Path(__file__).resolve().parents[1] / "src"
# a checkpoint after each step and each epoch, so that most moments are moments of saving
SAVING = {"epochs": 2, "mini_batch_size": 4, "checkpoint_minutes": 0.0001, "optimizer": "sgd"}
LONGEST = 120  # seconds that the smallest run may take on a busy machine; a run that hangs fails its test


def flags(data: "Sequence[DrawnSet]", folder: Path, **settings: Any) -> List[str]:
    """The flags of the smallest run on (training, validation) that keeps checkpoints, all of it below `folder`; without
    those whose setting is None."""
    training, validation = data
    places = {
        "train": training.images,
        "labels": training.manifest,
        "validation": validation.images,
        "validation_labels": validation.manifest,
        "model_dir": folder / "model",
        "output_dir": folder / "output",
        "checkpoint_dir": folder / "checkpoints",
    }
    return flags_of({**places, **SMALL, **settings})


def start(arguments: Sequence[str], before: Sequence[str] = (), **environ: str) -> "subprocess.Popen[str]":
    """`python -m ssd_train` as the leader of a session, whose sums are in one order; `before` are words in front of
    the command, such as those of strace."""
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*before, sys.executable, "-m", "ssd_train", *arguments],
        env={**os.environ, **own, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        start_new_session=True,
    )


def ended(process: "subprocess.Popen[str]", seconds: float = LONGEST) -> str:
    """What a run printed, which comes to its end within `seconds`, and leaves no process behind."""
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"no end within {seconds} s:\n{process.communicate()[0]}")
    assert members(process.pid) == [], "processes are left"
    return printed


def finish(arguments: Sequence[str], **environ: str) -> str:
    """Let a run come to its end; what it printed."""
    process = start(arguments, **environ)
    printed = ended(process)
    assert process.returncode == 0, printed
    return printed


def kill_after(arguments: Sequence[str], pattern: str, delay: float = 0.0) -> str:
    """Start a run and kill it `delay` seconds after a line that matches; what it printed until then."""
    process = start(arguments)
    printed = told(process, pattern)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return printed


def told(process: "subprocess.Popen[str]", pattern: str) -> str:
    """What a run prints up to a line that matches."""
    printed = []
    assert process.stdout is not None
    for line in process.stdout:
        printed.append(line)
        if re.search(pattern, line):
            return "".join(printed)
    pytest.fail("".join(printed))


def members(session: int) -> List[int]:
    """Processes of a session that are still there, but for those that have ended and were not asked for it."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def last_weights(checkpoints: Path) -> Path:
    """Return the file of the weights after the last step, in the newest checkpoint."""
    return finished_dirs(checkpoints / "state")[0] / "last.params"


def outcome(folder: Path) -> Any:
    """What a run leaves, without what tells of the clock: arrays of the last and the best weights, scores, history."""
    from ssd_train import mxnet_compat

    mx = mxnet_compat.mxnet()
    config = json.loads((folder / "model" / "config.json").read_text())
    rows = [json.loads(line) for line in (folder / "model" / "history.jsonl").read_text().splitlines()]
    clock = ("images_per_second", "seconds", "data_seconds")
    arrays = {}
    best = folder / "model" / config["weights"]["file"]
    for kind, file in (("last", last_weights(folder / "checkpoints")), ("best", best)):
        arrays.update({f"{kind} {name}": array.asnumpy() for name, array in mx.nd.load(str(file)).items()})
    history = [{name: value for name, value in row.items() if name not in clock} for row in rows]
    return (
        arrays,
        {"epoch": config["epoch"], "scores": config["scores"], "sha256": config["weights"]["sha256"]},
        history,
    )


def assert_same(found: Any, expected: Any) -> None:
    """Two outcomes are equal bit for bit."""
    assert found[2] == expected[2], "history"
    assert found[0].keys() == expected[0].keys()
    assert [name for name, array in expected[0].items() if not np.array_equal(array, found[0][name])] == []
    assert found[1] == expected[1]


def assert_loads_as_what_it_is(folder: Path, class_names: Optional[Sequence[str]] = None) -> None:
    """After a kill at any moment: there is no model, or a whole one; and what looks like a finished state is one."""
    from ssd_train.artifacts.saved_model import SavedModel

    if (folder / "model" / "config.json").exists():
        model = SavedModel.load(folder / "model")
        assert class_names is None or list(model.class_names) == list(class_names)
        model.build()
    for state in finished_dirs(folder / "checkpoints" / "state"):
        verify_checksums(state)

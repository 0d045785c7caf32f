"""Machines that are taken away: killed thrice within an epoch, the run ends with the weights of an unbroken one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest
from helpers.jobs import failure_of, last_weights

pytestmark = pytest.mark.sagemaker

SETTINGS = {"epochs": 3, "checkpoint_minutes": 0.0001}  # after every step


def newest_state(base: Path) -> "Optional[Tuple[int, int]]":
    """Epochs and steps of the newest finished checkpoint."""
    folders = sorted(path.parent for path in base.glob("checkpoints/state-*/checksums.json"))
    for folder in reversed(folders):
        try:
            state = json.loads((folder / "state.json").read_text())
        except FileNotFoundError:  # it has just been replaced
            continue
        return state["epoch"], state["tally"]["steps"]
    return None


def wait_for(base: Path, process: Any, place: "Tuple[int, int]", seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while (newest_state(base) or (-1, -1)) < place:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, newest_state(base)
        time.sleep(0.01)


def next_machine(toolkit: Any, folder: Path, number: int, before: Path, shapes: Any) -> Path:
    """A machine with nothing but the checkpoints, as SageMaker brings them back."""
    base = toolkit.make_job(folder / f"machine-{number}", {"train": shapes.images.parent}, SETTINGS)
    shutil.rmtree(base / "checkpoints")
    shutil.copytree(before / "checkpoints", base / "checkpoints")
    return base


def history(base: Path) -> "List[Dict[str, Any]]":
    """The epochs' rows, without what depends on the clock."""
    lines = (base / "model" / "history.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if "seconds" not in k and "per_second" not in k} for line in lines
    ]


@pytest.fixture(scope="module")
def unbroken(container, shapes, tmp_path_factory):
    """A run that nothing disturbed."""
    base = tmp_path_factory.mktemp("unbroken") / "ml"
    finished = container.run(container.make_job(base, {"train": shapes.images.parent}, SETTINGS))
    assert finished.code == 0, finished.log
    return base


def assert_same(base: Path, unbroken: Path) -> None:
    last = [last_weights(at / "checkpoints").read_bytes() for at in (base, unbroken)]
    assert last[0] == last[1]
    weights = [json.loads((at / "model" / "config.json").read_text())["weights"] for at in (base, unbroken)]
    assert weights[0] == weights[1] and history(base) == history(unbroken)


def test_spot_stop_request_saves_and_logs(container, shapes, unbroken, tmp_path):
    """SIGTERM to the whole group; on SageMaker it may reach the toolkit alone, which tells nobody."""
    base = container.make_job(tmp_path / "machine-0", {"train": shapes.images.parent}, {**SETTINGS, "epochs": 3})
    process = container.start(base)
    wait_for(base, process, (1, 1))
    (program,) = children(process.pid)
    os.kill(program, signal.SIGTERM)
    log, _ = process.communicate(timeout=60)
    found = failure_of(base)
    assert process.returncode == 1 and found.startswith("stopped on request after epoch 1, step "), log
    assert "the model of epoch 1 is in" in found and (base / "model" / "config.json").exists()
    stopped = newest_state(base)
    again = next_machine(container, tmp_path, 1, base, shapes)
    finished = container.run(again)
    assert finished.code == 0 and stopped >= (1, 1)
    assert_same(again, unbroken)


def children(pid: int) -> List[int]:
    """Process ids of the programs that a toolkit has started."""
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if parent_of(path) == pid]


def parent_of(stat: Path) -> Optional[int]:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None

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
from opt_ml import failure_of
from runs import last_weights

pytestmark = pytest.mark.sagemaker

STEPS = 5  # of an epoch: 19 images, 4 a step
SETTINGS = {"epochs": 3, "checkpoint_minutes": 0.0001}  # after every step
KILLS = [(0, 2), (1, 1), (2, 3)]  # epochs made, and steps of the next


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


def test_killed_three_times_within_an_epoch(container, shapes, unbroken, tmp_path):
    base = container.make_job(tmp_path / "machine-0", {"train": shapes.images.parent}, SETTINGS)
    resumed = []
    for number, place in enumerate(KILLS, start=1):
        process = container.start(base)
        wait_for(base, process, place)
        os.killpg(process.pid, signal.SIGKILL)
        log, _ = process.communicate(timeout=30)
        resumed += [line for line in log.splitlines() if line.startswith("resuming after")]
        epoch, steps = newest_state(base)
        assert epoch == place[0] and place[1] <= steps < STEPS, "it died within the epoch that it was to die in"
        base = next_machine(container, tmp_path, number, base, shapes)
    finished = container.run(base)
    assert finished.code == 0, finished.log
    assert len(resumed) == 2 and "resuming after epoch 2, step 3 of the next" in finished.log
    assert_same(base, unbroken)


def test_asked_to_stop_it_saves_and_says_so(container, shapes, unbroken, tmp_path):
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


def test_a_copy_that_broke_off_costs_one_checkpoint(container, shapes, unbroken, tmp_path):
    """SageMaker copies checkpoints to S3 file by file: the newest may come back without some of its files."""
    base = container.make_job(tmp_path / "machine-0", {"train": shapes.images.parent}, SETTINGS)
    process = container.start(base)
    wait_for(base, process, (1, 2))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    again = next_machine(container, tmp_path, 1, base, shapes)
    newest = sorted(path.parent for path in again.glob("checkpoints/state-*/checksums.json"))
    (newest[-1] / "optimizer.params").unlink()
    (newest[-2] / "checksums.json").unlink()
    finished = container.run(again)
    assert finished.code == 0, finished.log
    assert "optimizer.params: is missing" in finished.log and "the checkpoint before it is used" in finished.log
    assert_same(again, unbroken)


def children(pid: int) -> List[int]:
    """Process ids of the programs that a toolkit has started."""
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if parent_of(path) == pid]


def parent_of(stat: Path) -> Optional[int]:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None

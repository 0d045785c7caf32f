"""kill -9 at random moments, and at chosen system calls: what is left loads as what it is or not at all, and the same
command goes on to the weights of the run that nobody killed.

SSD_TRAIN_KILLS sets the number of random kills (`make test-faults`: 20, `make fuzz`: 200).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections import Counter

import pytest
from helpers.jobs import SAVING, assert_loads_as_what_it_is, assert_same, ended, finish, flags, outcome, start

KILLS = int(os.environ.get("SSD_TRAIN_KILLS", "20"))
STRACE = shutil.which("strace")
CHANGES = ("fsync", "rename", "unlink", "mkdir", "rmdir", "write")  # system calls that change the disk

pytestmark = pytest.mark.integration
needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not installed: apt-get install strace")


def resumed(command, folder, unbroken):
    """After a fault: nothing is half, and the same command ends as if nothing had been."""
    assert_loads_as_what_it_is(folder, ["disc", "square", "triangle"])
    printed = finish(command)
    assert_same(outcome(folder), unbroken.outcome)
    shutil.rmtree(folder)  # some hundred MB
    return printed


def killed_at_random(command, folder, unbroken, number):
    process = start(command)
    time.sleep(random.Random(number).uniform(0.3, 1.0) * unbroken.seconds)
    process.send_signal(signal.SIGKILL)
    ended(process)
    resumed(command, folder, unbroken)


@pytest.mark.faults
@pytest.mark.parametrize("number", range(KILLS))
def test_resume_killed_at_random_moments_equals_the_unbroken_run(command, tmp_path, unbroken, number):
    killed_at_random(command, tmp_path, unbroken, number)


@pytest.fixture(scope="module")
def counted(data, tmp_path_factory):
    """The system calls of the run's main thread that change the disk, in order."""
    folder = tmp_path_factory.mktemp("counted")
    log = folder / "calls"
    before = [STRACE, "-f", "-qq", "-e", f"trace={','.join(CHANGES)}", "-o", str(log)]
    process = start(flags(data, folder, **SAVING), before)
    assert ended(process) and process.returncode == 0
    lines = [line.split(None, 1) for line in log.read_text(errors="replace").splitlines()]
    main = Counter(pid for pid, _ in lines).most_common(1)[0][0]
    shutil.rmtree(folder)
    return [call for pid, call in lines if pid == main]


def at_calls(calls, name, share):
    """The number of a call of this name, a share of all from the first of `calls` to the last."""
    return max(1, round(sum(call.startswith(f"{name}(") for call in calls) * share))


@needs_strace
@pytest.mark.faults
@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("call", CHANGES)
def test_resume_killed_at_a_system_call_equals_the_unbroken_run(command, tmp_path, unbroken, counted, call, share):
    if not any(one.startswith(f"{call}(") for one in counted):
        pytest.skip(f"the run never calls {call}")
    inject = f"inject={call}:signal=KILL:when={at_calls(counted, call, share)}"
    before = [STRACE, "-f", "-qq", "-e", f"trace={call}", "-e", inject, "-o", os.devnull]
    process = start(command, before)
    ended(process)
    assert process.returncode != 0, "it was not killed"
    resumed(command, tmp_path, unbroken)


@needs_strace
@pytest.mark.faults
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_resume_after_a_failing_system_call_uses_the_previous_state(command, tmp_path, unbroken, counted, call, error):
    """The run ends with one line that names the place; the checkpoint before is there and is gone on from."""
    # after it the run makes deployment files, without which it only warns
    trained = counted[: next(index for index, one in enumerate(counted) if "/model/code" in one)]
    inject = f"inject={call}:error={error}:when={at_calls(trained, call, 0.8)}+"
    before = [STRACE, "-f", "-qq", "-e", f"trace={call}", "-e", inject, "-o", os.devnull]
    process = start(command, before)
    printed = ended(process)
    assert process.returncode == 1, printed
    words = "cannot be written: Input/output error" if error == "EIO" else "the disk is full: at least"
    assert re.search(rf"^error: {re.escape(str(tmp_path))}\S*: {words}", printed, re.MULTILINE), printed
    assert "Traceback" not in printed
    assert "resuming after epoch" in resumed(command, tmp_path, unbroken)

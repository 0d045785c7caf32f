"""SIGTERM and SIGINT at any moment: an end within seconds, nothing lost, no process left; a second SIGINT ends it."""

from __future__ import annotations

import random
import re
import signal
import socket
import time

import pytest
from helpers.jobs import (
    SAVING,
    assert_loads_as_what_it_is,
    assert_same,
    ended,
    flags,
    members,
    outcome,
    run_here,
    start,
    told,
)

pytestmark = pytest.mark.integration

SOON = 10  # seconds within which a run ends when it is asked to
# a run that is told to stop, and one that had not begun to listen: the system's own end of a program
CODES = {signal.SIGTERM: (143, -signal.SIGTERM), signal.SIGINT: (130, -signal.SIGINT)}


def asked_to_stop(command, folder, unbroken, number, delay):
    process = start(command)
    time.sleep(delay)
    process.send_signal(number)
    began = time.monotonic()
    printed = ended(process, 3 * SOON)
    assert time.monotonic() - began < SOON, printed
    assert process.returncode in (0, *CODES[number]), printed  # 0: it had come to its end
    if process.returncode == 128 + number and "epoch" in printed:
        assert re.search(r"^error: stopped on request (before the first step|after epoch)", printed, re.MULTILINE), (
            printed
        )
        assert "Traceback" not in printed
    assert_loads_as_what_it_is(folder)
    run_here(command)
    assert_same(outcome(folder), unbroken.outcome)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.faults)],
    ids=lambda number: number.name,
)
def test_train_signal_in_the_middle_ends_and_resumes(command, tmp_path, unbroken, number):
    asked_to_stop(command, tmp_path, unbroken, number, 0.7 * unbroken.seconds)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("number", list(CODES), ids=lambda number: number.name)
def test_train_signal_at_a_random_moment_ends_and_resumes(command, tmp_path, unbroken, number, seed):
    delay = random.Random(seed).uniform(0.05, 1.0) * unbroken.seconds
    asked_to_stop(command, tmp_path, unbroken, number, delay)


@pytest.mark.parametrize("between", [0.0, pytest.param(0.05, marks=pytest.mark.faults)])
def test_train_second_ctrl_c_ends_at_once(data, tmp_path, between):
    """In the midst of a step or of a save; what stood on the disk before is whole."""
    process = start(flags(data, tmp_path, **{**SAVING, "epochs": 50}))
    told(process, "^epoch 1/50")
    process.send_signal(signal.SIGINT)
    time.sleep(between)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    printed = ended(process, 3 * SOON)
    assert time.monotonic() - began < SOON / 2
    assert process.returncode == 130 and re.search("^(interrupted|error: stopped on request)", printed, re.MULTILINE), (
        printed
    )
    assert_loads_as_what_it_is(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_train_signal_during_a_download_ends_the_run(data, tmp_path, number):
    """The run ends at once, whatever ends it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        zoo = {"MXNET_HOME": str(tmp_path), "MXNET_GLUON_REPO": f"http://127.0.0.1:{silent.getsockname()[1]}/"}
        process = start(flags(data, tmp_path, use_pretrained_model=1), **zoo)
        connection, _ = silent.accept()
        with connection:
            assert len(members(process.pid)) == 1
            process.send_signal(number)
            began = time.monotonic()
            printed, _ = process.communicate(timeout=30)
            while members(process.pid) and time.monotonic() < began + SOON:
                time.sleep(0.05)
            assert members(process.pid) == [] and time.monotonic() < began + SOON
    if number == signal.SIGTERM:
        assert process.returncode == 143 and "stopped on request before the first step" in printed, printed

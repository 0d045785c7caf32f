"""Ctrl-C in a terminal at several moments of train: what is on the screen, and what is left."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from helpers import jobs
from helpers.data import shapes_set

from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.artifacts.symbol_format import read_description

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return shapes_set(folder / "train", 16, seed=1), shapes_set(folder / "validation", 40, seed=2)


class Terminal:
    """A run of train in a pseudo-terminal."""

    def __init__(self, arguments):
        self.output = ""
        self._main, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(jobs.SOURCE)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ssd_train", "train", *arguments],
            env=environ,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)

    def read(self, seconds=0.05):
        """Read what there is; return False at the end."""
        if select.select([self._main], [], [], seconds)[0]:
            try:
                self.output += os.read(self._main, 1 << 16).decode("utf-8", "replace")
            except OSError:  # the other end is closed
                return False
        return True

    def wait_for(self, condition):
        end = time.monotonic() + jobs.LONGEST
        while not condition(self):
            assert self.read() and time.monotonic() < end, self.output

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def finish(self):
        end = time.monotonic() + jobs.LONGEST
        while self.read():
            assert time.monotonic() < end, self.output
        return self.process.wait(jobs.LONGEST)

    def screen(self):
        """Return the lines as a terminal shows them: carriage returns overwrite."""
        lines = []
        for raw in self.output.replace("\x1b[A", "").replace("\r\n", "\n").split("\n"):
            shown = ""
            for part in raw.split("\r"):
                shown = part + shown[len(part) :]
            lines.append(shown.rstrip())
        return lines


def handles_sigterm(terminal):
    """The run has installed its handlers, and has read no data yet."""
    try:
        with open(f"/proc/{terminal.process.pid}/status") as file:
            caught = int(re.search(r"SigCgt:\s*(\w+)", file.read()).group(1), 16)
    except OSError:
        return False
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def shows(pattern):
    return lambda terminal: re.search(pattern, terminal.output)


EPOCH, VALIDATION = r"epoch 2/50: +\d+%", r"epoch 1/50 .*(.|\n)*validation: +[1-9]\d*%"


@pytest.mark.parametrize(
    "moment, checkpoints",
    [
        pytest.param(EPOCH, True, id="epoch"),
        pytest.param(VALIDATION, False, id="validation-without-checkpoints"),
        pytest.param(EPOCH, False, id="epoch-without-checkpoints", marks=pytest.mark.slow),
        pytest.param(VALIDATION, True, id="validation", marks=pytest.mark.slow),
    ],
)
def test_interrupt_leaves_model_report_and_the_way_on(data, tmp_path, moment, checkpoints):
    changes = {} if checkpoints else {"checkpoint_dir": None}
    terminal = Terminal(jobs.flags(data, tmp_path, epochs=50, **changes))
    terminal.wait_for(shows(moment))
    terminal.interrupt()
    assert terminal.finish() == 130, terminal.output
    screen = terminal.screen()
    (error,) = [line for line in screen if "error: " in line]
    assert error.startswith("error: stopped on request after epoch ") and ("--checkpoint_dir" in error) != checkpoints
    assert [line for line in screen if line.startswith("stopping after this step")]
    # a bar that was not ended would share its line with what was printed next
    assert not [line for line in screen if re.search(r"\d+%\|.*(stop|error|report)", line)], screen
    model = SavedModel.load(tmp_path / "model")
    assert read_description(tmp_path / "model").weights == model.sha256
    assert "<svg" in (tmp_path / "output" / "report.html").read_text("utf-8")
    assert (tmp_path / "model" / "model.onnx").is_file()
    if checkpoints:
        jobs.run_here(["train", *jobs.flags(data, tmp_path, epochs=3)])


def test_interrupt_before_the_data_leaves_nothing(data, tmp_path):
    terminal = Terminal(jobs.flags(data, tmp_path))
    terminal.wait_for(handles_sigterm)
    terminal.interrupt()
    assert terminal.finish() == 130
    errors = [line for line in terminal.screen() if line.startswith("error: stopped on request before the first step")]
    assert len(errors) == 1 and "the same command" in errors[0], terminal.output
    assert not (tmp_path / "model").exists() and not (tmp_path / "output").exists()


def test_interrupt_at_once_is_one_line(data, tmp_path):
    terminal = Terminal(jobs.flags(data, tmp_path))
    terminal.interrupt() if terminal.read(0.2) else None
    assert terminal.finish() in (130, -signal.SIGINT)
    assert "Traceback" not in terminal.output


def test_interrupt_during_the_export_finishes_it(data, tmp_path):
    terminal = Terminal(jobs.flags(data, tmp_path, epochs=1, checkpoint_dir=None))
    terminal.wait_for(lambda _: list((tmp_path / "model").glob(".export.tmp-*")))
    terminal.interrupt()
    assert terminal.finish() == 0, terminal.output
    assert read_description(tmp_path / "model").weights == SavedModel.load(tmp_path / "model").sha256
    assert (tmp_path / "output" / "report.html").is_file()
    assert not [line for line in terminal.screen() if re.search(r"\d+%\|.*(stop|error|report)", line)]
    assert not list((tmp_path / "model").glob(".*"))


def test_second_interrupt_stops_at_once(data, tmp_path):
    terminal = Terminal(jobs.flags(data, tmp_path, epochs=50))
    terminal.wait_for(shows(r"epoch 2/50: +\d+%"))
    terminal.interrupt()
    terminal.wait_for(shows("stopping after this step"))
    terminal.interrupt()
    assert terminal.finish() == 130, terminal.output
    last = [line for line in terminal.screen() if line][-1]
    assert re.match("interrupted|error: stopped on request", last), terminal.output
    jobs.assert_loads_as_what_it_is(tmp_path)

"""Command line entry point: choice of the command, exit codes, errors in one line."""

from __future__ import annotations

import sys
import types

import pytest

from ssd_train import __version__
from ssd_train.cli import main as entry
from ssd_train.cli.main import COMMANDS, main
from ssd_train.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DependencyError,
    SsdTrainError,
    TrainingDiverged,
    WeightsError,
)


@pytest.fixture
def command(monkeypatch):
    """Return a function that replaces a command's `run`."""

    def install(name, run):
        module = types.ModuleType(f"ssd_train.cli.{name}")
        module.run = run
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


@pytest.mark.parametrize(
    "arguments, name, rest",
    [
        ([], "train", []),
        (["--train", "a", "--labels", "b"], "train", ["--train", "a", "--labels", "b"]),
        (["--train=a"], "train", ["--train=a"]),
        (["train", "--epochs", "3"], "train", ["--epochs", "3"]),
        (["--mini-batch-size", "4"], "train", ["--mini_batch_size", "4"]),
        (["predict", "a-b.jpg", "--top-k=a-b"], "predict", ["a-b.jpg", "--top_k=a-b"]),
        (["evaluate"], "evaluate", []),
    ],
)
def test_main_runs_the_named_command_or_train(command, arguments, name, rest):
    called = []
    command(name, lambda given: called.append(given) or 0)
    assert main(arguments) == 0
    assert called == [rest]


@pytest.mark.parametrize(
    "error, code",
    [
        (ConfigError("epochs: found 0"), 2),
        (DataError("a.manifest:3: box 0"), 2),
        (WeightsError("w.params"), 2),
        (CheckpointError("c"), 2),
        (DependencyError("mxnet is not installed"), 2),
        (TrainingDiverged("found loss nan"), 1),
        (SsdTrainError("disk full"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_main_known_error_is_one_line_and_its_exit_code(command, capsys, error, code):
    def run(arguments):
        raise error

    command("train", run)
    assert main(["train"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    expected = "interrupted\n" if isinstance(error, KeyboardInterrupt) else f"error: {error}\n"
    assert printed.err == expected


def test_main_unexpected_error_prints_its_traceback(command, capsys):
    def run(arguments):
        raise ZeroDivisionError("a bug")

    command("train", run)
    assert main(["train"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and "test_main.py" in error and "ZeroDivisionError: a bug" in error


def test_main_unknown_command_is_an_error(capsys):
    assert main(["trane"]) == 2
    assert capsys.readouterr().err.startswith("error: command: found 'trane'")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_main_help_lists_every_command(capsys, arguments):
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in COMMANDS)


def test_main_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ssd_train {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_main_each_command_has_help(capsys, name):
    try:
        code = main([name, "--help"])
    except SystemExit as ended:  # argparse's way
        code = ended.code
    assert code == 0
    assert f"usage: python -m ssd_train {name}" in capsys.readouterr().out


def test_main_without_arguments_reads_sys_argv(monkeypatch, command):
    called = []
    command("train", lambda given: called.append(given) or 0)
    monkeypatch.setattr(sys, "argv", ["ssd-train", "--image-shape", "128"])
    assert entry.main() == 0 and called == [["--image_shape", "128"]]

"""Argument parser, and progress on terminals and in logs."""

from __future__ import annotations

import io
import sys

import pytest

from ssd_train.cli import arguments
from ssd_train.cli.arguments import (
    LogProgress,
    Parser,
    TerminalProgress,
    make_progress,
    normalize_flags,
    number_in_range,
)
from ssd_train.errors import ConfigError


@pytest.mark.parametrize(
    "given, expected",
    [
        (["--batch-size", "8"], ["--batch_size", "8"]),
        (["--batch-size=a-b"], ["--batch_size=a-b"]),
        (["--a-b", "c-d", "e-f.jpg"], ["--a_b", "c-d", "e-f.jpg"]),
        (["-h"], ["-h"]),
        (["--", "--a-b"], ["--", "--a_b"]),
    ],
)
def test_normalised_replaces_hyphens_in_names_of_flags_only(given, expected):
    assert normalize_flags(given) == expected


def parser():
    made = Parser(prog="tool")
    made.add_argument("--train", required=True)
    made.add_argument("--devices", default="auto")
    return made


@pytest.mark.parametrize(
    "arguments, settings",
    [
        ("--train a", {}),
        ("--train a --epochs 3", {"epochs": "3"}),
        ("--epochs=3 --train a --seed 1", {"epochs": "3", "seed": "1"}),
        ("--train a --split_group=^a=b", {"split_group": "^a=b"}),
        ("--train a --seed -1", {"seed": "-1"}),
        ("--train a --lr_scheduler_step=", {"lr_scheduler_step": ""}),
    ],
)
def test_parse_settings_unknown_flags_become_settings(arguments, settings):
    known, found = parser().parse_settings(arguments.split())
    assert (known.train, known.devices, found) == ("a", "auto", settings)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("--epochs 3", "--train"),
        ("--train a --epochs", "--epochs: "),
        ("--train a 3", "'3'"),
        ("--train a --epochs 3 4", "'4'"),
        ("--train", "--train: "),
        ("--tra a", "--train; found --tra, did you mean --train?"),
        ("--xyzzy a", "--train"),
        ("--train a --epochs --seed 3", "--epochs: "),
        ("--train a --epochs 3 --epochs 4", "--epochs: found twice"),
        ("--train a --epochs 3 --train=b", "--train: found twice"),
        ("--train a --devices cpu --devices cpu", "--devices: found twice"),
    ],
)
def test_parse_settings_invalid_arguments_are_errors(arguments, expected):
    with pytest.raises(ConfigError) as error:
        parser().parse_settings(arguments.split())
    assert expected in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("--train a --devcies=cpu", "--devcies, did you mean --devices?"),
        ("--train a --epoch 3", "--epoch, did you mean --epochs?"),
        ("--train a --epochs 3", None),
        ("--train a --hepl", "--hepl, did you mean --help?"),
        ("--train a --xyzzy", None),
    ],
)
def test_parser_misspelt_flag_is_an_error_with_a_suggestion(arguments, expected):
    made = Parser(["epochs"], prog="tool")
    made.add_argument("--train")
    made.add_argument("--devices")
    with pytest.raises(ConfigError) as error:
        made.parse_args(arguments.split())
    text = str(error.value)
    assert arguments.split()[2] in text and (expected in text if expected else "did you mean" not in text)


@pytest.mark.parametrize(
    "kind, text, expected",
    [
        (float, "0", 0.0),
        (float, "1.0", 1.0),
        (int, "1", 1),
        (float, "-0.1", ConfigError),
        (float, "nan", ConfigError),
        (int, "2", ConfigError),
        (int, "0.5", ConfigError),
    ],
)
def test_within_accepts_numbers_in_range_only(kind, text, expected):
    made = Parser(prog="tool")
    made.add_argument("--fraction", type=number_in_range(kind, 0, 1))
    if expected is ConfigError:
        with pytest.raises(ConfigError, match=f"--fraction: .*{text}"):
            made.parse_args([f"--fraction={text}"])
    else:
        assert made.parse_args([f"--fraction={text}"]).fraction == expected


def test_log_progress_reports_long_work_at_intervals(capsys, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(arguments.time, "monotonic", lambda: next(clock))
    list(LogProgress().track(range(20), 20, "images"))
    lines = capsys.readouterr().out.splitlines()
    assert 3 <= len(lines) <= 7 and all(line.startswith("images: ") and line.endswith(" of 20") for line in lines)


def test_terminal_progress_shows_a_bar_and_lines(capsys):
    progress = TerminalProgress()
    found = []
    for item in progress.track(range(3), 3, "epoch 1/2"):
        progress.info(f"item {item}")
        found.append(item)
    printed = capsys.readouterr()
    assert found == [0, 1, 2]
    assert printed.out.split() == ["item", "0", "item", "1", "item", "2"]
    assert "epoch 1/2" in printed.err


@pytest.mark.parametrize(
    "out, err, expected",
    [
        (True, True, TerminalProgress),
        (True, False, LogProgress),
        (False, True, LogProgress),
        (False, False, LogProgress),
    ],
)
def test_make_progress_uses_bars_on_terminals_only(monkeypatch, out, err, expected):
    class Stream(io.StringIO):
        def __init__(self, terminal):
            super().__init__()
            self.terminal = terminal

        def isatty(self):
            return self.terminal

    monkeypatch.setattr(sys, "stdout", Stream(out))
    monkeypatch.setattr(sys, "stderr", Stream(err))
    assert type(make_progress()) is expected

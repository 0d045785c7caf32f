"""Flags as they are read, and what is shown of long work on a terminal and in a log."""

from __future__ import annotations

import io
import sys

import pytest

from ssd_train.cli import console
from ssd_train.cli.console import LogProgress, Parser, TerminalProgress, make_progress, normalised, within
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
def test_hyphens_in_flags_and_nowhere_else(given, expected):
    assert normalised(given) == expected


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
def test_other_flags_are_settings(arguments, settings):
    known, found = parser().parse_settings(arguments.split())
    assert (known.train, known.devices, found) == ("a", "auto", settings)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("--epochs 3", "the following arguments are required: --train (see tool --help)"),
        ("--train a --epochs", "--epochs: found no value, expected one after it"),
        ("--train a 3", "found '3' without a flag before it, expected --name value"),
        ("--train a --epochs 3 4", "found '4' without a flag before it, expected --name value"),
        ("--train", "argument --train: expected one argument (see tool --help)"),
        (
            "--tra a",
            "the following arguments are required: --train; found --tra, did you mean --train? (see tool --help)",
        ),
        ("--xyzzy a", "the following arguments are required: --train (see tool --help)"),
        ("--train a --epochs --seed 3", "--epochs: found no value, expected one after it"),
        ("--train a --epochs 3 --epochs 4", "--epochs: found twice, expected once"),
        ("--train a --epochs 3 --train=b", "--train: found twice, expected once"),
        ("--train a --devices cpu --devices cpu", "--devices: found twice, expected once"),
    ],
)
def test_flags_that_are_none_are_told(arguments, expected):
    with pytest.raises(ConfigError) as error:
        parser().parse_settings(arguments.split())
    assert str(error.value) == expected


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("--train a --device=cpu", "unrecognized arguments: --device=cpu; found --device, did you mean --devices?"),
        ("--train a --epoch 3", "unrecognized arguments: --epoch 3; found --epoch, did you mean --epochs?"),
        ("--train a --epochs 3", "unrecognized arguments: --epochs 3"),
        ("--train a --hepl", "unrecognized arguments: --hepl; found --hepl, did you mean --help?"),
        ("--train a --xyzzy", "unrecognized arguments: --xyzzy"),
    ],
)
def test_a_misspelt_flag_is_told_what_it_may_have_meant(arguments, expected):
    made = Parser(["epochs"], prog="tool")
    made.add_argument("--train")
    made.add_argument("--devices")
    with pytest.raises(ConfigError) as error:
        made.parse_args(arguments.split())
    assert str(error.value) == f"{expected} (see tool --help)"


def test_a_parser_parses_again():
    made = parser()
    assert [made.parse_args(["--train", name]).train for name in "ab"] == ["a", "b"]


def test_a_parser_that_is_given_nothing_reads_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tool", "--train", "a", "--epochs", "3"])
    assert parser().parse_known_args()[0].train == "a"
    with pytest.raises(ConfigError, match="--epochs"):
        parser().parse_args()


@pytest.mark.parametrize(
    "kind, text, expected",
    [
        (float, "0", 0.0),
        (float, "1.0", 1.0),
        (int, "1", 1),
        (float, "-0.1", "found -0.1, expected 0 to 1"),
        (float, "nan", "found nan, expected 0 to 1"),
        (int, "2", "found 2, expected 0 to 1"),
        (int, "0.5", "invalid int value: '0.5'"),
    ],
)
def test_numbers_of_a_range(kind, text, expected):
    made = Parser(prog="tool")
    made.add_argument("--share", type=within(kind, 0, 1))
    if isinstance(expected, str):
        with pytest.raises(ConfigError) as error:
            made.parse_args([f"--share={text}"])
        assert str(error.value) == f"argument --share: {expected} (see tool --help)"
    else:
        assert made.parse_args([f"--share={text}"]).share == expected


def test_a_log_gets_plain_lines(capsys):
    progress = LogProgress()
    progress.say("epoch 1")
    progress.warn("a class is missing")
    assert list(progress.track(range(3), 3, "images")) == [0, 1, 2]
    assert capsys.readouterr() == ("epoch 1\nwarning: a class is missing\n", "")


def test_a_log_hears_of_long_work_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    list(LogProgress().track(range(20), 20, "images"))
    lines = capsys.readouterr().out.splitlines()
    assert 3 <= len(lines) <= 7 and all(line.startswith("images: ") and line.endswith(" of 20") for line in lines)


def test_a_terminal_gets_a_bar_and_lines_above_it(capsys):
    progress = TerminalProgress()
    found = []
    for item in progress.track(range(3), 3, "epoch 1/2"):
        progress.say(f"item {item}")
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
def test_bars_only_where_somebody_looks_on(monkeypatch, out, err, expected):
    class Stream(io.StringIO):
        def __init__(self, terminal):
            super().__init__()
            self.terminal = terminal

        def isatty(self):
            return self.terminal

    monkeypatch.setattr(sys, "stdout", Stream(out))
    monkeypatch.setattr(sys, "stderr", Stream(err))
    assert type(make_progress()) is expected

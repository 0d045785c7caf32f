"""train: its flags and its help; training itself is tests/integration/test_main_job.py's."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import signal

import pytest

from ssd_train.cli import evaluate, export, predict, serve
from ssd_train.cli.arguments import GROUPS
from ssd_train.cli.main import main
from ssd_train.cli.train import StopRequests, make_parser, next_steps
from ssd_train.config import TrainConfig


def test_help_lists_every_setting_with_limits_and_default(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    help = make_parser().format_help()
    for item in dataclasses.fields(TrainConfig):
        entry = re.split(rf"\n  --{item.name}\b(?=[ ,])", help)[1].partition("\n  --")[0].partition("\n\n")[0]
        text = " ".join(entry.split())
        assert item.metadata["help"] in text and (item.default == "" or text.endswith(f"[{item.default}]"))
    assert "(sgd, adam, rmsprop, adadelta)" in help and "(more than 0 and at most 1, or auto) [auto]" in help
    assert "--lr0 NUMBER" in help


def test_help_is_wrapped_to_the_terminal_and_in_groups(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    lines = make_parser().format_help().splitlines()
    assert max(map(len, lines)) <= 72
    titles = [line[:-1] for line in lines if line.endswith(":") and line[:1] not in ("", " ")]
    assert titles[1:4] == ["data", "outputs", "network"] and set(GROUPS.values()) <= set(titles)


def test_make_parser_flags_do_not_hide_settings():
    settings = [item.name for item in dataclasses.fields(TrainConfig)]
    assert sorted(action.dest for action in make_parser()._actions if action.dest in settings) == sorted(settings)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "train: "),
        (["--train", "a", "--epoch", "3"], "epoch: unknown setting, did you mean epochs?"),
        (["--trian", "a"], "trian: unknown setting, did you mean --train?; train: found no --train"),
        (["--train", "a", "--checkpoint-dirs", "b"], "checkpoint_dirs: unknown setting, did you mean --checkpoint_dir"),
        (["--train", "nowhere/at/all", "--labels", "nowhere/either"], "nowhere/at/all: "),
        (["--train", ".", "--labels", "nowhere/either"], "nowhere/either: "),
        (["--train", ".", "--validation", "nowhere/images"], "nowhere/images: "),
        (["--epochs", "0", "--image-shape", "9"], "image_shape: found '9'"),
        (["--epochs", "0", "--image-shape", "9"], "epochs: found '0'"),
    ],
)
def test_train_invalid_arguments_are_one_line(capsys, arguments, expected):
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and expected in error and error.count("\n") == 1


def test_next_steps_are_commands_that_parse(tmp_path):
    model = tmp_path / "my model"
    commands = [shlex.split(line)[1:] for line in next_steps(model)]
    parsers = {"predict": predict, "serve": serve, "evaluate": evaluate, "export": export}
    flags = {words[3]: parsers[words[3]].make_parser().parse_args(words[4:]) for words in commands}
    assert list(flags) == ["predict", "evaluate", "serve", "export"]
    assert {str(parsed.model) for parsed in flags.values()} == {str(model)}
    assert [str(path) for path in flags["predict"].paths] == ["MORE_IMAGES"]


def test_stop_requests_second_interrupt_stays_one_if_a_library_turns_it_into_another_error():
    with pytest.raises(KeyboardInterrupt), StopRequests():
        os.kill(os.getpid(), signal.SIGINT)
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None


def test_stop_requests_error_after_one_interrupt_stays_that_error():
    with pytest.raises(ImportError), StopRequests():
        os.kill(os.getpid(), signal.SIGINT)
        raise ImportError("no such module")

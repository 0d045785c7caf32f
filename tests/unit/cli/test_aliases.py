"""Names of flags in other tools, and one name for one thing across commands."""

from __future__ import annotations

import dataclasses
import importlib

import pytest

from ssd_train.cli import prepare
from ssd_train.cli.aliases import ALIASES, HINTS
from ssd_train.cli.launch import MODES, make_launch_parser, make_mode_parser
from ssd_train.cli.main import COMMANDS, main
from ssd_train.cli.train import make_parser
from ssd_train.config import TrainConfig
from ssd_train.errors import ConfigError


def parsers():
    """The parser of every command, step and mode by name."""
    named = {f"prepare {step}": prepare.make_parser(step) for step in prepare.STEPS}
    named.update({f"launch --{mode}": make_mode_parser(mode) for mode in MODES})
    named["launch"] = make_launch_parser()
    for name in COMMANDS:
        if name not in ("prepare", "launch"):
            named[name] = importlib.import_module(f"ssd_train.cli.{name}").make_parser()
    for parser in named.values():
        parser.add_aliases()
    return named


PARSERS = parsers()
NAMES = set().union(*(parser.names for parser in PARSERS.values()))


def test_aliases_lead_to_flags_and_hints_to_names_that_are_none():
    assert set(ALIASES) <= NAMES
    settings = {item.name for item in dataclasses.fields(TrainConfig)}
    aliases = {alias for name in set(ALIASES) - {"group"} for alias in ALIASES[name]}
    assert not settings & aliases and not set(HINTS) & (settings | aliases)


@pytest.mark.parametrize("name", [name for name in HINTS if name not in ("exist_ok",)])
def test_hints_name_flags_that_exist(name):
    for text in HINTS[name]:
        for word in text.replace(";", " ").replace(",", " ").split():
            assert not word.startswith("--") or word[2:] in NAMES


@pytest.mark.parametrize(
    "flag, value, setting",
    [
        ("--lr", "0.01", {"learning_rate": "0.01"}),
        ("--lr0", "0.01", {"learning_rate": "0.01"}),
        ("--imgsz", "512", {"image_shape": "512"}),
        ("--img", "512", {"image_shape": "512"}),
        ("--batch", "4", {"mini_batch_size": "4"}),
        ("--batch_size", "4", {"mini_batch_size": "4"}),
        ("--workers", "2", {"num_workers": "2"}),
        ("--network", "vgg16_atrous", {"base_network": "vgg16_atrous"}),
        ("--wd", "0.001", {"weight_decay": "0.001"}),
        ("--group", "^a", {"split_group": "^a"}),
        ("--fit_anchors", "0", {"auto_anchors": "0"}),
    ],
)
@pytest.mark.parametrize("command", ["train", "launch", "demo"])
def test_alias_of_a_setting_sets_it(command, flag, value, setting):
    parser = importlib.import_module(f"ssd_train.cli.{command}")
    parser = parser.make_launch_parser() if command == "launch" else parser.make_parser()
    needed = ["--train", "s3://b/i", "--role", "r", "--output", "s3://b/o"] if command == "launch" else []
    assert parser.parse_settings([*needed, flag, value])[1] == setting


@pytest.mark.parametrize(
    "command, arguments, name, value",
    [
        ("train", "--images a", "train", "a"),
        ("train", "--weights a", "pretrained", "a"),
        ("train", "--device cpu", "devices", "cpu"),
        ("check", "--train a", "images", "a"),
        ("evaluate", "--labels a --weights m", "model", "m"),
        ("predict", "--source a b --weights m", "paths", "a b"),
        ("predict", "--model m --images a", "paths", "a"),
        ("prepare split", "--labels a --output o", "manifest", "a"),
        ("prepare sheet", "--labels a --images i --output o.png", "labels", "a"),
        ("launch", "--images s3://b/i --role r --output s3://b/o", "train", "s3://b/i"),
        ("launch", "--images s3://b/i --role r --output s3://b/o --weights s3://b/w", "pretrained", "s3://b/w"),
        ("launch --invoke", "--invoke e --images a b", "picture", "a b"),
        ("launch --transform", "--transform e --role r --output o --model m --images p", "pictures", "p"),
    ],
)
def test_alias_of_a_flag_is_taken(command, arguments, name, value):
    found = getattr(parsers()[command].parse_known_args(arguments.split())[0], name)
    assert (" ".join(map(str, found)) if isinstance(found, list) else str(found)) == value


def test_one_name_for_one_thing_in_every_command_that_has_it():
    reading = {name for name, parser in PARSERS.items() if "labels_format" in parser.names}
    assert {"train", "audit", "check", "evaluate", "export", "predict", "prepare convert", "launch", "demo"} == reading
    for name in reading - {"demo"}:
        assert {"labels", "images"} <= PARSERS[name].names | set(PARSERS[name]._positional_flags)
    assert "seed" in PARSERS["train"].names and "seed" in PARSERS["prepare split"].names


@pytest.mark.parametrize(
    "arguments, flag",
    [
        ("train --train a --data coco.yaml", "--train"),
        ("train --train a --resume", "--checkpoint_dir"),
        ("train --train a --patience 5", "--early_stopping_patience"),
        ("train --train a --name run1", "--model_dir"),
        ("train --train a --model yolo11n.pt", "--base_network"),
        ("launch --train s3://b/i --role r --output s3://b/o --name job", "--job_name"),
        ("predict a --model m --conf 0.5", "--threshold"),
        ("predict a --model m --conf-thres=0.5", "--threshold"),
        ("evaluate --labels a --model m --iou 0.6", "--overlap_threshold"),
        ("export --model m --output o --include onnx", "--format"),
    ],
)
def test_flag_of_another_tool_is_one_line_with_the_right_name(capsys, arguments, flag):
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert flag in error.partition("unknown flag, expected ")[2]


def test_alias_and_name_together_are_refused():
    with pytest.raises(ConfigError, match="^--lr: found twice"):
        make_parser().parse_settings(["--learning_rate", "1", "--lr", "1"])

"""--config FILE.yaml: names and values as on the command line, which overrides them; errors by file and line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from ssd_train.cli import evaluate, launch, predict, prepare, train
from ssd_train.cli.config_file import config_text, read_config
from ssd_train.config import TrainConfig
from ssd_train.errors import ConfigError, DependencyError


@pytest.fixture
def write(tmp_path):
    def write(text, name="run.yaml"):
        (tmp_path / name).write_text(text, "utf-8")
        return str(tmp_path / name)

    return write


def test_read_config_values_are_texts_of_the_file(write):
    entries = read_config(Path(write("a: 1e-3\nb-c: 010\nd: yes\ne: [1, x]\nf: ~\ng: 'q: #'\nh: 1:30\n")))
    expected = [("a", ["1e-3"]), ("b_c", ["010"]), ("d", ["true"]), ("e", ["1", "x"]), ("g", ["q: #"]), ("h", ["1:30"])]
    assert [(entry.name, entry.values) for entry in entries] == expected
    assert [entry.where.rpartition(":")[2] for entry in entries] == ["1", "2", "3", "4", "6", "7"]


@pytest.mark.parametrize(
    "text, place",
    [
        ("a: 1\na: 2\n", ":2: a: "),
        ("a:\n  b: 1\n", ":1: a: "),
        ("- a\n", ":1: "),
        ("a: 1\n b: 2\n", ":2: "),
        ("a: [1\n", ":2: "),
        ("a: 1\n---\nb: 2\n", ":2: "),
        ("\0", ": "),
    ],
)
def test_read_config_damaged_file_is_one_line_with_its_place(write, text, place):
    path = write(text)
    with pytest.raises(ConfigError) as error:
        read_config(Path(path))
    assert str(error.value).startswith(path + place) and "\n" not in str(error.value)


def test_read_config_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="none.yaml"):
        read_config(tmp_path / "none.yaml")


def test_read_config_without_pyyaml_names_the_extra(monkeypatch, write):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(DependencyError, match=r"ssd-train\[cli\]"):
        read_config(Path(write("a: 1\n")))


def test_config_text_is_yaml_of_the_same_values():
    values = {"a": 1, "b": 0.5, "c": True, "d": "x: #é", "e": "", "g": [1, "y"], "h": Path("p/q"), "i": "null"}
    assert yaml.safe_load(config_text({**values, "f": None}, "title")) == {**values, "h": "p/q"}


@pytest.mark.parametrize("settings", [{}, {"recipe": "best", "epochs": 3}, {"preset_defaults": "builtin"}, {"amp": 1}])
def test_settings_written_are_read_as_the_same(write, settings):
    config = TrainConfig.from_mapping(settings)
    parser = train.make_parser()
    known, read = parser.parse_settings(["--config", write(config_text(config.to_json(), "settings"))])
    assert vars(known) == {"fetch_images": 0}
    assert TrainConfig.from_mapping(read) == config


def test_train_flags_override_the_file(write):
    path = write("images: a\nlabels: b\nlr: 0.1\nepochs: 3\nfetch-images: 1\n")
    known, settings = train.make_parser().parse_settings(["--config", path, "--train", "c", "--learning_rate", "0.2"])
    assert (known.train, known.labels, known.fetch_images) == (Path("c"), Path("b"), 1)
    assert settings == {"learning_rate": "0.2", "epochs": "3"}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("train: a\nepoch: 3\n", [":2: ", "epoch", "epochs"]),
        ("tarin: a\n", [":1: ", "tarin", "train"]),
        ("train: a\n\npatience: 3\n", [":3: ", "patience", "--early_stopping_patience"]),
        ("fetch_images: 2\n", [":1: ", "fetch_images", "2"]),
        ("checkpoint_dir: s3://b/c\n", [":1: ", "s3://b/c"]),
        ("config: other.yaml\n", [":1: ", "config"]),
        ("dry_run: 3\n", [":1: ", "dry_run", "3"]),
    ],
)
def test_train_unknown_name_or_wrong_value_is_refused_with_its_line(write, text, expected):
    path = write(text)
    with pytest.raises(ConfigError) as error:
        train.make_parser().parse_settings(["--config", path])
    message = str(error.value)
    assert message.startswith(path + expected[0]) and all(part in message for part in expected) and "\n" not in message


def test_train_two_files_are_refused(write):
    path = write("train: a\n")
    with pytest.raises(ConfigError, match="^--config: found twice"):
        train.make_parser().parse_settings(["--config", path, f"--config={path}"])


@pytest.mark.parametrize(
    "make_parser, text, arguments, expected",
    [
        (predict.make_parser, "images: [a, b]\nmodel: m\nthreshold: 1\n", [], {"paths": ["a", "b"], "threshold": 1}),
        (predict.make_parser, "images: [a, b]\nmodel: m\n", ["c"], {"paths": ["c"], "model": "m"}),
        (predict.make_parser, "paths: a\nweights: m\n", [], {"paths": ["a"], "model": "m"}),
        (evaluate.make_parser, "labels: l\nclass_names: [a, b]\n", [], {"labels": "l", "class_names": "a,b"}),
        (lambda: prepare.make_parser("split"), "labels: m\noutput: o\nfractions: [0.5, 0.5]\nstratify: true\n",
         ["--seed", "3"], {"manifest": "m", "fractions": [0.5, 0.5], "stratify": True, "seed": 3}),
        (lambda: prepare.make_parser("relabel"), "manifest: m\noutput: o\nrename: [a=b, c=d]\n", [],
         {"rename": [("a", "b"), ("c", "d")]}),
        (lambda: prepare.make_parser("relabel"), "manifest: m\noutput: o\nrename: a=b\n", ["--rename", "c=d"],
         {"rename": [("c", "d")]}),
    ],
)  # fmt: skip
def test_other_commands_take_a_file(write, make_parser, text, arguments, expected):
    flags = make_parser().parse_args(["--config", write(text), *arguments])
    for name, value in expected.items():
        found = getattr(flags, name)
        found = [str(part) if isinstance(part, Path) else part for part in found] if isinstance(found, list) else found
        assert (str(found) if isinstance(found, Path) else found) == value


def test_launch_takes_settings_and_flags_of_a_file(write):
    text = "train: s3://b/i\nrole: r\noutput: s3://b/o\nepochs: 3\ntag: [a=b]\nspot: true\n"
    known, settings = launch.make_launch_parser().parse_settings(["--config", write(text)])
    assert (known.train, known.tag, known.spot, settings) == ("s3://b/i", [("a", "b")], True, {"epochs": "3"})

"""train --config and --dry_run: a run is repeated from the file that it wrote, and tried without training."""

from __future__ import annotations

import json
import re

import pytest
from helpers.jobs import assert_same, flags, outcome, run_here

from ssd_train.cli.main import main
from ssd_train.storage.atomic import finished_dirs


def fingerprint(folder):
    state = finished_dirs(folder / "checkpoints" / "state")[0] / "state.json"
    return json.loads(state.read_text())["fingerprint"]


def places(folder):
    names = {"model_dir": "model", "output_dir": "output", "checkpoint_dir": "checkpoints"}
    return [text for flag, name in names.items() for text in (f"--{flag}", str(folder / name))]


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    """A run with settings that are not the defaults, and what it printed."""
    folder = tmp_path_factory.mktemp("first")
    settings = {
        "recipe": "fast",
        "epochs": 1,
        "learning_rate": 3e-4,
        "optimizer": "sgd",
        "auto_anchors": 1,
        "seed": 7,
        "overwrite": 1,
    }
    return folder, run_here(flags(data, folder, **settings))


def test_train_config_of_a_run_repeats_it(first, tmp_path):
    folder, _ = first
    run_here(["train", "--config", str(folder / "output" / "config.yaml"), *places(tmp_path)])
    assert "overwrite" not in (folder / "output" / "config.yaml").read_text()
    assert fingerprint(tmp_path) == fingerprint(folder)
    assert_same(outcome(tmp_path), outcome(folder))


def test_train_flag_overrides_the_config(first, tmp_path):
    folder, _ = first
    run_here(["--config", str(folder / "output" / "config.yaml"), *places(tmp_path), "--lr", "0.0001"])
    differing = {key for key, value in fingerprint(folder).items() if fingerprint(tmp_path)[key] != value}
    assert differing == {"setting learning_rate"}


def test_train_dry_run_reports_the_run_and_writes_nothing(data, first, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    printed = run_here([*flags(data, tmp_path, epochs=3, learning_rate=3e-4), "--dry-run"])
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert "learning_rate 0.0003" in printed and re.search(r"network: mobilenet0\.25 at \d+ px, \d class", printed)
    (steps,) = re.findall(r"^steps: (\d+) per epoch", printed, re.M)
    (minutes,) = re.findall(r"^expected: ([\d.]+) minutes", printed, re.M)
    assert int(steps) > 0 and 0 <= float(minutes) < 10
    assert re.search(r"^memory: [\d.]+ GB used", printed, re.M)


@pytest.mark.parametrize("taken", ["model", "output"])
def test_train_dry_run_refuses_folders_of_another_run(first, data, tmp_path, capsys, taken):
    folder, _ = first
    arguments = [*flags(data, tmp_path, learning_rate=0.1), "--dry_run"]
    arguments[arguments.index(f"--{taken}_dir") + 1] = str(folder / taken)
    assert main(arguments) == 2
    assert str(folder / taken) in capsys.readouterr().err


def test_train_dry_run_refuses_what_train_refuses(data, tmp_path):
    (tmp_path / "labels.manifest").write_text('{"source-ref": "a.jpg"\n')
    arguments = [*flags(data, tmp_path), "--dry_run"]
    arguments[arguments.index("--labels") + 1] = str(tmp_path / "labels.manifest")
    assert main(arguments) == 2

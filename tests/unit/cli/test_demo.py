"""demo: invalid flags are errors before anything is drawn."""

from __future__ import annotations

import json

import pytest

from ssd_train.cli.demo import run
from ssd_train.cli.main import main


@pytest.mark.parametrize(
    "flags, expected",
    [
        pytest.param(["--pictures", "0"], "--pictures: found 0", id="none"),
        pytest.param(["--pictures", "1000000"], "--pictures: found 1000000", id="too many"),
        pytest.param(["--epochs", "0"], "epochs: found '0'", id="setting"),
        pytest.param(["--quick", "--epochs", "0"], "epochs: found '0'", id="setting of a quick run"),
    ],
)
def test_demo_invalid_flags_are_errors_before_drawing(tmp_path, capsys, flags, expected):
    assert main(["demo", "--folder", str(tmp_path / "demo"), *flags]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_demo_recipe_is_before_the_demos_own_settings(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("ssd_train.cli.demo.train_detector", lambda config, *rest: seen.append(config) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(["--quick", "--recipe", "best", "--epochs", "3", "--folder", str(tmp_path)])
    assert (seen[0].image_shape, seen[0].feature_strides, seen[0].epochs) == (300, "auto", 3)


def test_demo_quick_trains_two_epochs_on_few_images(tmp_path, capsys):
    folder = tmp_path / "demo"
    assert main(["demo", "--folder", str(folder), "--quick", "--pictures", "20", "--mini-batch-size", "4"]) == 0
    settings = json.loads((folder / "model" / "config.json").read_text())["settings"]
    assert (settings["epochs"], settings["image_shape"], settings["mini_batch_size"]) == (2, 128, 4)
    assert [len(list((folder / name / "images").iterdir())) for name in ("train", "validation")] == [20, 16]
    assert (folder / "output" / "report.html").is_file() and "mAP@0.5 " in capsys.readouterr().out

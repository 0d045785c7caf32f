"""--recipe: what it sets, what it leaves to the user, what it does not go with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ssd_train.cli.main import main
from ssd_train.config import RECIPES, TrainConfig
from ssd_train.errors import ConfigError


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_sets_its_settings_only(name):
    expected = {**TrainConfig().to_json(), "recipe": name, **RECIPES[name]}
    assert TrainConfig.from_mapping({"recipe": name}).to_json() == expected


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_explicit_settings_win(name):
    found = TrainConfig.from_mapping({"recipe": name, "epochs": "3", "learning_rate": "0.002"})
    assert (found.epochs, found.learning_rate, found.image_shape) == (3, 0.002, RECIPES[name]["image_shape"])


@pytest.mark.parametrize(
    "given, used, overridden",
    [
        ({}, ["image_shape 300", "epochs 8"], []),
        ({"epochs": "3", "seed": "7"}, ["image_shape 300"], ["epochs 3 instead of 8"]),
        ({"epochs": "3", "image_shape": "256"}, [], ["image_shape 256 instead of 300", "epochs 3 instead of 8"]),
    ],
    ids=["all", "some", "none"],
)
def test_train_recipe_logs_used_and_overridden_settings(tmp_path, capsys, given, used, overridden):
    """Before anything is read: there is no such folder."""
    flags = [part for name, value in given.items() for part in (f"--{name}", value)]
    assert main(["train", "--train", str(tmp_path / "none"), "--recipe", "fast", *flags]) == 2
    first, _, second = capsys.readouterr().out.splitlines()[0].partition("; ")
    assert first.startswith("recipe fast: ") and all(text in first for text in used)
    assert all(text in second for text in overridden) and bool(second) == bool(overridden)


def test_recipes_match_the_readme():
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    told = re.search(
        r"`--recipe fast`, `balanced` or `best` .*?\((\d+), (\d+) or (\d+) epochs at (\d+) px\)", readme, re.S
    )
    assert [int(number) for number in told.groups()] == [*(r["epochs"] for r in RECIPES.values()), 300]
    assert {recipe["image_shape"] for recipe in RECIPES.values()} == {300}


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"recipe": "slow"}, "^recipe: found 'slow'"),
        (
            {"recipe": "fast", "preset_defaults": "builtin"},
            "^recipe: found 'fast' with preset_defaults 'builtin'",
        ),
    ],
)
def test_recipe_invalid_is_an_error(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        TrainConfig.from_mapping(settings)

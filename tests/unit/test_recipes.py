"""--recipe: what it sets, what it leaves to the user, what it does not go with."""

from __future__ import annotations

import pytest

from ssd_train.config import TrainConfig
from ssd_train.errors import ConfigError
from ssd_train.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_sets_what_it_names_and_leaves_the_rest(name):
    expected = {**TrainConfig().to_json(), "recipe": name, **RECIPES[name]}
    assert TrainConfig.from_mapping({"recipe": name}).to_json() == expected


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_given_wins(name):
    found = TrainConfig.from_mapping({"recipe": name, "epochs": "3", "learning_rate": "0.002"})
    assert (found.epochs, found.learning_rate, found.image_shape) == (3, 0.002, RECIPES[name]["image_shape"])


def test_an_empty_text_is_left_to_the_recipe():
    assert TrainConfig.from_mapping({"recipe": "fast", "epochs": ""}).epochs == RECIPES["fast"]["epochs"]


def test_recipes_cost_more_and_more():
    """By pixels seen: image size squared times epochs."""
    costs = [recipe["image_shape"] ** 2 * recipe["epochs"] for recipe in RECIPES.values()]
    assert costs == sorted(costs) and list(RECIPES) == ["fast", "balanced", "best"]


def test_a_saved_model_reads_its_settings_back():
    config = TrainConfig.from_mapping({"recipe": "best", "epochs": 2})
    assert TrainConfig.from_mapping(config.to_json()) == config


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"recipe": "slow"}, "recipe: found 'slow', expected one of fast, balanced, best"),
        ({"recipe": "fast", "defaults": "builtin"}, "recipe: found 'fast' with defaults 'builtin', expected one"),
    ],
)
def test_a_recipe_that_cannot_be(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        TrainConfig.from_mapping(settings)

"""--recipe: an image size and a number of epochs, by name: how much time is spent.

Everything else is as the defaults have it, which are the best found, and so is the image size: 256 px cost 0.07 of COCO
mAP where objects are small (blood cells, 8 epochs), 416 px scored less than 300 in as many epochs where they are large
(raccoons, 8 and 40). benchmarks/README.md has what each was measured to score on three sets.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping

RECIPES: Dict[str, Dict[str, Any]] = {
    "fast": {"image_shape": 300, "epochs": 8},
    "balanced": {"image_shape": 300, "epochs": 20},
    "best": {"image_shape": 300, "epochs": 40},
}


def with_recipe(given: Mapping[str, Any]) -> Dict[str, Any]:
    """`given` above the settings of its recipe, where it names one that there is; an empty text is a setting left
    open."""
    recipe = RECIPES.get(str(given.get("recipe", "")).strip(), {})
    open_ones = {name for name in recipe if str(given.get(name, "")).strip() == ""}
    return {**given, **{name: recipe[name] for name in open_ones}}


def told(name: str, chosen: Mapping[str, Any]) -> str:
    """What recipe `name` came to among the `chosen` settings: those taken from it, and those that were given in place
    of its own."""
    recipe = RECIPES[name]
    taken = [f"{key} {value}" for key, value in recipe.items() if chosen[key] == value]
    given = [f"{key} {chosen[key]} in place of {value}" for key, value in recipe.items() if chosen[key] != value]
    return f"recipe {name}: {', '.join(taken) or 'nothing of it is used'}" + (
        f"; given: {', '.join(given)}" if given else ""
    )

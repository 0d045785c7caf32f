"""Presets of --recipe: image size and number of epochs.

All presets use 300 px: 256 px lost 0.07 COCO mAP on small objects (blood cells, 8 epochs), and 416 px scored less than
300 px on large ones in the same number of epochs (raccoons, 8 and 40). benchmarks/README.md has the scores of each
preset on three data sets.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping

RECIPES: Dict[str, Dict[str, Any]] = {
    "fast": {"image_shape": 300, "epochs": 8},
    "balanced": {"image_shape": 300, "epochs": 20},
    "best": {"image_shape": 300, "epochs": 40},
}


def with_recipe(given: Mapping[str, Any]) -> Dict[str, Any]:
    """Merge the settings `given` into those of their recipe, if it exists; empty texts count as not given."""
    recipe = RECIPES.get(str(given.get("recipe", "")).strip(), {})
    explicit = {name: value for name, value in given.items() if name not in recipe or str(value).strip() != ""}
    return {**recipe, **explicit}


def told(name: str, chosen: Mapping[str, Any]) -> str:
    """Describe which settings of recipe `name` are in effect and which were overridden.

    Args:
        name: Name of the recipe.
        chosen: All settings of the run.
    """
    recipe = RECIPES[name]
    used = [f"{key} {value}" for key, value in recipe.items() if chosen[key] == value]
    overridden = [f"{key} {chosen[key]} instead of {value}" for key, value in recipe.items() if chosen[key] != value]
    text = f"recipe {name}: {', '.join(used) or 'no setting used'}"
    return f"{text}; overridden: {', '.join(overridden)}" if overridden else text

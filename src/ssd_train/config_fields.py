"""Conversion and validation of setting values from flags, hyperparameters and JSON."""

from __future__ import annotations

import re
from dataclasses import Field, field
from typing import Any, Collection, Dict, List, Mapping, Optional, Tuple

LARGEST_ANCHOR = 2.0  # relative to the image side
BALANCED = "balanced"  # of class_weights

BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def setting(default: Any, help: str, **limits: Any) -> Any:
    """Return a dataclass field with help and limits as metadata.

    Args:
        default: Default value.
        help: One line for --help.
        **limits: Limits of `checked_value`; resume=True if a resumed run may change the setting, by_data=True if it
            is completed from the data, start=True if it affects the initial weights only; `older`, the value of models
            that were saved before the setting existed, if it is not the default.
    """
    return field(default=default, metadata={"help": help, **limits})


def checked_value(item: "Field[Any]", value: Any) -> Tuple[Any, str]:
    """Convert a value to its field's type and check its limits.

    Limits are the field's metadata: `low`, `high` (inclusive), `above`, `below` (exclusive), `choices`, `aliases`
    (other spellings of the choices), and `or_text` (the text that may stand in place of a number).

    Returns:
        The converted value, and an error message or "".
    """
    converted, expected = _convert(item, value)
    if converted is None:
        return value, f"{item.name}: found {value!r}, expected {expected}"
    limits = item.metadata
    if "or_text" in limits and converted == limits["or_text"]:
        return converted, ""
    choices = limits.get("choices")
    if choices and converted not in choices:
        return value, f"{item.name}: found {value!r}, expected one of {', '.join(choice_texts(item))}"
    ok = (
        converted >= limits.get("low", converted)
        and converted <= limits.get("high", converted)
        and ("above" not in limits or converted > limits["above"])
        and ("below" not in limits or converted < limits["below"])
    )
    return converted, "" if ok else f"{item.name}: found {value!r}, expected {range_text(limits)}"


def choice_texts(item: "Field[Any]") -> List[str]:
    """Return the choices of a setting without the empty one; none if it has no choices."""
    return [str(choice) for choice in item.metadata.get("choices", ()) if choice != ""]


def _convert(item: "Field[Any]", value: Any) -> Tuple[Any, str]:
    text = str(value).strip()
    if text == "" and (item.type != "str" or "" not in item.metadata.get("choices", ("",))):
        return item.default, ""  # SageMaker sends "" for an empty hyperparameter
    if "aliases" in item.metadata:
        return item.metadata["aliases"].get(text.lower(), text), ""
    if item.type == "bool":
        return BOOLEANS.get(text.lower()), "true or false"
    if item.type == "int":
        return _whole_number(text), "a whole number"
    if item.type == "float":
        return _finite_number(text), "a number"
    if "or_text" in item.metadata:
        word = item.metadata["or_text"]
        return (word if text.lower() == word else _finite_number(text)), f"a number or {word}"
    return text, ""


def _whole_number(text: str) -> Optional[int]:
    number = _finite_number(text)
    return int(number) if number is not None and number == int(number) else None


def _finite_number(text: str) -> Optional[float]:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def range_text(limits: Mapping[str, Any]) -> str:
    """Return a description of numeric limits, or ""."""
    parts = []
    for key, words in (("low", "at least"), ("above", "more than"), ("high", "at most"), ("below", "less than")):
        if key in limits:
            parts.append(f"{words} {limits[key]}")
    text = " and ".join(parts)
    return f"{text}, or {limits['or_text']}" if "or_text" in limits else text


def cross_field_errors(values: Mapping[str, Any]) -> List[str]:
    """Return errors of structured texts and of conflicting settings, one message each.

    Args:
        values: All settings of TrainConfig by name, each already valid on its own.
    """
    faults = _schedule_faults(values["lr_schedule"], values["lr_scheduler_step"])
    if parse_increasing_floats(values["anchor_sizes"]) is None:
        faults.append(
            f"anchor_sizes: found {values['anchor_sizes']!r}, expected increasing scales relative to the image "
            f"side, each more than 0 and at most {LARGEST_ANCHOR:g}, such as '0.1,0.2,0.37'"
        )
    if parse_class_weights(values["class_weights"]) is None:
        faults.append(
            f"class_weights: found {values['class_weights']!r}, expected {BALANCED!r}, or one weight above 0 for each "
            "of some class names, such as 'cat=2,dog=0.5'"
        )
    if values["base_network"] == "vgg-16" and values["feature_strides"].startswith("16"):
        faults.append("feature_strides: found '16,32,...' with base_network 'vgg-16', expected '8,16,...', its own")
    if values["recipe"] and values["preset_defaults"] == "builtin":
        faults.append(f"recipe: found {values['recipe']!r} with preset_defaults 'builtin', expected one of the two")
    if -1 < values["clip_gradient"] < 0:
        faults.append(f"clip_gradient: found {values['clip_gradient']}, expected -1 (by optimizer), 0 (none) or more")
    if values["augmentation"] == "flip" and values["mirror"] is False:
        faults.append("mirror: found false with augmentation 'flip', which does nothing else, expected 'none'")
    for name in ("freeze_layer_pattern", "split_group"):
        try:
            re.compile(values[name])
        except re.error as error:
            faults.append(f"{name}: found {values[name]!r}, expected a regular expression ({error})")
    return faults


def _schedule_faults(schedule: str, epochs: str) -> List[str]:
    steps = parse_increasing_ints(epochs)
    if steps is None:
        return [f"lr_scheduler_step: found {epochs!r}, expected increasing epochs such as '10,20'"]
    if schedule == "step" and not steps:
        return ["lr_schedule: found 'step' with an empty lr_scheduler_step, expected epochs such as '10,20'"]
    if schedule in ("constant", "cosine") and steps:
        return [f"lr_scheduler_step: found {epochs!r} with lr_schedule {schedule!r}, expected lr_schedule 'step'"]
    return []


def parse_increasing_ints(text: str) -> Optional[Tuple[int, ...]]:
    """Parse a comma-separated increasing list of integers of at least 1; None if it is not one."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        return None
    epochs = tuple(int(part) for part in parts)
    return epochs if list(epochs) == sorted(set(epochs)) else None


def parse_increasing_floats(text: str) -> Optional[Tuple[float, ...]]:
    """Parse a comma-separated increasing list of floats in (0, LARGEST_ANCHOR]; None if it is not one."""
    numbers = [_finite_number(part) for part in text.split(",") if part.strip()]
    scales = [number for number in numbers if number is not None and 0 < number <= LARGEST_ANCHOR]
    return tuple(scales) if len(scales) == len(numbers) and scales == sorted(set(scales)) else None


def parse_class_weights(text: str) -> Optional[Dict[str, float]]:
    """Parse class weights such as a=2,b=0.5; {} for BALANCED, None if the text is neither."""
    if text == BALANCED:
        return {}
    pairs = [part.rpartition("=") for part in text.split(",") if part.strip()]
    weights = {name.strip(): _finite_number(number) or 0.0 for name, _, number in pairs}
    return weights if len(weights) == len(pairs) and all(weights) and min(weights.values(), default=1.0) > 0 else None


def did_you_mean(name: str, settings: Collection[str], flags: Collection[str]) -> str:
    """Return ", did you mean ...?" if a setting or flag has a similar name, else ""."""
    import difflib

    close = difflib.get_close_matches(name, sorted({*settings, *flags}), n=1)
    return f", did you mean {'--' if close[0] in flags else ''}{close[0]}?" if close else ""

"""The values of settings as flags, hyperparameters and JSON carry them: brought into the type of their field, held
against its limits and against each other."""

from __future__ import annotations

import re
from dataclasses import Field, field
from typing import Any, Collection, List, Mapping, Optional, Tuple

LARGEST_ANCHOR = 2.0  # of the image's side

_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


def setting(default: Any, help: str, **limits: Any) -> Any:
    """A field of TrainConfig with the limits that `checked_value` knows; `resume` says whether a resumed run may
    change it, `by_data` whether a run's data completes it."""
    return field(default=default, metadata={"help": help, **limits})


def checked_value(item: "Field[Any]", value: Any) -> Tuple[Any, str]:
    """The value in the field's type and the fault found, "" when there is none.

    Limits are the field's metadata: `low`, `high` (inclusive), `above`, `below` (exclusive), `choices`, and `aliases`,
    other spellings of the choices.
    """
    converted, expected = _convert(item, value)
    if converted is None:
        return value, f"{item.name}: found {value!r}, expected {expected}"
    limits = item.metadata
    choices = limits.get("choices")
    if choices and converted not in choices:
        return value, f"{item.name}: found {value!r}, expected one of {', '.join(c for c in choices if c)}"
    ok = (
        converted >= limits.get("low", converted)
        and converted <= limits.get("high", converted)
        and ("above" not in limits or converted > limits["above"])
        and ("below" not in limits or converted < limits["below"])
    )
    return converted, "" if ok else f"{item.name}: found {value!r}, expected {range_text(limits)}"


def _convert(item: "Field[Any]", value: Any) -> Tuple[Any, str]:
    text = str(value).strip()
    if text == "" and (item.type != "str" or "" not in item.metadata.get("choices", ("",))):
        return item.default, ""  # SageMaker sends "" for a hyperparameter left open
    if "aliases" in item.metadata:
        return item.metadata["aliases"].get(text.lower(), text), ""
    if item.type == "bool":
        lowered = text.lower()
        return (True if lowered in _TRUE else False if lowered in _FALSE else None), "true or false"
    if item.type == "int":
        return _whole_number(text), "a whole number"
    if item.type == "float":
        return _finite_number(text), "a number"
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
    """The limits of a number in words, "" where there are none."""
    parts = []
    for key, words in (("low", "at least"), ("above", "more than"), ("high", "at most"), ("below", "less than")):
        if key in limits:
            parts.append(f"{words} {limits[key]}")
    return " and ".join(parts)


def contradictions(values: Mapping[str, Any]) -> List[str]:
    """Faults of settings that are texts with a meaning, and of those that do not go with each other: a line each.
    `values` are all of TrainConfig's by name, each checked by itself."""
    faults = _schedule_faults(values["lr_schedule"], values["lr_scheduler_step"])
    if rising_shares(values["anchor_sizes"]) is None:
        faults.append(
            f"anchor_sizes: found {values['anchor_sizes']!r}, expected rising shares of the image's side, each more "
            f"than 0 and at most {LARGEST_ANCHOR:g}, such as '0.1,0.2,0.37'"
        )
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
    steps = rising_epochs(epochs)
    if steps is None:
        return [f"lr_scheduler_step: found {epochs!r}, expected rising epochs such as '10,20'"]
    if schedule == "step" and not steps:
        return ["lr_schedule: found 'step' with an empty lr_scheduler_step, expected epochs such as '10,20'"]
    if schedule in ("constant", "cosine") and steps:
        return [f"lr_scheduler_step: found {epochs!r} with lr_schedule {schedule!r}, expected lr_schedule 'step'"]
    return []


def rising_epochs(text: str) -> Optional[Tuple[int, ...]]:
    """The whole numbers of `text`, each at least 1; None when it is not a rising list of such."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        return None
    epochs = tuple(int(part) for part in parts)
    return epochs if list(epochs) == sorted(set(epochs)) else None


def rising_shares(text: str) -> Optional[Tuple[float, ...]]:
    """The numbers of `text`, more than 0 and at most LARGEST_ANCHOR; None when it is not a rising list of such."""
    numbers = [_finite_number(part) for part in text.split(",") if part.strip()]
    shares = [number for number in numbers if number is not None and 0 < number <= LARGEST_ANCHOR]
    return tuple(shares) if len(shares) == len(numbers) and shares == sorted(set(shares)) else None


def did_you_mean(name: str, settings: Collection[str], flags: Collection[str]) -> str:
    """`, did you mean ...?` where an unknown name is close to one of the settings or flags, else ""."""
    import difflib

    close = difflib.get_close_matches(name, sorted({*settings, *flags}), n=1)
    return f", did you mean {'--' if close[0] in flags else ''}{close[0]}?" if close else ""

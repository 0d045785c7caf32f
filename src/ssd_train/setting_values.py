"""The values of settings as flags, hyperparameters and JSON carry them, brought into the type of their field."""

from __future__ import annotations

from dataclasses import Field
from typing import Any, Mapping, Optional, Tuple

_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


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


def rising_shares(text: str, largest: float) -> Optional[Tuple[float, ...]]:
    """The numbers of `text`, more than 0 and at most `largest`; None when it is not a rising list of such."""
    numbers = [_finite_number(part) for part in text.split(",") if part.strip()]
    shares = [number for number in numbers if number is not None and 0 < number <= largest]
    return tuple(shares) if len(shares) == len(numbers) and shares == sorted(set(shares)) else None

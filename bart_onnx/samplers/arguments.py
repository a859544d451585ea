"""What every sampler checks of its arguments when it is made. It knows no sampler."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from bart_onnx.errors import InputError, InputTypeError


def checked_temperature(value: Any) -> float:
    """A finite number above 0."""
    temperature = _number("temperature", value)
    if not 0 < temperature < math.inf:
        raise InputError(
            f"temperature must be above 0 and finite, found {value!r}; for the likeliest token at "
            "every step use the greedy sampler."
        )
    return temperature


def checked_share(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    share = _number(name, value)
    if not 0 <= share <= 1:
        raise InputError(f"{name} must lie between 0 and 1, found {value!r}.")
    return share


def checked_count(name: str, value: Any) -> int:
    """An integer of at least 1."""
    if not _is_integer(value):
        raise InputTypeError(f"{name} must be an integer, found {value!r}.")
    if value < 1:
        raise InputError(f"{name} must be at least 1, found {value}.")
    return int(value)


def checked_flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise InputTypeError(f"{name} must be True or False, found {value!r}.")
    return value


def checked_seed(value: Any) -> int | None:
    """None or an integer of at least 0."""
    if value is None:
        return None
    if not _is_integer(value):
        raise InputTypeError(f"seed must be None or an integer, found {value!r}.")
    if value < 0:
        raise InputError(f"seed must be at least 0, found {value}.")
    return int(value)


def check_fits(name: str, value: int, vocabulary_size: int) -> None:
    """Refuse a choice among more tokens than there are."""
    if value > vocabulary_size:
        raise InputError(
            f"{name} is {value}, but the vocabulary has {vocabulary_size} tokens. Give at most "
            f"{vocabulary_size}."
        )


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputTypeError(f"{name} must be a number, found {value!r}.")
    return float(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)

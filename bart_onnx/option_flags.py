"""A command-line flag for every option of DecodingOptions that can be written down.

They come from the dataclass: names from its fields, values from their types, help from its
docstring.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from bart_onnx.decoding.option_checks import CHECKS
from bart_onnx.decoding.options import DecodingOptions

_BAD_WORDS = "bad_words"


def add_option_flags(parser: argparse.ArgumentParser) -> None:
    """Add them all; one that is not given leaves None, for the generation config to decide."""
    group = parser.add_argument_group(
        "decoding", "what is not given is as the checkpoint's generation config says"
    )
    explained = _explained()
    for field in dataclasses.fields(DecodingOptions):
        kind = _KINDS.get(str(field.type))
        if kind is not None:
            said = explained.get(field.name, "").replace("%", "%%")
            group.add_argument(flag(field.name), help=said, **{"default": None, **kind})
    words: dict[str, Any] = {"action": "append", "metavar": "WORD"}
    group.add_argument(flag(_BAD_WORDS), help="a word that must not come; repeatable", **words)


def asked_options(values: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by name.

    Raises:
        InputError, InputTypeError: a value out of its range.
    """
    names = [field.name for field in dataclasses.fields(DecodingOptions)]
    given = {name: getattr(values, name, None) for name in [*names, _BAD_WORDS]}
    asked = {name: value for name, value in given.items() if value is not None}
    for name, value in asked.items():
        if name in CHECKS:
            CHECKS[name](name, value)
    return asked


def flag(name: str) -> str:
    """An option as it is written on a command line."""
    return f"--{name.replace('_', '-')}"


def _explained() -> dict[str, str]:
    """Option -> its line in the docstring of DecodingOptions; one line may explain several."""
    found: dict[str, str] = {}
    entry = r"^ {8}([a-z_]+(?:,\s+[a-z_]+)*): (.*(?:\n {12}.*)*)"
    for names, text in re.findall(entry, DecodingOptions.__doc__ or "", re.MULTILINE):
        said = " ".join(text.split()).rstrip(".")
        found |= dict.fromkeys(re.split(r",\s+", names), said)
    return found


def _stopping(text: str) -> bool | str:
    known: Mapping[str, bool | str] = {"true": True, "false": False, "never": "never"}
    if text not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(known)}")
    return known[text]


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(",")) if text else ()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of ids such as 3,5") from None


def _pair(text: str) -> tuple[int, float]:
    try:
        start, factor = text.split(",")
        return int(start), float(factor)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no pair such as 20,1.1") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not JSON: {error}") from None


_INTEGER: Mapping[str, Any] = {"type": int, "metavar": "N"}
_NUMBER: Mapping[str, Any] = {"type": float, "metavar": "X"}

# A field's type -> how argparse reads it. Fields of other types, which are functions, have no flag.
_KINDS: Mapping[str, Mapping[str, Any]] = {
    "int": _INTEGER,
    "int | None": _INTEGER,
    "float": _NUMBER,
    "float | None": _NUMBER,
    "bool": {"action": argparse.BooleanOptionalAction},
    "bool | Literal['never']": {"type": _stopping, "metavar": "true|false|never"},
    "tuple[int, ...]": {"type": _ids, "metavar": "ID,ID,..."},
    "tuple[int, float] | None": {"type": _pair, "metavar": "START,FACTOR"},
    "tuple[str, ...]": {"action": "append", "metavar": "TEXT"},
    "tuple[tuple[int, ...], ...]": {"type": _json, "metavar": "JSON"},
    "tuple[tuple[tuple[int, ...], float], ...]": {"type": _json, "metavar": "JSON"},
}

"""The options of a BartTokenizer, checked once, and their Keras config. It knows no vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bart_onnx.bpe import SPECIAL_TOKENS, AddedToken
from bart_onnx.errors import InputError, InputTypeError
from bart_onnx.text_inputs import describe

_INTEGER_NAME = re.compile(r"u?int(8|16|32|64|p|c)?|[<>=|]?[iu][1248]")
# Rows are as wide as a file says, so that it may not say more than any model reads.
LONGEST = 1 << 16
DEFAULT_ADDED_TOKENS = tuple(AddedToken(content) for content in SPECIAL_TOKENS)


@dataclass(frozen=True)
class TokenizerOptions:
    """How a BartTokenizer cuts text and gives out ids; its docstring says what each field means.

    Attributes:
        cuts: the tokens that text is cut at: `unsplittable_tokens` with their rules.
    """

    dtype: str
    add_prefix_space: bool
    added_tokens: tuple[AddedToken, ...]
    cuts: tuple[AddedToken, ...]
    unknown_token: str | None

    @classmethod
    def checked(
        cls,
        *,
        dtype: object,
        add_prefix_space: bool,
        unsplittable_tokens: Iterable[str] | None,
        added_tokens: Iterable[AddedToken | Mapping[str, Any]] | None,
        unknown_token: str | None,
    ) -> TokenizerOptions:
        """Options from the constructor's arguments.

        Raises:
            InputTypeError: an argument of the wrong type.
        """
        if not isinstance(add_prefix_space, bool):
            raise InputTypeError(
                f"add_prefix_space must be true or false, found {describe(add_prefix_space)}."
            )
        if unknown_token is not None and not isinstance(unknown_token, str):
            raise InputTypeError(
                f"unknown_token must be a str or None, found {describe(unknown_token)}."
            )
        added = _checked_added_tokens(added_tokens)
        cuts = _checked_cuts(unsplittable_tokens, added)
        return cls(_checked_dtype(dtype), add_prefix_space, added, cuts, unknown_token)

    @property
    def special_tokens(self) -> list[str]:
        """Start, end and pad, then the other special tokens in their order."""
        more = [token.content for token in self.added_tokens if token.special]
        return list(dict.fromkeys([*SPECIAL_TOKENS, *more]))

    def to_config(self) -> dict[str, Any]:
        """The options under KerasHub's names, ready for JSON."""
        config: dict[str, Any] = {
            "dtype": keras_dtype(self.dtype),
            "add_prefix_space": self.add_prefix_space,
            "unsplittable_tokens": [cut.content for cut in self.cuts],
        }
        # Written only where they say something, because KerasHub refuses keys that it lacks.
        if self.added_tokens != DEFAULT_ADDED_TOKENS:
            config["added_tokens"] = [dict(vars(token)) for token in self.added_tokens]
        if self.unknown_token is not None:
            config["unknown_token"] = self.unknown_token
        return config


def keras_dtype(name: str) -> dict[str, Any]:
    """A dtype as Keras writes it into a config."""
    return {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": name},
        "registered_name": None,
    }


def _checked_dtype(dtype: object) -> str:
    """The name of an integer type, or "string"; Keras' serialized policies are read too."""
    given = dtype
    if isinstance(dtype, Mapping):
        inner = dtype.get("config")
        dtype = inner.get("name") if isinstance(inner, Mapping) else None
    if dtype == "string" or dtype is str:
        return "string"
    # numpy takes more texts than names: some it parses as Python, some it warns of.
    named = isinstance(dtype, str) and _INTEGER_NAME.fullmatch(dtype)
    is_type = isinstance(dtype, type | np.dtype)
    try:
        found = np.dtype(dtype) if named or is_type else None  # type: ignore[call-overload]
    except (TypeError, ValueError):
        found = None
    if found is None or found.kind not in "iu":
        raise InputTypeError(
            f"Output dtype must be an integer type or a string. Received: dtype={given!s:.200}"
        )
    return str(found.name)


def check_ids_fit(dtype: str, largest_id: int) -> None:
    """Raise InputError where an integer type cannot hold an id."""
    if dtype != "string" and largest_id > np.iinfo(dtype).max:
        raise InputError(f"dtype {dtype} cannot hold the id {largest_id}; choose int32.")


def checked_length(value: object, name: str, *, least: int) -> int:
    """A length as int.

    Raises:
        InputTypeError: no int.
        InputError: less than `least`, or more than `LONGEST`.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise InputTypeError(f"{name} must be an int, found {describe(value)}.")
    if value < least:
        raise InputError(f"{name} must be at least {least}, found {value}.")
    if value > LONGEST:
        raise InputError(f"{name} must be at most {LONGEST}, found {value!s:.40}.")
    return int(value)


def _checked_added_tokens(
    tokens: Iterable[AddedToken | Mapping[str, Any]] | None,
) -> tuple[AddedToken, ...]:
    if tokens is None:
        return DEFAULT_ADDED_TOKENS
    if isinstance(tokens, str | bytes | Mapping) or not isinstance(tokens, Iterable):
        raise InputTypeError(
            f"added_tokens must be a list of AddedToken, found {describe(tokens)}."
        )
    try:
        return tuple(t if isinstance(t, AddedToken) else AddedToken(**t) for t in tokens)
    except TypeError as error:
        raise InputTypeError(f"added_tokens holds what is no AddedToken: {error}.") from error


def _checked_cuts(
    contents: Iterable[str] | None, added_tokens: tuple[AddedToken, ...]
) -> tuple[AddedToken, ...]:
    """The tokens to cut text at, with the rules of those added tokens that have any."""
    if contents is None:
        return added_tokens
    if isinstance(contents, str | bytes) or not isinstance(contents, Iterable):
        raise InputTypeError(
            f"unsplittable_tokens must be a list of tokens, found {describe(contents)}."
        )
    rules = {token.content: token for token in added_tokens}
    return tuple(
        rules[content] if isinstance(content, str) and content in rules else AddedToken(content)
        for content in contents
    )

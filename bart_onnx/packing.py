"""Token rows to padded arrays, and what becomes of rows that do not fit. It knows no text.

The rows of this module are token ids without special tokens, which are added here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import InputError, InputTooLongError, InputTruncatedWarning

LongInput = Literal["truncate", "error"]

ENCODER_SPECIALS = 2  # <s> </s>
PROMPT_SPECIALS = 2  # </s> <s>
_ROWS_NAMED = 5


def packed(
    rows: list[list[int]], head: list[int], tail: list[int], length: int, pad: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Ids and mask [rows, length]; tokens are cut on the right so that head and tail fit."""
    ids = np.full((len(rows), length), pad, np.int32)
    mask = np.zeros((len(rows), length), np.bool_)
    room = length - len(head) - len(tail)
    for index, row in enumerate(rows):
        tokens = [*head, *row[:room], *tail]
        ids[index, : len(tokens)] = tokens
        mask[index, : len(tokens)] = True
    return ids, mask


def fit_encoder_rows(rows: list[list[int]], length: int, long_input: LongInput) -> list[list[int]]:
    """The rows, none of more tokens than `length` holds beside `<s>` and `</s>`.

    Raises:
        InputTooLongError: a row is too long and `long_input` is "error".
        InputError: an unknown `long_input`.
    """
    treat = _LONG_INPUT[checked_long_input(long_input)]
    room = length - ENCODER_SPECIALS
    return treat(rows, length) if any(len(row) > room for row in rows) else rows


def checked_long_input(value: LongInput) -> LongInput:
    """The word itself. Raises InputError where it is unknown."""
    if value not in tuple(_LONG_INPUT):
        known = ", ".join(repr(word) for word in _LONG_INPUT)
        raise InputError(f"long_input {value!r} is unknown; known are {known}.")
    return value


def _cut(rows: list[list[int]], length: int) -> list[list[int]]:
    room = length - ENCODER_SPECIALS
    lost = [(index, len(row) - room) for index, row in enumerate(rows) if len(row) > room]
    named = ", ".join(f"row {index} lost {count} tokens" for index, count in lost[:_ROWS_NAMED])
    more = f", and {len(lost) - _ROWS_NAMED} more rows some" if len(lost) > _ROWS_NAMED else ""
    warnings.warn(
        f"encoder_text was cut to encoder_sequence_length {length}: {named}{more}. Shorten the "
        "text, raise encoder_sequence_length up to the model's positions, or pass "
        'long_input="error" to refuse such text.',
        InputTruncatedWarning,
        stacklevel=5,
    )
    return [row[:room] for row in rows]


def _refuse(rows: list[list[int]], length: int) -> list[list[int]]:
    index, row = next(
        (index, row) for index, row in enumerate(rows) if len(row) > length - ENCODER_SPECIALS
    )
    raise InputTooLongError(
        f"encoder_text row {index} has {len(row) + ENCODER_SPECIALS} tokens with its special "
        f"tokens, but encoder_sequence_length is {length}. Shorten the text, raise "
        "encoder_sequence_length up to the model's positions, or pass "
        'long_input="truncate" to cut it.'
    )


_LONG_INPUT: dict[str, Callable[[list[list[int]], int], list[list[int]]]] = {
    "truncate": _cut,
    "error": _refuse,
}

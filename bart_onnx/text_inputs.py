"""What callers pass as text or token ids, brought to lists. It knows no vocabulary.

Arrays and tensors of other libraries are read through `__array__`; none of them is imported.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import InputError, InputKeyError, InputTypeError


def as_texts(value: object, name: str) -> tuple[list[str], bool]:
    """Bring one text or a batch of texts to a list of str.

    Args:
        value: str or UTF-8 bytes; a list, tuple or rank 1 array of them; a rank 0 array of one.
        name: what the caller calls the value, for messages.

    Returns:
        The texts, and whether they came as a batch.

    Raises:
        InputTypeError: something else was passed.
        InputError: bytes that are not UTF-8.
    """
    value = _from_array(value, name, max_rank=1)
    if isinstance(value, str | bytes):
        return [_as_text(value, name)], False
    if isinstance(value, list | tuple):
        return [_as_text(item, f"{name}[{index}]") for index, item in enumerate(value)], True
    raise InputTypeError(
        f"{name} must be a text or a list of texts, found {describe(value)}. "
        "Pass a str, UTF-8 bytes, or a list, tuple or array of them."
    )


def prefixed(texts: Any, prefix: str) -> Any:
    """One text or a batch of them, each after `prefix`; unchanged where there is none."""
    if not prefix:
        return texts
    known, batched = as_texts(texts, "documents")
    found = [prefix + text for text in known]
    return found if batched else found[0]


def as_text_pairs(x: Mapping[str, Any]) -> tuple[list[str], list[str], bool]:
    """Encoder texts, decoder texts, and whether either came as a batch.

    Raises:
        InputKeyError: one of "encoder_text" and "decoder_text" is missing.
        InputTypeError: one of them is no text.
        InputError: there are not as many of one as of the other.
    """
    encoder, encoder_batched = as_texts(entry(x, "encoder_text"), "encoder_text")
    decoder, decoder_batched = as_texts(entry(x, "decoder_text"), "decoder_text")
    if len(encoder) != len(decoder):
        raise InputError(
            f"encoder_text has {len(encoder)} texts, but decoder_text has {len(decoder)}; "
            "each needs its partner."
        )
    return encoder, decoder, encoder_batched or decoder_batched


def entry(x: Mapping[str, Any], name: str) -> Any:
    """What a mapping holds under a name. Raises InputKeyError where it holds nothing."""
    if not isinstance(x, Mapping):
        raise InputTypeError(f"Pass a mapping with {name}, found {describe(x)}.")
    if name not in x:
        found = ", ".join(str(key) for key in x) or "nothing"
        raise InputKeyError(f"{name} is missing; found {found}. Add it.")
    return x[name]


def as_id_rows(value: object, name: str) -> tuple[list[list[int]], bool]:
    """Bring token ids to a list of rows.

    Args:
        value: an int, a list or tuple of ints or of rows, or an integer array of rank 0 to 2.
        name: what the caller calls the value, for messages.

    Returns:
        The rows, and whether they came as a batch.

    Raises:
        InputTypeError: something else was passed.
    """
    value = _from_array(value, name, max_rank=2)
    if _is_id(value):
        return [_as_row([value], name)], False
    if not isinstance(value, list | tuple):
        raise _not_ids(value, name)
    if not value or _is_id(value[0]):
        return [_as_row(value, name)], False
    rows = []
    for index, row in enumerate(value):
        row = _from_array(row, f"{name}[{index}]", max_rank=1)
        if not isinstance(row, list | tuple):
            raise _not_ids(row, f"{name}[{index}]")
        rows.append(_as_row(row, f"{name}[{index}]"))
    return rows, True


def as_integer_array(value: object, name: str) -> NDArray[Any]:
    """Bring integers or bools to an array of rank 1 or 2.

    Raises:
        InputTypeError: other values, another rank, or rows of different lengths.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputTypeError(
            f"{name} must be an array, found rows of different lengths. Pad them first."
        ) from error
    if array.size == 0 and array.dtype == np.float64:
        array = array.astype(np.int32)  # numpy's type for an empty list
    if array.dtype.kind not in "iub" or array.ndim not in (1, 2):
        raise InputTypeError(
            f"{name} must be integers of rank 1 or 2, found {array.dtype} of shape {array.shape}."
        )
    return array


def describe(value: object) -> str:
    """A value for a message: its type and a shortened repr."""
    return f"{type(value).__name__} {reprlib.repr(value)}"


def _from_array(value: object, name: str, max_rank: int) -> object:
    """Arrays as Python lists or scalars; everything else as it is."""
    if isinstance(value, str | bytes | list | tuple) or not hasattr(value, "__array__"):
        return value
    array = np.asarray(value)
    if array.ndim > max_rank:
        raise InputTypeError(
            f"{name} must have at most rank {max_rank}, found an array of shape {array.shape}."
        )
    if max_rank == 2 and array.size and array.dtype.kind not in "iu":
        raise _not_ids(array, name)
    return array.tolist()


def _as_text(item: object, name: str) -> str:
    if isinstance(item, str):
        return str(item)
    if isinstance(item, bytes):
        try:
            return item.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{name} is bytes that are not UTF-8: {error}. Decode them.") from None
    raise InputTypeError(f"{name} must be a str or UTF-8 bytes, found {describe(item)}.")


def _as_row(items: list[Any] | tuple[Any, ...], name: str) -> list[int]:
    for item in items:
        if not _is_id(item):
            raise _not_ids(item, name)
    return [int(item) for item in items]


def _is_id(item: object) -> bool:
    return isinstance(item, Integral) and not isinstance(item, bool)


def _not_ids(value: object, name: str) -> InputTypeError:
    return InputTypeError(
        f"{name} must be token ids, found {describe(value)}. "
        "Pass an int, a list of ints or of rows, or an integer array of rank 0 to 2."
    )

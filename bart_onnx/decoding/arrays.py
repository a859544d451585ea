"""From a caller's arrays to Prompts and back: every shape, dtype and id is checked here, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig
from bart_onnx.decoding.loop import Generated, Prompts
from bart_onnx.errors import InputError, InputTooLongError, InputTypeError

_SIDES = ("encoder", "decoder")


def checked_prompts(inputs: Any, config: BartConfig) -> Prompts:
    """Prompts from token ids and padding masks of both sides.

    Args:
        inputs: "encoder_token_ids", "encoder_padding_mask", "decoder_token_ids" and
            "decoder_padding_mask", each [rows, length], masks int or bool.

    Raises:
        InputTypeError: not a mapping of integer arrays.
        InputError: an array is missing; shapes disagree; a mask is not ones followed by zeros; a
            row is empty; an id lies outside the vocabulary.
        InputTooLongError: more columns that count than the model has positions.
    """
    if not isinstance(inputs, Mapping):
        raise InputTypeError(
            "Without a preprocessor, generate takes a dict of arrays, found "
            f"{type(inputs).__name__}. Keys: {', '.join(_keys())}."
        )
    missing = [key for key in _keys() if key not in inputs]
    if missing:
        raise InputError(f"The inputs lack {', '.join(missing)}.")
    encoder_token_ids, encoder_lengths = _side("encoder", inputs, config)
    decoder_token_ids, prompt_lengths = _side("decoder", inputs, config)
    if len(encoder_token_ids) != len(decoder_token_ids):
        raise InputError(
            f"encoder_token_ids has {len(encoder_token_ids)} rows and decoder_token_ids has "
            f"{len(decoder_token_ids)}; give as many of each."
        )
    if decoder_token_ids.shape[1] > config.max_sequence_length:
        raise InputTooLongError(
            f"decoder_token_ids is {decoder_token_ids.shape[1]} wide; this model has "
            f"{config.max_sequence_length} positions."
        )
    return Prompts(encoder_token_ids, encoder_lengths, decoder_token_ids, prompt_lengths)


def merge_results(inputs: Mapping[str, Any], generated: Generated) -> dict[str, NDArray[Any]]:
    """Token ids in the dtype of the inputs', and the mask of those that count, bool."""
    token_ids = generated.token_ids
    columns = np.arange(token_ids.shape[1])
    return {
        "decoder_token_ids": token_ids.astype(np.asarray(inputs["decoder_token_ids"]).dtype),
        "decoder_padding_mask": columns < generated.lengths[:, None],
    }


def _keys() -> list[str]:
    return [f"{side}_{kind}" for side in _SIDES for kind in ("token_ids", "padding_mask")]


def _side(
    side: str, inputs: Mapping[str, Any], config: BartConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and row lengths of one side."""
    names = f"{side}_token_ids", f"{side}_padding_mask"
    token_ids, mask = (_matrix(name, inputs[name]) for name in names)
    if token_ids.shape != mask.shape:
        raise InputError(
            f"{names[0]} has shape {token_ids.shape} and {names[1]} has shape {mask.shape}; they "
            "must be equal."
        )
    visible = mask.astype(bool)
    lengths = visible.sum(axis=1)
    gaps = (visible != (np.arange(mask.shape[1]) < lengths[:, None])).any(axis=1)
    if gaps.any():
        raise InputError(
            f"{names[1]} of row {int(gaps.argmax())} has a gap; pad rows on the right."
        )
    if not lengths.all():
        raise InputError(f"Row {int(lengths.argmin())} of {names[1]} is all zeros; give a token.")
    _check_ids(names[0], token_ids, visible, config.vocabulary_size)
    _check_longest(names[0], lengths, config.max_sequence_length)
    if side == "encoder":
        token_ids = np.where(visible, token_ids, config.pad_token_id)
    return token_ids, lengths.astype(np.int64)


def _matrix(name: str, value: Any) -> NDArray[np.int64]:
    array = np.asarray(value)
    if array.ndim != 2:
        raise InputError(f"{name} must have shape [rows, length], found {array.shape}.")
    if array.dtype.kind not in "iub":
        raise InputTypeError(f"{name} must hold integers, found {array.dtype}.")
    return array.astype(np.int64)


def _check_ids(
    name: str, token_ids: NDArray[np.int64], visible: NDArray[np.bool_], vocabulary_size: int
) -> None:
    outside = visible & ((token_ids < 0) | (token_ids >= vocabulary_size))
    if outside.any():
        row, column = (int(index[0]) for index in np.nonzero(outside))
        raise InputError(
            f"{name}[{row}, {column}] is {token_ids[row, column]}; this model's ids are 0 to "
            f"{vocabulary_size - 1}."
        )


def _check_longest(name: str, lengths: NDArray[np.int_], limit: int) -> None:
    if lengths.max(initial=0) > limit:
        raise InputTooLongError(
            f"Row {int(lengths.argmax())} of {name} has {lengths.max()} tokens; this model has "
            f"{limit} positions. Shorten it."
        )

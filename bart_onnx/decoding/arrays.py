"""From a caller's arrays to Prompts and back: every shape, dtype and id is checked here, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig
from bart_onnx.decoding.prompts import Generated, IdArray, Prompts
from bart_onnx.errors import InputError, InputKeyError, InputTooLongError, InputTypeError

_SIDES = ("encoder", "decoder")


def checked_prompts(inputs: Any, config: BartConfig) -> Prompts:
    """Prompts from token ids and padding masks of both sides.

    Args:
        inputs: "encoder_token_ids", "encoder_padding_mask", "decoder_token_ids" and
            "decoder_padding_mask", each [rows, length], masks int or bool.

    Raises:
        InputTypeError: not a mapping of integer arrays.
        InputKeyError: an array is missing.
        InputError: shapes disagree; a mask is not ones followed by zeros; a
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
        raise InputKeyError(f"The inputs lack {', '.join(missing)}. Add what is missing.")
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


def checked_sources(inputs: Any, config: BartConfig) -> tuple[list[IdArray], list[IdArray] | None]:
    """Ids of each row's source, and of its prompt; None where the decoder's arrays are absent.

    Args:
        inputs: as `checked_prompts` takes them; "decoder_token_ids" and "decoder_padding_mask"
            may both be absent.

    Raises:
        InputTypeError, InputKeyError, InputError, InputTooLongError: as `checked_prompts`.
    """
    if isinstance(inputs, Mapping) and not any(name in inputs for name in _keys()[2:]):
        missing = [name for name in _keys()[:2] if name not in inputs]
        if missing:
            raise InputKeyError(f"The inputs lack {', '.join(missing)}. Add what is missing.")
        token_ids, lengths = _side("encoder", inputs, config)
        return _rows(token_ids, lengths), None
    prompts = checked_prompts(inputs, config)
    sources = _rows(prompts.encoder_token_ids, prompts.encoder_lengths)
    return sources, _rows(prompts.decoder_token_ids, prompts.prompt_lengths)


def _rows(token_ids: IdArray, lengths: IdArray) -> list[IdArray]:
    return [ids[:length] for ids, length in zip(token_ids, lengths.tolist(), strict=True)]


def merge_results(
    inputs: Mapping[str, Any], prompts: Prompts, generated: Generated, strip_prompt: bool, pad: int
) -> dict[str, NDArray[Any]]:
    """What generate() gives for arrays.

    Args:
        inputs: what the prompts were made of; the ids keep its dtype.
        strip_prompt: leave the prompts out: what follows stands at the left, padded with `pad`.

    Returns:
        "decoder_token_ids" and "decoder_padding_mask", bool, which of them count, [rows, width];
        with all beams [rows, num_beams, width], and "log_probs", float32 [rows, num_beams].
    """
    beams = generated.beams
    token_ids = generated.token_ids if beams is None else beams.token_ids
    ends = generated.lengths if beams is None else beams.lengths
    columns = np.arange(token_ids.shape[-1])
    if strip_prompt:
        starts = prompts.prompt_lengths.reshape(-1, *[1] * (ends.ndim - 1))
        ends = ends - starts
        shifted = np.minimum(columns + starts[..., None], len(columns) - 1)
        token_ids = np.take_along_axis(token_ids, shifted, axis=-1)
        token_ids = np.where(columns < ends[..., None], token_ids, pad)
    dtype = np.asarray(inputs["decoder_token_ids"]).dtype
    results: dict[str, NDArray[Any]] = {
        "decoder_token_ids": token_ids.astype(dtype),
        "decoder_padding_mask": columns < ends[..., None],
    }
    return results if beams is None else {**results, "log_probs": beams.log_probs}


def joined(results: Sequence[Mapping[str, NDArray[Any]]], pad: int) -> dict[str, NDArray[Any]]:
    """The rows of all results, in order; narrower ones are padded on the right."""
    if not results:
        nothing = np.zeros((0, 0), np.int32)
        return {"decoder_token_ids": nothing, "decoder_padding_mask": nothing.astype(bool)}
    fills = {"decoder_token_ids": pad, "decoder_padding_mask": False}
    widest = max(result["decoder_token_ids"].shape[-1] for result in results)
    whole = {}
    for name in results[0]:
        parts = [result[name] for result in results]
        if name in fills:
            parts = [_widened(part, widest, fills[name]) for part in parts]
        whole[name] = np.concatenate(parts)
    return whole


def _widened(array: NDArray[Any], width: int, fill: int) -> NDArray[Any]:
    missing = [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])]
    return np.pad(array, missing, constant_values=fill)


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

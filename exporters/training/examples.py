"""Training examples: the arrays that fit takes, checked once. It knows no torch and no text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig
from bart_onnx.errors import InputError, InputKeyError, InputTooLongError, InputTypeError

_SIDES = ("encoder", "decoder")


@dataclass(frozen=True)
class Sequences:
    """Token ids of the two sides, padded on the right.

    Attributes:
        encoder_token_ids: int64 [rows, source_width].
        encoder_lengths: int64 [rows], tokens that are no padding, at least 1.
        decoder_token_ids: int64 [rows, width].
        decoder_lengths: int64 [rows], at least 1.
    """

    encoder_token_ids: NDArray[np.int64]
    encoder_lengths: NDArray[np.int64]
    decoder_token_ids: NDArray[np.int64]
    decoder_lengths: NDArray[np.int64]

    @classmethod
    def checked(cls, x: Any, config: BartConfig) -> Sequences:
        """From KerasHub's four arrays, "encoder_token_ids" to "decoder_padding_mask".

        Raises:
            InputTypeError: no mapping of integer arrays.
            InputKeyError: an array is missing.
            InputError: no rows, shapes that disagree, a mask that is not ones followed by zeros,
                an empty row, an id outside the vocabulary.
            InputTooLongError: more columns than positions.
        """
        if not isinstance(x, Mapping):
            raise InputTypeError(
                f"x must be a dict of arrays, found {type(x).__name__}. Its keys are "
                "encoder_token_ids, encoder_padding_mask, decoder_token_ids and "
                "decoder_padding_mask."
            )
        (sources, source_lengths), (targets, lengths) = (_side(x, side, config) for side in _SIDES)
        if len(sources) != len(targets):
            raise InputError(
                f"encoder_token_ids has {len(sources)} rows and decoder_token_ids has "
                f"{len(targets)}; give as many of each."
            )
        return cls(sources, source_lengths, targets, lengths)

    def __len__(self) -> int:
        return len(self.encoder_token_ids)


@dataclass(frozen=True)
class Examples:
    """Sequences with what the decoder is to say at each place, and how much each place counts.

    Attributes:
        sequences: the model's inputs.
        targets: int64 [rows, width], shaped as the decoder's ids.
        weights: float32 [rows, width], 0 where a place does not count.
    """

    sequences: Sequences
    targets: NDArray[np.int64]
    weights: NDArray[np.float32]

    @classmethod
    def checked(cls, x: Any, y: Any, sample_weight: Any = None, *, config: BartConfig) -> Examples:
        """From arrays as `BartSeq2SeqLMPreprocessor` makes them.

        Args:
            x: see `Sequences.checked`.
            y: integer [rows, width].
            sample_weight: numbers or bools [rows, width], or [rows] for whole rows; None counts
                every place, padding included, as Keras does.
            config: of the model that is to be trained.

        Raises:
            InputTypeError, InputKeyError, InputError, InputTooLongError: as the message says.
        """
        sequences = Sequences.checked(x, config)
        shape = sequences.decoder_token_ids.shape
        targets = _integers(y, "y")
        if targets.shape != shape:
            raise InputError(
                f"y has shape {targets.shape}, but decoder_token_ids has {shape}; y holds the id "
                "that follows each of them, so give equal shapes."
            )
        _check_ids(targets, "y", config)
        return cls(sequences, targets, _weights(sample_weight, shape))

    def __len__(self) -> int:
        return len(self.sequences)

    def fingerprint(self) -> str:
        """A sha256 of all arrays, which tells these examples from others."""
        digest = hashlib.sha256()
        for array in (*vars(self.sequences).values(), self.targets, self.weights):
            digest.update(str((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def split(self, share: float) -> tuple[Examples, Examples]:
        """The first rows and the last `share` of them, as Keras' `validation_split`.

        Raises:
            InputError: a part would be empty.
        """
        numeric = isinstance(share, int | float) and not isinstance(share, bool)
        first = int(len(self) * (1.0 - share)) if numeric and 0 < share < 1 else 0
        if not 0 < first < len(self):
            raise InputError(
                f"validation_split is {share!r}, which leaves no rows to train or to validate "
                f"with: there are {len(self)}. Give a share between 0 and 1."
            )
        return self._rows(slice(None, first)), self._rows(slice(first, None))

    def _rows(self, rows: slice) -> Examples:
        sequences = Sequences(*(array[rows] for array in vars(self.sequences).values()))
        return Examples(sequences, self.targets[rows], self.weights[rows])


def _side(
    x: Mapping[str, Any], side: str, config: BartConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and lengths of one side."""
    ids_name, mask_name = f"{side}_token_ids", f"{side}_padding_mask"
    missing = [name for name in (ids_name, mask_name) if name not in x]
    if missing:
        raise InputKeyError(f"x lacks {' and '.join(missing)}; found {', '.join(map(str, x))}.")
    ids, mask = _integers(x[ids_name], ids_name), _integers(x[mask_name], mask_name)
    if ids.shape != mask.shape:
        raise InputError(
            f"{ids_name} has shape {ids.shape}, but {mask_name} has {mask.shape}; give equal ones."
        )
    if not ids.size:
        raise InputError(f"{ids_name} has shape {ids.shape}: no tokens to train on. Give rows.")
    if ids.shape[1] > config.max_sequence_length:
        raise InputTooLongError(
            f"{ids_name} is {ids.shape[1]} wide; this model has {config.max_sequence_length} "
            "positions. Set the preprocessor's sequence length to at most that."
        )
    _check_ids(ids, ids_name, config)
    real = mask != 0
    lengths = real.sum(axis=1)
    wrong = (np.arange(ids.shape[1]) < lengths[:, None]) != real
    if wrong.any() or not lengths.all():
        row = int((wrong.any(axis=1) | (lengths == 0)).argmax())
        raise InputError(
            f"Row {row} of {mask_name} is {mask[row].tolist()[:16]}; each row must be ones "
            "followed by zeros, with at least one 1. Put padding on the right."
        )
    return ids, lengths


def _integers(value: Any, name: str) -> NDArray[np.int64]:
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{name} has rows of unequal length; pad them to one width.") from None
    if array.dtype.kind not in "iub":
        raise InputTypeError(f"{name} must be integers, found an array of {array.dtype}.")
    if array.ndim != 2:
        raise InputError(f"{name} must have two axes, rows and places; found shape {array.shape}.")
    return array.astype(np.int64)


def _check_ids(ids: NDArray[np.int64], name: str, config: BartConfig) -> None:
    outside = (ids < 0) | (ids >= config.vocabulary_size)
    if outside.any():
        row, place = (int(index[0]) for index in np.nonzero(outside))
        raise InputError(
            f"{name} holds the id {ids[row, place]} in row {row}, place {place}, but the model's "
            f"vocabulary has ids 0 to {config.vocabulary_size - 1}. Use the model's own tokenizer."
        )


def _weights(sample_weight: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if sample_weight is None:
        return np.ones(shape, np.float32)
    weights = np.asarray(sample_weight)
    if weights.dtype.kind not in "biuf":
        raise InputTypeError(f"sample_weight must be numbers, found an array of {weights.dtype}.")
    if weights.shape == shape[:1]:
        weights = np.broadcast_to(weights[:, None], shape)
    if weights.shape != shape:
        raise InputError(
            f"sample_weight has shape {weights.shape}; give {shape} as y has, or {shape[:1]}."
        )
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError("sample_weight holds a negative number or none; give numbers from 0 on.")
    return weights.astype(np.float32)

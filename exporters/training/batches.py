"""Batches of training examples: their order, and the cut to the longest row. It knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.training.examples import Examples, Sequences


@dataclass(frozen=True)
class Batch:
    """Some rows on a device, cut on the right to their longest.

    Attributes:
        encoder_token_ids: int64 [rows, source_length].
        encoder_lengths: int64 [rows].
        decoder_token_ids: int64 [rows, length].
        decoder_lengths: int64 [rows].
        tokens: real tokens, both sides together.
    """

    encoder_token_ids: Tensor
    encoder_lengths: Tensor
    decoder_token_ids: Tensor
    decoder_lengths: Tensor
    tokens: int


@dataclass(frozen=True)
class TargetBatch(Batch):
    """Rows with targets.

    Attributes:
        targets: int64 [rows, length].
        weights: float32 [rows, length].
        places: rows times the width before the cut, which Keras divides the loss by.
    """

    targets: Tensor
    weights: Tensor
    places: int


def epoch_order(
    examples: Examples, batch_size: int, *, seed: int | None, epoch: int, bucket_batches: int
) -> list[NDArray[np.int64]]:
    """The rows of each batch of an epoch, a function of the arguments alone.

    Args:
        examples: what is ordered; their lengths count where `bucket_batches` is not 0.
        batch_size: rows in a batch but the last.
        seed: None keeps the rows as they lie.
        epoch: shuffles differ from epoch to epoch.
        bucket_batches: sort by length within this many batches.
    """
    if seed is None:
        return _cut(np.arange(len(examples)), batch_size)
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    rows = random.permutation(len(examples))
    if not bucket_batches:
        return _cut(rows, batch_size)
    sequences = examples.sequences
    batches = []
    for window in _cut(rows, batch_size * bucket_batches):
        lengths = sequences.decoder_lengths[window], sequences.encoder_lengths[window]
        batches += _cut(window[np.lexsort(lengths)], batch_size)
    return [batches[index] for index in random.permutation(len(batches))]


def in_order(count: int, batch_size: int) -> list[NDArray[np.int64]]:
    """The rows of each batch, as they lie."""
    return _cut(np.arange(count), batch_size)


def target_batch(examples: Examples, rows: NDArray[np.int64], device: torch.device) -> TargetBatch:
    """These rows of the examples, cut behind the last place that is real or counts."""
    weights = examples.weights[rows]
    counted = np.flatnonzero(weights.any(axis=0))
    length = max(
        int(examples.sequences.decoder_lengths[rows].max()),
        int(counted[-1]) + 1 if counted.size else 0,
    )
    batch = sequence_batch(examples.sequences, rows, device, length)
    return TargetBatch(
        **vars(batch),
        targets=torch.from_numpy(examples.targets[rows, :length]).to(device),
        weights=torch.from_numpy(weights[:, :length]).to(device),
        places=weights.size,
    )


def sequence_batch(
    sequences: Sequences, rows: NDArray[np.int64], device: torch.device, length: int
) -> Batch:
    """These rows, the encoder's cut to their longest and the decoder's to `length`."""
    source_lengths = sequences.encoder_lengths[rows]
    lengths = sequences.decoder_lengths[rows]
    sources = sequences.encoder_token_ids[rows, : source_lengths.max()]
    return Batch(
        encoder_token_ids=torch.from_numpy(sources).to(device),
        encoder_lengths=torch.from_numpy(source_lengths).to(device),
        decoder_token_ids=torch.from_numpy(sequences.decoder_token_ids[rows, :length]).to(device),
        decoder_lengths=torch.from_numpy(lengths).to(device),
        tokens=int(source_lengths.sum() + lengths.sum()),
    )


def _cut(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return list(_parts(rows, size))


def _parts(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]

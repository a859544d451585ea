"""Distributions over few of the vocabulary's tokens: made whole, and drawn from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import InputError


def renormalised(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights [rows, columns] that sum to one in each row."""
    shares: NDArray[np.float32] = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def spread(
    weights: NDArray[np.float32], ids: NDArray[np.int64], vocabulary_size: int
) -> NDArray[np.float32]:
    """Weights of `ids`, both [rows, columns], at their places in [rows, vocabulary]; else 0."""
    whole = np.zeros((len(weights), vocabulary_size), np.float32)
    np.put_along_axis(whole, ids, weights, axis=-1)
    return whole


def drawn(weights: NDArray[np.float32], uniforms: NDArray[np.float64]) -> NDArray[np.intp]:
    """A column of each row, [rows], drawn in proportion to its weight.

    Args:
        weights: [rows, columns], none negative and some positive in each row.
        uniforms: [rows], in [0, 1).

    Raises:
        InputError: a row holds NaN.

    Of weights 1, 0, 3, a number below 0.25 draws column 0 and any other column 2.
    """
    columns = np.empty(len(weights), np.intp)
    for row, (line, uniform) in enumerate(zip(weights, uniforms, strict=True)):
        reached = np.cumsum(line, dtype=np.float64)
        if not reached[-1] > 0:
            raise InputError(f"Row {row} of what the model gave holds NaN; nothing can be chosen.")
        column = np.searchsorted(reached, uniform * reached[-1], side="right")
        # Rounding may bring the product up to the total; the last weight above 0 is meant then.
        columns[row] = min(column, np.searchsorted(reached, reached[-1], side="left"))
    return columns


def drawn_ids(
    weights: NDArray[np.float32], ids: NDArray[np.int64], uniforms: NDArray[np.float64]
) -> NDArray[np.int64]:
    """One of each row's `ids` [rows, columns], drawn in proportion to its weight, int64 [rows]."""
    columns = drawn(weights, uniforms)
    return np.take_along_axis(ids, columns[:, None], axis=-1)[:, 0]

"""The likeliest tokens and their probabilities, from what a decoder step has sorted out already.

The step's graph gives the best logits in order and the log-sum-exp of all. That is enough for the
probabilities of the best tokens at temperature 1; another temperature needs one pass over all
logits for their sum, and no sort. It knows no sampler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import InputError
from bart_onnx.graphs import LARGEST_TOP_K, LOG_SUM_EXP, LOGITS, TOP_LOGITS, TOP_TOKEN_IDS

Outputs = Mapping[str, NDArray[Any]]


def wanted_for_likeliest(count: int, temperature: float) -> tuple[str, ...]:
    """The outputs that `likeliest` reads."""
    names = (TOP_LOGITS, TOP_TOKEN_IDS) if count <= LARGEST_TOP_K else (LOGITS,)
    return tuple(dict.fromkeys((*names, *wanted_for_sum(temperature))))


def wanted_for_sum(temperature: float) -> tuple[str, ...]:
    """The outputs that `log_sum_exp` reads."""
    return (LOG_SUM_EXP,) if temperature == 1 else (LOGITS,)


def likeliest(
    outputs: Outputs, count: int, temperature: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probabilities float32 and token ids int64 of each row's `count` best, [rows, count].

    Probabilities are those of the whole vocabulary, best first, and do not sum to one. `count`
    must not exceed the vocabulary.
    """
    if count <= LARGEST_TOP_K:
        logits = outputs[TOP_LOGITS][:, -1, :count]
        ids = np.array(outputs[TOP_TOKEN_IDS][:, -1, :count], np.int64)
    else:
        ids = largest(outputs[LOGITS][:, -1], count)
        logits = np.take_along_axis(outputs[LOGITS][:, -1], ids, axis=-1)
    scaled = np.asarray(logits, np.float32) / np.float32(temperature)
    return np.exp(scaled - log_sum_exp(outputs, temperature)[:, None]), ids


def log_sum_exp(outputs: Outputs, temperature: float) -> NDArray[np.float32]:
    """log sum exp(logits / temperature) after each row's last token, float32 [rows]."""
    if temperature == 1:
        return np.array(outputs[LOG_SUM_EXP][:, -1], np.float32)
    scaled = np.asarray(outputs[LOGITS][:, -1], np.float32) / np.float32(temperature)
    highest = scaled.max(axis=-1)
    sums: NDArray[np.float32] = np.exp(scaled - highest[:, None]).sum(axis=-1)
    total: NDArray[np.float32] = highest + np.log(sums)
    return total


def largest(values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Columns of each row's `count` largest values, int64 [rows, count], largest first.

    Of equal values the earlier column comes first, as the graph orders them.

    Raises:
        InputError: a row holds NaN.
    """
    columns = np.empty((len(values), count), np.int64)
    for row, line in enumerate(values):
        least = np.partition(line, line.size - count)[line.size - count]
        enough = np.flatnonzero(line >= least)
        if len(enough) < count:
            raise InputError(f"Row {row} of what the model gave holds NaN; nothing can be chosen.")
        columns[row] = enough[np.argsort(-line[enough], kind="stable")[:count]]
    return columns

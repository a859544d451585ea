"""Sequences of tokens in histories: what followed them before, and what completes one.

It knows no candidate and no option.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.histories import Histories

IdArray = NDArray[np.int64]
Pairs = tuple[NDArray[np.intp], IdArray]


def counted(texts: IdArray, lengths: IdArray) -> Pairs:
    """Rows and tokens, both [pairs], of all tokens [rows, width] that count."""
    counts = np.arange(texts.shape[1]) < lengths[:, None]
    return np.nonzero(counts)[0], texts[counts]


def every_pair(rows: NDArray[np.intp], token_ids: IdArray) -> Pairs:
    """Each of the rows with each of the tokens, both [pairs]."""
    return np.repeat(rows, len(token_ids)), np.tile(token_ids, len(rows))


def endings(histories: Histories, count: int) -> IdArray:
    """The last `count` tokens of each row, int64 [rows, count]; of a shorter row, anything."""
    columns = histories.lengths[:, None] - count + np.arange(count)
    return np.take_along_axis(histories.token_ids, columns.clip(min=0), axis=1)


def followers(texts: IdArray, lengths: IdArray, histories: Histories, size: int) -> Pairs:
    """The last tokens of all n-grams in each row's text that begin as the row's history ends.

    Args:
        texts: int64 [rows, width], one for each row of `histories`.
        lengths: int64 [rows], how much of each counts.
        size: n, at least 1; of 1 every token of a text is a follower.

    Returns:
        Rows and tokens, both [pairs], of which some may be equal.
    """
    windows = texts.shape[1] - size + 1
    if windows <= 0:
        return np.zeros(0, np.intp), np.zeros(0, np.int64)
    matches = (np.arange(windows) <= lengths[:, None] - size) & (
        histories.lengths[:, None] >= size - 1
    )
    for column, tokens in enumerate(endings(histories, size - 1).T):
        matches &= texts[:, column : column + windows] == tokens[:, None]
    rows, starts = np.nonzero(matches)
    return rows, texts[rows, starts + size - 1]


@dataclass(frozen=True)
class _SameLength:
    """Sequences of one length: what stands before the last token, and what the last one gains."""

    prefixes: IdArray
    columns: NDArray[np.intp]
    gains: NDArray[np.float32]


class BiasedSequences:
    """What is added to the scores of tokens that complete a sequence.

    Args:
        biases: pairs of a sequence, none empty, and what it adds; of one that comes twice the
            latter counts.

    Attributes:
        token_ids: int64 [tokens], each sequence's last token once, ascending.
    """

    def __init__(self, biases: Iterable[tuple[tuple[int, ...], float]]) -> None:
        gains = dict(biases)
        self.token_ids = np.unique(np.array([sequence[-1] for sequence in gains], np.int64))
        by_length: dict[int, dict[tuple[int, ...], float]] = {}
        for sequence, gain in gains.items():
            by_length.setdefault(len(sequence), {})[sequence] = gain
        self._alone = np.zeros(len(self.token_ids), np.float32)
        for (token,), gain in by_length.pop(1, {}).items():
            self._alone[np.searchsorted(self.token_ids, token)] = gain
        self._longer = [self._same_length(group) for group in by_length.values()]

    def _same_length(self, gains: Mapping[tuple[int, ...], float]) -> _SameLength:
        whole = np.array(list(gains), np.int64)
        columns = np.searchsorted(self.token_ids, whole[:, -1])
        return _SameLength(whole[:, :-1], columns, np.array(list(gains.values()), np.float32))

    def gains(self, histories: Histories) -> NDArray[np.float32]:
        """What each row's tokens gain, float32 [rows, tokens], added up in the order given."""
        gains = np.tile(self._alone, (len(histories.lengths), 1))
        for group in self._longer:
            length = group.prefixes.shape[1]
            ends = endings(histories, length)
            matches = (ends[:, None] == group.prefixes).all(axis=-1)
            rows, sequences = np.nonzero(matches & (histories.lengths >= length)[:, None])
            np.add.at(gains, (rows, group.columns[sequences]), group.gains[sequences])
        return gains

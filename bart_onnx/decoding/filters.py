"""Filters: what transformers leaves of the candidates before one of them is drawn.

It knows no rule and no row but what scores it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.options import DecodingOptions

ScoreArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Filter = Callable[[ScoreArray], BoolArray]

_MINUS_INFINITY = np.float32(-np.inf)


class Filters:
    """The filters that options ask for where tokens are drawn, in transformers' order.

    That is temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff.

    Args:
        options: how to decode.
        beams: whether beams are drawn; then one token more than there are end tokens is kept, so
            that some beam can go on.

    Attributes:
        temperature: what scores are divided by.
    """

    def __init__(self, options: DecodingOptions, beams: bool) -> None:
        self.temperature = options.temperature
        least = 1
        if beams:
            least = len(options.eos_token_id) + 1 if options.eos_token_id else 2
        self._top_k = max(options.top_k, least) if options.top_k else 0
        self._filters = list(_filters(options, least))

    def columns_needed(self, vocabulary_size: int) -> int:
        """How many of a row's best columns decide what is left of it.

        With top_k no other filter ever sees what is not among the k best, equals of the last
        apart. So give `apply` all columns that there are, and of rows that
        `Candidates.doubtful(columns_needed, temperature)` names every token. Without top_k the
        other filters weigh every token.
        """
        return min(self._top_k + 1, vocabulary_size) if self._top_k else vocabulary_size

    def apply(self, scores: ScoreArray) -> ScoreArray:
        """Scores [rows, columns], divided by the temperature; minus infinity what is left out.

        Columns may come in any order. Of equals that cannot all stay, the first ones do.
        """
        with np.errstate(over="ignore"):
            scores = scores / np.float32(self.temperature)
        for removed in self._filters:
            scores = np.where(removed(scores), _MINUS_INFINITY, scores)
        return scores


def softmax(scores: ScoreArray) -> ScoreArray:
    """Probabilities of scores [rows, columns]; all 0 in a row that is minus infinity throughout."""
    weights = np.exp(_below_highest(scores))
    sums = weights.sum(axis=-1, keepdims=True)
    return np.asarray(weights / np.where(sums == 0, np.float32(1), sums), np.float32)


def log_softmax(scores: ScoreArray) -> ScoreArray:
    """Log-probabilities of scores [rows, columns]; a row of minus infinity stays as it is."""
    shifted = _below_highest(scores)
    sums = np.exp(shifted).sum(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.where(sums == 0, np.float32(1), sums)), np.float32)


def _filters(options: DecodingOptions, least: int) -> Iterator[Filter]:
    if options.top_k:
        yield partial(_outside_top_k, count=max(options.top_k, least))
    if options.top_p < 1:
        yield partial(_outside_top_p, top_p=options.top_p, least=least)
    if options.min_p is not None:
        yield partial(_below_share_of_best, min_p=options.min_p, least=least)
    if options.typical_p < 1:
        yield partial(_untypical, mass=options.typical_p, least=least)
    if 0 < options.epsilon_cutoff < 1:
        yield partial(_below_epsilon, epsilon=options.epsilon_cutoff, least=least)
    if 0 < options.eta_cutoff < 1:
        yield partial(_below_eta, epsilon=options.eta_cutoff, least=least)


def _outside_top_k(scores: ScoreArray, count: int) -> BoolArray:
    return np.asarray(scores < _nth_highest(scores, count))


def _outside_top_p(scores: ScoreArray, top_p: float, least: int) -> BoolArray:
    ascending = np.sort(scores, axis=-1)
    removed = _running_sums(softmax(ascending)) <= np.float32(1 - top_p)
    counts = removed.sum(axis=-1, keepdims=True).clip(max=max(scores.shape[1] - least, 0))
    lowest_kept = np.take_along_axis(ascending, counts, axis=-1)
    return np.asarray(~_best(scores, lowest_kept, scores.shape[1] - counts))


def _below_share_of_best(scores: ScoreArray, min_p: float, least: int) -> BoolArray:
    shares = softmax(scores)
    removed = shares < np.float32(min_p) * shares.max(axis=-1, keepdims=True)
    return np.asarray(removed & ~_best(shares, _nth_highest(shares, least), least))


def _untypical(scores: ScoreArray, mass: float, least: int) -> BoolArray:
    logs = log_softmax(scores)
    with np.errstate(invalid="ignore"):
        entropy = -np.nansum(logs * np.exp(logs), axis=-1, keepdims=True)
    surprise = np.abs(-logs - entropy)
    order = np.argsort(surprise, axis=-1, kind="stable")
    ascending = np.take_along_axis(surprise, order, axis=-1)
    reached = _running_sums(softmax(np.take_along_axis(scores, order, axis=-1)))
    last = (reached < np.float32(mass)).sum(axis=-1, keepdims=True).clip(max=scores.shape[1] - 1)
    removed = surprise > np.take_along_axis(ascending, last, axis=-1)
    np.put_along_axis(removed, order[:, :least], False, axis=-1)
    return np.asarray(removed)


def _below_epsilon(scores: ScoreArray, epsilon: float, least: int) -> BoolArray:
    return np.asarray((softmax(scores) < np.float32(epsilon)) & _outside_top_k(scores, least))


def _below_eta(scores: ScoreArray, epsilon: float, least: int) -> BoolArray:
    shares, cutoff = softmax(scores), np.float32(epsilon)
    logs = log_softmax(scores).clip(min=np.finfo(np.float32).min)
    entropy = -(logs * shares).sum(axis=-1, keepdims=True)
    eta = np.minimum(cutoff, np.sqrt(cutoff) * np.exp(-entropy))
    return np.asarray((shares < eta) & _outside_top_k(scores, least))


def _nth_highest(scores: ScoreArray, count: int) -> ScoreArray:
    """The lowest of each row's `count` highest, [rows, 1]."""
    place = scores.shape[1] - min(count, scores.shape[1])
    return np.asarray(np.partition(scores, place, axis=-1)[:, place, None])


def _best(scores: ScoreArray, lowest: ScoreArray, count: NDArray[np.intp] | int) -> BoolArray:
    """Each row's `count` best, of which `lowest` is the last; of its equals the first."""
    higher, equal = scores > lowest, scores == lowest
    equals = count - higher.sum(axis=-1, keepdims=True)
    return np.asarray(higher | (equal & (equal.cumsum(axis=-1) <= equals)))


def _below_highest(scores: ScoreArray) -> ScoreArray:
    highest = scores.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore"):
        return scores - np.where(highest == -np.inf, np.float32(0), highest)


def _running_sums(shares: ScoreArray) -> ScoreArray:
    # Added up in double and then rounded, as torch does it on a CPU.
    return np.cumsum(shares, axis=-1, dtype=np.float64).astype(np.float32)

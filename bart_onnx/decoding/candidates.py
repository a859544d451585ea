"""Candidates: the tokens that may come next and their scores, as rules change them.

A step's graph sorts out the best of each row. Where rules only lower scores, these are enough as
long as one that was not sorted out cannot overtake them; rows of which that cannot be said are
looked at whole. It knows no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.graphs import LOG_SUM_EXP, LOGITS, TOP_LOGITS, TOP_TOKEN_IDS
from bart_onnx.samplers.likeliest import largest

# More pairs than this in a row are looked up in a table, which then costs less than comparing.
_FEW_PAIRS = 8

IdArray = NDArray[np.int64]
ScoreArray = NDArray[np.float32]
Outputs = Mapping[str, NDArray[Any]]


class Candidates:
    """Scores of the tokens that may follow each row.

    Args:
        scores: float32 [rows, columns], changed in place by rules.
        token_ids: int64 [rows, columns], best first; None where columns are the ids themselves.
        vocabulary_size: how many tokens there are.

    Attributes:
        scores: as given; minus infinity where a token may not come.
        refused: why nothing may follow a row, for each row of which that was said.
    """

    def __init__(self, scores: ScoreArray, token_ids: IdArray | None, vocabulary_size: int) -> None:
        self.scores = scores
        self.vocabulary_size = vocabulary_size
        self.refused: dict[int, str] = {}
        self._token_ids = token_ids
        # Nothing that was left out scores more than this.
        self._bounds = np.full(len(scores), -np.inf, np.float32)
        if token_ids is not None and scores.shape[1] < vocabulary_size:
            self._bounds[:] = scores[:, -1]

    @classmethod
    def sorted_out(cls, outputs: Outputs, log_softmax: bool, vocabulary_size: int) -> Candidates:
        """The best of each row, as the step's graph sorted them out.

        Args:
            log_softmax: scores are log-probabilities, and logits otherwise.
        """
        scores = np.array(outputs[TOP_LOGITS][:, -1], np.float32)
        if log_softmax:
            scores -= np.asarray(outputs[LOG_SUM_EXP][:, -1:], np.float32)
        return cls(scores, np.array(outputs[TOP_TOKEN_IDS][:, -1], np.int64), vocabulary_size)

    @classmethod
    def every(
        cls, outputs: Outputs, log_softmax: bool, rows: NDArray[np.intp] | slice = slice(None)
    ) -> Candidates:
        """Every token of some rows; see `sorted_out`."""
        scores = np.array(outputs[LOGITS][rows, -1], np.float32)
        if log_softmax:
            scores -= np.asarray(outputs[LOG_SUM_EXP][rows, -1:], np.float32)
        return cls(scores, None, scores.shape[1])

    @property
    def token_ids(self) -> IdArray:
        """The ids of the columns, int64 [rows, columns]."""
        if self._token_ids is None:
            return np.broadcast_to(np.arange(self.vocabulary_size), self.scores.shape)
        return self._token_ids

    @property
    def is_whole(self) -> bool:
        """Whether column i is token i, for every token."""
        return self._token_ids is None

    def places(
        self, rows: NDArray[np.integer], token_ids: NDArray[np.integer]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns at which pairs of a row and a token stand; pairs left out are skipped.

        Args:
            rows, token_ids: [pairs]. A pair may come more than once.
        """
        if self._token_ids is None:
            return np.asarray(rows, np.intp), np.asarray(token_ids, np.intp)
        if len(rows) > _FEW_PAIRS * len(self.scores):
            named = np.zeros((len(self.scores), self.vocabulary_size), bool)
            named[rows, token_ids] = True
            found, columns = np.nonzero(np.take_along_axis(named, self._token_ids, axis=1))
            return found, columns
        pairs, columns = np.nonzero(self._token_ids[rows] == np.asarray(token_ids)[:, None])
        return np.asarray(rows, np.intp)[pairs], columns

    def ban(self, rows: NDArray[np.integer], token_ids: NDArray[np.integer]) -> None:
        """These tokens may not follow these rows; both [pairs]."""
        self.scores[self.places(rows, token_ids)] = -np.inf

    def change(
        self,
        rows: NDArray[np.integer],
        token_ids: NDArray[np.integer],
        changed: Callable[[ScoreArray], ScoreArray],
    ) -> None:
        """Give pairs of a row and a token, both [pairs], other scores, each pair once."""
        places = self.places(rows, token_ids)
        self.scores[places] = changed(self.scores[places])

    def add(self, token_ids: IdArray, amounts: ScoreArray) -> None:
        """Add `amounts` [rows, tokens] to the scores of `token_ids` [tokens], ascending."""
        if self._token_ids is None:
            self.scores[:, token_ids] += amounts
        elif len(token_ids):
            columns = np.searchsorted(token_ids, self._token_ids).clip(max=len(token_ids) - 1)
            found = np.take_along_axis(amounts, columns, axis=1)
            self.scores += np.where(token_ids[columns] == self._token_ids, found, np.float32(0))

    def refuse(self, row: int, why: str) -> None:
        """Nothing may follow this row; the first reason stays."""
        self.refused.setdefault(row, why)

    def allow_only(self, rows: NDArray[np.integer], token_ids: NDArray[np.integer]) -> None:
        """Of each row named in these pairs, both [pairs], only its tokens there may come."""
        allowed = np.zeros(self.scores.shape, bool)
        allowed[self.places(rows, token_ids)] = True
        named = np.unique(rows)
        self.scores[named] = np.where(allowed[named], self.scores[named], -np.inf)

    def force(self, rows: NDArray[np.integer], token_ids: NDArray[np.integer]) -> None:
        """Only these tokens, [tokens], may follow these rows, [rows], each at score 0."""
        if not len(rows):
            return
        self.scores[rows] = -np.inf
        if self._token_ids is None:
            columns = np.asarray(token_ids)
        else:
            columns = np.arange(len(token_ids))
            self._token_ids[np.ix_(rows, columns)] = token_ids
        self.scores[np.ix_(rows, columns)] = 0
        self._bounds[rows] = -np.inf

    def doubtful(self, count: int, temperature: float = 1.0) -> NDArray[np.intp]:
        """Rows whose `count` best might be others, had all tokens been looked at.

        Scores may become equal where they are divided by `temperature` afterwards; so such are
        in doubt too.
        """
        place = self.scores.shape[1] - min(count, self.scores.shape[1])
        known = np.partition(self.scores, place, axis=1)[:, place]
        overtaken = known / np.float32(temperature) <= self._bounds / np.float32(temperature)
        return np.flatnonzero(overtaken & (self._bounds > -np.inf))

    def best(self, count: int) -> tuple[ScoreArray, IdArray]:
        """Scores and ids of each row's `count` best, best first, [rows, count].

        Of equals the one that stands before stays before. `count` must not exceed the columns.
        """
        if self._token_ids is None:
            columns = largest(self.scores, count)
            return np.take_along_axis(self.scores, columns, axis=1), columns
        columns = np.argsort(-self.scores, axis=1, kind="stable")[:, :count]
        return (
            np.take_along_axis(self.scores, columns, axis=1),
            np.take_along_axis(self._token_ids, columns, axis=1),
        )

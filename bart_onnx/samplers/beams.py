"""Beams: what the beams of some rows have said so far. It knows no probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BeamChoice:
    """How the beams of each row go on, all [rows, num_beams].

    Attributes:
        parents: the beam that each continues, intp.
        columns: the candidate that it takes, int64.
        scores: its log-probability so far, float32.
    """

    parents: NDArray[np.intp]
    columns: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass
class Beams:
    """The beams of some rows.

    Attributes:
        token_ids: [rows, num_beams, width].
        scores: log-probabilities, float32 [rows, num_beams].
        ended: which hold a stop token that is not their prompt's, bool [rows, num_beams].
    """

    token_ids: NDArray[Any]
    scores: NDArray[np.float32]
    ended: NDArray[np.bool_]

    def go_on(
        self,
        choice: BeamChoice,
        chosen: NDArray[Any],
        positions: NDArray[np.integer],
        stays: NDArray[np.bool_],
        stops: NDArray[np.int64],
    ) -> NDArray[np.intp]:
        """Each beam takes its parent's place and one token more.

        Args:
            choice: parents and scores.
            chosen: the tokens, [rows, num_beams].
            positions: where they are written, [rows].
            stays: after the move, whether a beam keeps the token that stands there already,
                [rows, num_beams].
            stops: ids that end a beam.

        Returns:
            The flat index of each beam's parent, intp [rows * num_beams].
        """
        rows, num_beams, width = self.token_ids.shape
        moved: NDArray[np.intp] = np.arange(rows)[:, None] * num_beams + choice.parents
        self.token_ids = self.token_ids.reshape(-1, width)[moved.ravel()].reshape(
            rows, num_beams, width
        )
        at = (np.arange(rows)[:, None], np.arange(num_beams), positions[:, None])
        written = np.where(stays, self.token_ids[at], chosen)
        self.token_ids[at] = written
        self.scores = choice.scores
        self.ended = self.ended.ravel()[moved] | (np.isin(written, stops) & ~stays)
        return moved.ravel()

    def sorted(self) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Token ids and scores, each row's beams by falling score, the first of equals first."""
        order = np.argsort(-self.scores, axis=-1, kind="stable")
        token_ids = np.take_along_axis(self.token_ids, order[..., None], axis=1)
        return token_ids, np.take_along_axis(self.scores, order, axis=1)

    def take(self, rows: NDArray[np.integer]) -> None:
        """Keep these rows, in this order."""
        self.token_ids = self.token_ids[rows]
        self.scores, self.ended = self.scores[rows], self.ended[rows]

"""Histories: what rules may look at of the rows they are applied to. Data only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IdArray = NDArray[np.int64]


@dataclass(frozen=True)
class Histories:
    """Rows that are about to get a token.

    Attributes:
        token_ids: int64 [rows, width], prompts with what followed; nothing counts past `lengths`.
        lengths: int64 [rows].
        prompt_lengths: int64 [rows].
        limits: int64 [rows], the longest each may become.
        numbers: int64 [rows], which of the call's inputs each row continues.
        sources: int64 [rows], its line in the two arrays that follow.
        source_token_ids: int64 [sources, source_length], padded on the right.
        source_lengths: int64 [sources].
    """

    token_ids: IdArray
    lengths: IdArray
    prompt_lengths: IdArray
    limits: IdArray
    numbers: IdArray
    sources: IdArray
    source_token_ids: IdArray
    source_lengths: IdArray

    def texts(self) -> tuple[IdArray, IdArray]:
        """Each row's source, int64 [rows, source_length], and its length, int64 [rows]."""
        return self.source_token_ids[self.sources], self.source_lengths[self.sources]

    def take(self, rows: NDArray[np.intp]) -> Histories:
        """Those rows only."""
        return Histories(
            self.token_ids[rows],
            self.lengths[rows],
            self.prompt_lengths[rows],
            self.limits[rows],
            self.numbers[rows],
            self.sources[rows],
            self.source_token_ids,
            self.source_lengths,
        )

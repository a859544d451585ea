"""What is timed: batch, beams, source and output lengths. It knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig
from bart_onnx.errors import InputTooLongError

# Below lie BART's special tokens, and an end token inside a source would be no text.
_FIRST_WORD = 4


@dataclass(frozen=True)
class Case:
    """One shape.

    Attributes:
        source: tokens of every source.
        tokens: tokens that every row is given, no fewer and no more.
        beams: 1 decodes greedily.
        batch: sources decoded together.
    """

    source: int
    tokens: int
    beams: int
    batch: int

    def __str__(self) -> str:
        search = "greedy" if self.beams == 1 else f"{self.beams} beams"
        return f"source {self.source}, {self.tokens} tokens, {search}, batch {self.batch}"

    def source_ids(self, config: BartConfig) -> NDArray[np.int64]:
        """Words at random, the same for each model of one vocabulary, [batch, source]."""
        random = np.random.default_rng(self.source)
        shape = (self.batch, self.source)
        token_ids = random.integers(_FIRST_WORD, config.vocabulary_size, shape)
        token_ids[:, -1] = config.end_token_id
        return token_ids


def cases(
    sources: Sequence[int], tokens: Sequence[int], beams: Sequence[int], batches: Sequence[int]
) -> Iterator[Case]:
    """Every combination, small batches first, so that early figures come early."""
    for batch, source, count, width in product(batches, sources, tokens, beams):
        yield Case(source, count, width, batch)


def check_fits(case: Case, config: BartConfig) -> None:
    """Refuse a case longer than the model's positions.

    Raises:
        InputTooLongError: it is.
    """
    # The prompt is one token, and the last token that is generated is never fed.
    longest = max(case.source, case.tokens + 1)
    if longest > config.max_sequence_length:
        raise InputTooLongError(
            f"{case} needs {longest} positions; this model has {config.max_sequence_length}. "
            "Lower --source or --tokens."
        )

"""What the loop asks of a device: Runner and State. It knows none that answers.

They stand here, below the runners, because the loop is written in their terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig


class State(Protocol):
    """Rows of cache: what a decoder remembers of its sources and of the tokens it was fed."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens that each row has been fed, int64 [rows]. Not to be written to."""

    def select(self, rows: NDArray[np.intp], since: int = 0) -> None:
        """Row i becomes what row `rows[i]` was; rows not named are dropped.

        Args:
            since: a position before which each row has the same tokens as the row it replaces.
        """

    def expand(self, count: int) -> None:
        """Row r becomes rows r * count to r * count + count - 1, all of r's source."""

    def between(self, first: int, last: int) -> Self:
        """Rows `first` to `last - 1` as a State of their own that shares this one's memory.

        Steps of either are seen by both; the rows of neither may be selected while both are used.
        """

    def truncate(self, lengths: NDArray[np.int64]) -> None:
        """Forget each row's tokens from position `lengths[r]` on."""


AnyState = TypeVar("AnyState", bound=State)


class Runner(Protocol[AnyState]):
    """One BART on one device."""

    @property
    def config(self) -> BartConfig:
        """The model's numbers."""

    @property
    def tokens_at_once(self) -> int:
        """How many tokens of known text to feed in a step, so that a row is the same in any batch.

        1 where several tokens of a row alone are not computed as they are beside other rows.
        """

    @property
    def batch_tokens(self) -> int | None:
        """Tokens that the caches of rows decoded together may come to hold; None for the usual."""

    def drafts_pay(self, sources: int) -> bool:
        """Whether a step of so many sources, one row each, may be fed drafted tokens too.

        It pays where a step with some tokens of each row costs little more than with one.
        """

    def encode(self, token_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> AnyState:
        """A State of one row for each source.

        Args:
            token_ids: int64 [rows, longest], padded on the right.
            lengths: int64 [rows], tokens of each source that count, at least 1.
        """

    def step(
        self, state: AnyState, token_ids: NDArray[np.int64], wanted: Sequence[str]
    ) -> Mapping[str, NDArray[np.generic]]:
        """Feed `token_ids` [rows, q] to the rows of `state`.

        Returns:
            The decoder-step outputs named in `wanted` (`bart_onnx.graphs`). Their memory is used
            again by the next step of the same state, or of another part of it. One that nobody
            reads need not be brought from the device.
        """


class Slots(Protocol[AnyState]):
    """Caches of rows that come and go while others run; as many rows for each source."""

    @property
    def rows(self) -> AnyState:
        """The rows in use, at least one, as a state to step and to truncate, not to select from.

        It is good until the next `join` or `select`.
        """

    def join(self, other: AnyState) -> None:
        """Each row of a state with one row a source gets its slots behind those in use."""

    def select(self, rows: NDArray[np.intp], since: int = 0) -> None:
        """See `State.select`; the rows are of sources that differ."""


class SlotRunner(Runner[AnyState], Protocol[AnyState]):
    """A runner whose rows can join others that are under way; not all can."""

    def slots(self, copies: int) -> Slots[AnyState]:
        """No rows yet; those that join get `copies` each."""

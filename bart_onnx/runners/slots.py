"""OrtSlots: caches of rows that come and go, in memory that has room for more of them.

Rows in use are the leading ones, so that a step takes no row in vain and needs no copy. Who leaves
is replaced from the end; who joins is written behind. So what a row costs by coming or going is its
own cache and at most one other's. The memory grows by doubling, and shrinks when three fourths of
it lie idle, so that each row is moved for that a few times at most. It knows no session.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bart_onnx.runners.cache import SOURCE_MULTIPLE, OrtState

_FEWEST_SOURCES = 4
# Tokens that self caches have room for at least, see `runners.cache`. Cross caches are as narrow as
# the sources allow: attention in float32 computes all of their width.
_SHORTEST = 64
# States of so many sizes are kept, each with the bindings of its steps: to bind one of a small
# model anew takes as long as a step of 8 rows.
_SIZES = 64


class OrtSlots:
    """Slots of one model's rows, as many for each source; see `decoding.protocols.Slots`."""

    def __init__(self, copies: int) -> None:
        self._copies, self._sources = copies, 0
        self._memory: OrtState | None = None
        self._sizes: dict[int, OrtState] = {}
        # Memory that grew has other arrays, of which the states kept so far know nothing.
        self._known: NDArray[np.float32] | None = None

    @property
    def rows(self) -> OrtState:
        """The rows in use. Its steps, and its own alone, are seen by what comes after."""
        assert self._memory is not None, "no row has joined"
        count = self._sources * self._copies
        if self._known is not self._memory.own[0]:
            self._known, self._sizes = self._memory.own[0], {}
        state = self._sizes.pop(count, None) or self._memory.between(0, count)
        if len(self._sizes) == _SIZES:
            # The one that was used longest ago stands first.
            del self._sizes[next(iter(self._sizes))]
        self._sizes[count] = state
        return state

    def join(self, other: OrtState) -> None:
        """Each row of a state with one row a source gets its slots behind those in use."""
        first = self._sources * self._copies
        self._fit(self._sources + other.rows, other)
        assert self._memory is not None
        self._memory.receive(first, other, self._copies)
        self._sources += other.rows

    def select(self, rows: NDArray[np.intp], since: int = 0) -> None:
        """Row i becomes what row `rows[i]` was; see `decoding.protocols.State.select`."""
        if self._memory is None:
            return
        places = np.arange(self._memory.rows)
        places[: len(rows)] = rows
        self._memory.select(places, since)
        self._sources = len(rows) // self._copies
        self._memory.clear(len(rows))

    def _fit(self, sources: int, other: OrtState) -> None:
        """See to it that the memory has room for so many sources, but not far too much."""
        widest, longest = other.width, int(other.lengths.max(initial=0))
        before = self._memory
        if before is not None and self._sources:
            widest = max(widest, _padded(int(self.rows.source_lengths.max())))
            longest = max(longest, int(self.rows.lengths.max()))
        needs = max(sources, _FEWEST_SOURCES), widest, max(longest, _SHORTEST)
        if before is not None:
            has = before.rows // self._copies, before.width, before.capacity
            fits = all(need <= size for need, size in zip(needs[:2], has, strict=False))
            if fits and all(size <= 4 * need for need, size in zip(needs, has, strict=True)):
                return
        memory = other.room(_doubled(needs[0]), _doubled(needs[1]), self._copies)
        if before is not None and self._sources:
            memory.receive(0, self.rows, 1)
        self._memory = memory


def _padded(length: int) -> int:
    """What a source of so many tokens is padded to, see `OrtRunner.encode`."""
    return -(-length // SOURCE_MULTIPLE) * SOURCE_MULTIPLE


def _doubled(least: int) -> int:
    """The next power of two."""
    return 1 << (least - 1).bit_length()

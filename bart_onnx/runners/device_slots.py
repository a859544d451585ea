"""DeviceSlots: caches of rows that come and go, at places of one state's blocks.

Who leaves moves nobody: a place is left behind, and the next who comes gets it. So what a row costs
by coming is its own caches, and by leaving nothing. Steps are bound, and captured, for the blocks
that they read, so blocks are taken with room for more: others only where these are too small, or
where three fourths of them lie idle. Then half of the new ones is idle, so that a load which goes
up and down a little moves nothing. It knows no session.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bart_onnx.runners.buckets import length_bucket, row_bucket
from bart_onnx.runners.device_caches import Caches
from bart_onnx.runners.device_state import DeviceState, Room

# A guess: a GPU that waits for its weights steps so many rows in the time of one.
_FEWEST_ROWS = 4

_NOTHING = Room(0, 0, 0)


class DeviceSlots:
    """Slots of one model's rows, as many for each source; see `decoding.protocols.Slots`."""

    def __init__(self, caches: Caches, copies: int) -> None:
        self._caches, self._copies = caches.of(f"{copies} copies"), copies
        self._state: DeviceState | None = None

    @property
    def rows(self) -> DeviceState:
        """The rows in use."""
        assert self._state is not None, "no row has joined"
        return self._state

    def join(self, other: DeviceState) -> None:
        """Each row of a state with one row a source gets its slots behind those in use.

        Raises:
            DeviceMemoryError: the device has too little free memory for caches of them all.
        """
        if not other.rows:
            return
        self._fit(other.storage.room._replace(places=other.rows))
        self.rows.receive(other)

    def select(self, rows: NDArray[np.intp], since: int = 0) -> None:
        """Row i becomes what row `rows[i]` was, of sources that differ; see `decoding.protocols`.

        Raises:
            InputError: a source is named twice.
        """
        if self._state is None:
            return
        self._state.keep(rows)
        if len(rows):
            # When all have left, the blocks wait for whoever comes next.
            self._fit(_NOTHING)

    def _fit(self, joining: Room) -> None:
        """See to it that there is room for so much more, but not far too much."""
        state = self._state
        used, has = (_NOTHING, _NOTHING) if state is None else (state.used, state.storage.room)
        needs = Room(
            row_bucket(max(used.places + joining.places, _FEWEST_ROWS // self._copies)),
            length_bucket(max(used.width, joining.width)),
            length_bucket(max(used.capacity, joining.capacity)),
        )
        # Where one size grows all is moved anyway, and what is idle is not taken along: three sizes
        # with room for twice as much would have it for eight times.
        grows = any(need > there for need, there in zip(needs, has, strict=True))
        room = needs if grows else Room(*map(_size, needs, has))
        if room == has:
            return
        if state is not None and state.rows:
            state.resize(room)
            return
        # Given back first: some of it may do.
        self._state = state = None
        cross = self._caches.for_sources(room.places, room.width)
        none = np.zeros(0, np.int64)
        self._state = DeviceState(self._caches, cross, none, self._copies, room.capacity)


def _size(needed: int, there: int) -> int:
    """What to have where so much is there, and enough: of 64, for 8 needed, 16.

    Buckets stay buckets when they are doubled.
    """
    return there if there < 4 * needed else 2 * needed

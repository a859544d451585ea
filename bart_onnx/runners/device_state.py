"""DeviceState: rows of cache in blocks of device memory. It knows rows and places, and no session.

A source's caches lie at a place of their block, and stay there: when others leave, only the notes
of who lies where change. Rows move when a block of the next smaller shape will do, when beams take
over from each other, and when self caches need more room; then they move into another block, for
nothing is moved within one. Places that nobody has, and rows that sit a step out, take part in
every step: they are fed zeros, and what they write lies beyond what anybody reads. A place that
was left may be given to who comes from another state; all of it is written anew then, since what
nobody reads need not be a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import InputError
from bart_onnx.runners.blocks import Lease
from bart_onnx.runners.buckets import length_bucket, row_bucket
from bart_onnx.runners.device_caches import Caches, RowArray


class Room(NamedTuple):
    """What there is room for: sources, tokens of each, and tokens in each row's self cache."""

    places: int
    width: int
    capacity: int


@dataclass
class Storage:
    """The blocks of some sources and their rows. States share one as they share rows.

    Attributes:
        cross: of the sources, [tensors, places, heads, source_length, head_dim].
        own: the self caches, [tensors, places * beams, heads, capacity, head_dim].
        beams: rows of each source.
        past_lengths: tokens in each row's self cache, int64 [places * beams].
        source_lengths: int64 [places]; 1 where no source lies. Never written to.
        is_spoiled: whether a step has written into the self caches what is no number.
    """

    cross: Lease
    own: Lease
    beams: int
    past_lengths: NDArray[np.int64]
    source_lengths: NDArray[np.int64]
    is_spoiled: bool = False

    @property
    def room(self) -> Room:
        """What its blocks have room for."""
        return Room(self.cross.block.rows, self.cross.block.length, self.own.block.length)


class DeviceState:
    """Rows of cache on a device; see `decoding.protocols.State`.

    Args:
        cross: with the caches of these sources at its first places.
        source_lengths: int64 [sources], of which there may be none yet.
        beams: rows of each source.
        capacity: tokens that the self caches have room for.

    Attributes:
        storage: where they lie.
        places: which row of the storage each row is, [rows].
        in_order: whether these are the storage's first rows, one after the other.
    """

    def __init__(
        self,
        caches: Caches,
        cross: Lease,
        source_lengths: NDArray[np.int64],
        beams: int = 1,
        capacity: int = length_bucket(1),
    ) -> None:
        count, places = len(source_lengths), cross.block.rows
        padded = np.ones(places, np.int64)
        padded[:count] = source_lengths
        own = caches.for_rows(places * beams, capacity)
        self._caches = caches
        self.storage = Storage(cross, own, beams, np.zeros(places * beams, np.int64), padded)
        self._take_places(np.arange(count * beams))
        self._is_part = False

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each row's self cache, int64 [rows]."""
        return self.storage.past_lengths[self.places]

    @property
    def source_lengths(self) -> NDArray[np.int64]:
        """Tokens of each source, int64 [sources]."""
        return self.storage.source_lengths[self._sources(self.places)]

    @property
    def rows(self) -> int:
        """How many rows are decoded together."""
        return len(self.places)

    @property
    def beams(self) -> int:
        """Rows of each source."""
        return self.storage.beams

    @property
    def used(self) -> Room:
        """How much of their room these rows take."""
        width, capacity = self.source_lengths.max(initial=0), self.lengths.max(initial=0)
        return Room(len(self.source_lengths), int(width), int(capacity))

    def reserve(self, query_length: int) -> None:
        """Make room for `query_length` more tokens in every row of the storage."""
        storage = self.storage
        needed = int(storage.past_lengths.max(initial=0)) + query_length
        if needed > storage.own.block.length:
            self.resize(storage.room._replace(capacity=length_bucket(needed)))

    def advance(self, count: int) -> None:
        """Count `count` tokens that a step has written into every row."""
        self.storage.past_lengths[self.places] += count

    def truncate(self, lengths: NDArray[np.int64]) -> None:
        """Forget each row's tokens from position `lengths[r]` on.

        Memory is touched only if the storage is spoiled: attention multiplies what is forgotten by
        a probability of zero, which only finite values survive.
        """
        if np.any(lengths > self.lengths) or np.any(lengths < 0):
            raise InputError(f"Cannot truncate rows of {self.lengths} tokens to {lengths}.")
        storage = self.storage
        storage.past_lengths[self.places] = lengths
        if storage.is_spoiled:
            self._caches.keep(storage.own, storage.past_lengths)
            storage.is_spoiled = False

    def spoil(self) -> None:
        """Note that a step has written what is no number; see `truncate`."""
        self.storage.is_spoiled = True

    def between(self, first: int, last: int) -> Self:
        """Rows `first` to `last - 1` in the same storage; in their steps the others sit out."""
        part = object.__new__(type(self))
        part._caches, part.storage = self._caches, self.storage
        part._take_places(self.places[first:last])
        part._is_part = True
        return part

    def expand(self, count: int) -> None:
        """Row r becomes rows r * count to r * count + count - 1; sources stay as they are."""
        if self._is_part:
            self._move(self.places)
        storage = self.storage
        rows = np.repeat(np.arange(storage.own.block.rows), count)
        own = self._caches.moved(storage.own, rows, storage.own.block.length)
        past_lengths = storage.past_lengths[rows]
        beams = storage.beams * count
        self._store(storage.cross, own, beams, past_lengths, storage.source_lengths)
        self._take_places((self.places[:, None] * count + np.arange(count)).ravel())

    def select(self, rows: RowArray, since: int = 0) -> None:
        """Row i becomes what row `rows[i]` was; rows of one source stay together.

        Args:
            since: of no use here: a device copies whole rows in less time than it takes to say
                which parts of them.
        """
        chosen = self.places[rows]
        sources = self._sources(chosen)
        fits = row_bucket(len(sources)) == self.storage.cross.block.rows
        if len(rows) and (self._is_part or not fits or len(np.unique(sources)) < len(sources)):
            self._move(chosen)
        else:
            self._rearrange(chosen, sources)

    def keep(self, rows: RowArray) -> None:
        """As `select`, of sources that differ: each stays where it lies, whatever room is idle.

        Raises:
            InputError: a source is named twice.
        """
        chosen = self.places[rows]
        sources = self._sources(chosen)
        if len(np.unique(sources)) < len(sources):
            raise InputError(f"Rows {rows.tolist()} name a source twice; it has one place.")
        self._rearrange(chosen, sources)

    def receive(self, other: Self) -> None:
        """Each row of a state with one row a source becomes `beams` rows here, behind the others.

        There must be places for them, as wide and as long as where they lie.
        """
        storage, beams = self.storage, self.storage.beams
        free = np.setdiff1d(np.arange(storage.room.places), self._sources(self.places))
        sources = free[: other.rows]
        places = self._rows(sources)
        self._caches.put(other.storage.cross, other.places, storage.cross, sources)
        self._caches.put(other.storage.own, np.repeat(other.places, beams), storage.own, places)
        past_lengths, source_lengths = storage.past_lengths.copy(), storage.source_lengths.copy()
        past_lengths[places] = np.repeat(other.lengths, beams)
        source_lengths[sources] = other.source_lengths
        self._store(storage.cross, storage.own, beams, past_lengths, source_lengths)
        self.storage.is_spoiled |= other.storage.is_spoiled
        self._take_places(np.concatenate([self.places, places]))

    def resize(self, room: Room) -> None:
        """Lie in blocks of that room; there must be enough for all."""
        storage, has = self.storage, self.storage.room
        if room.places != has.places:
            self._move(self.places, room)
            return
        if room.width != has.width:
            every = np.arange(storage.cross.block.rows)
            storage.cross = self._caches.moved(storage.cross, every, room.width)
        if room.capacity != has.capacity:
            every = np.arange(storage.own.block.rows)
            storage.own = self._caches.moved(storage.own, every, room.capacity)

    def _store(
        self,
        cross: Lease,
        own: Lease,
        beams: int,
        past_lengths: NDArray[np.int64],
        source_lengths: NDArray[np.int64],
    ) -> None:
        """Lie elsewhere; rows have taken along whatever was in them."""
        spoiled = self.storage.is_spoiled
        self.storage = Storage(cross, own, beams, past_lengths, source_lengths, spoiled)

    def _take_places(self, places: RowArray) -> None:
        self.places = places
        self.in_order = np.array_equal(places, np.arange(len(places)))

    def _sources(self, places: RowArray) -> RowArray:
        """The source of each group of beams, [sources]."""
        return places[:: self.storage.beams] // self.storage.beams

    def _rows(self, sources: RowArray) -> RowArray:
        """The places of all beams of sources, [sources * beams]."""
        beams = self.storage.beams
        return (sources[:, None] * beams + np.arange(beams)).ravel()

    def _rearrange(self, chosen: RowArray, sources: RowArray) -> None:
        """Keep these rows; sources stay where they lie, and beams go to their source's."""
        storage, beams = self.storage, self.storage.beams
        places = self._rows(sources)
        past_lengths = np.zeros_like(storage.past_lengths)
        past_lengths[places] = storage.past_lengths[chosen]
        source_lengths = np.ones_like(storage.source_lengths)
        source_lengths[sources] = storage.source_lengths[sources]
        own = storage.own
        if (places != chosen).any():
            order = np.arange(own.block.rows)
            order[places] = chosen
            own = self._caches.moved(own, order, own.block.length)
        self._store(storage.cross, own, beams, past_lengths, source_lengths)
        self._take_places(places)

    def _move(self, chosen: RowArray, room: Room | None = None) -> None:
        """Take these rows and their sources to blocks of that room.

        Args:
            room: None for as few places as hold them.
        """
        storage, beams = self.storage, self.storage.beams
        sources = self._sources(chosen)
        places, width, capacity = room or storage.room._replace(places=row_bucket(len(sources)))
        # What nobody has is a copy of the first: finite, which is all that counts.
        all_sources = np.resize(sources[:1], places)
        all_sources[: len(sources)] = sources
        all_rows = np.resize(chosen[:1], places * beams)
        all_rows[: len(chosen)] = chosen
        past_lengths = np.zeros(places * beams, np.int64)
        past_lengths[: len(chosen)] = storage.past_lengths[chosen]
        source_lengths = np.ones(places, np.int64)
        source_lengths[: len(sources)] = storage.source_lengths[sources]
        cross = self._caches.moved(storage.cross, all_sources, width)
        own = self._caches.moved(storage.own, all_rows, capacity)
        self._store(cross, own, beams, past_lengths, source_lengths)
        self._take_places(np.arange(len(chosen)))
        self._is_part = False

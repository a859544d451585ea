"""OrtState: self and cross caches in numpy arrays that onnxruntime reads and writes in place.

It knows shapes and rows, but no session. Self caches grow in buckets; rows are moved, never
rebuilt. Every buffer starts as zeros: attention multiplies what lies beyond a row's length by a
probability of zero, which only finite values survive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig
from bart_onnx.errors import InputError

_BUCKET = 64

# Sources are padded to a multiple of this. The last bits of an attention depend on how its keys
# fall into the groups that the CPU's kernels add up: with whole groups only, they fall alike for a
# source alone and beside a longer one.
SOURCE_MULTIPLE = 16


class OrtState:
    """Rows of cache on the CPU.

    Attributes:
        cross: the cross caches by their names in the graphs, [sources, heads, source_length,
            head_dim]; int8 ones with their scales, [sources, 1, hidden_dim].
        own: self key and value of each layer in turn, [rows, heads, capacity, head_dim].
        source_lengths: int64 [sources].
        version: changes whenever an array has been replaced, so that bindings can be renewed.
    """

    def __init__(
        self,
        config: BartConfig,
        cross: Mapping[str, NDArray[Any]],
        source_lengths: NDArray[np.int64],
        own_dtype: str = "float32",
    ) -> None:
        rows = len(source_lengths)
        shape = (rows, config.decoder.num_heads, _BUCKET, config.decoder_head_dim)
        self.cross = dict(cross)
        self.own = [np.zeros(shape, own_dtype) for _ in range(2 * config.decoder.num_layers)]
        self.source_lengths = source_lengths
        self.version = 0
        self._lengths = np.zeros(rows, np.int64)
        # Which source each row of the cross caches holds: copies of one need no moving.
        self._origins = np.arange(rows)
        # Whose memory this is a part of, and which of its rows.
        self._whole: OrtState | None = None
        self._span = slice(0, 0)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each row's self cache, int64 [rows]."""
        return self._lengths

    @property
    def rows(self) -> int:
        """How many rows are decoded together."""
        return len(self._lengths)

    @property
    def whole(self) -> OrtState:
        """The state whose memory this is a part of; itself where it is none."""
        return self if self._whole is None else self._whole

    @property
    def capacity(self) -> int:
        """Tokens that the self caches have room for."""
        return int(self.own[0].shape[2])

    @property
    def width(self) -> int:
        """Tokens that the cross caches have room for."""
        return next(int(array.shape[2]) for array in self.cross.values() if array.ndim == 4)

    def reserve(self, query_length: int) -> None:
        """Make room for `query_length` more tokens in every row."""
        needed = int(self._lengths.max(initial=0)) + query_length
        if self._whole is not None:
            self._whole.reserve(query_length)
            if self._whole.own[0].shape[2] != self.capacity:
                self._share(self._whole)
        elif needed > self.capacity:
            self._grow(max(needed, 2 * self.capacity))

    def advance(self, count: int) -> None:
        """Count `count` tokens that a step has written into every row."""
        self._lengths += count

    def truncate(self, lengths: NDArray[np.int64]) -> None:
        """Forget each row's tokens from position `lengths[r]` on."""
        if np.any(lengths > self._lengths) or np.any(lengths < 0):
            raise InputError(f"Cannot truncate rows of {self._lengths} tokens to {lengths}.")
        for row in np.flatnonzero(lengths < self._lengths):
            forgotten = slice(lengths[row], self._lengths[row])
            for array in self.own:
                array[row, :, forgotten] = 0
        self._lengths[:] = lengths

    def clear(self, first: int) -> None:
        """Forget all tokens of the rows from `first` on."""
        used = int(self._lengths[first:].max(initial=0))
        for array in self.own if used else ():
            array[first:, :, :used] = 0
        self._lengths[first:] = 0

    def between(self, first: int, last: int) -> Self:
        """Rows `first` to `last - 1` in the same memory."""
        part = object.__new__(type(self))
        part.version = 0
        part._span = slice(first, last)
        part._share(self)
        return part

    def expand(self, count: int) -> None:
        """Row r becomes rows r * count to r * count + count - 1, which share its source.

        Attention to int8 caches takes several queries of one source only, and no more than it has
        tokens; else each row gets a copy of its source, a fourth of what float32 would take.
        """
        self.own = [np.repeat(array, count, axis=0) for array in self.own]
        self._lengths = np.repeat(self._lengths, count)
        if self._is_int8 and (len(self.source_lengths) > 1 or count > self.source_lengths[0]):
            self.cross = {name: np.repeat(array, count, 0) for name, array in self.cross.items()}
            self.source_lengths = np.repeat(self.source_lengths, count)
            self._origins = np.repeat(self._origins, count)
        # A part that was expanded has rows of its own.
        self._whole = None
        self.version += 1

    def select(self, rows: NDArray[np.intp], since: int = 0) -> None:
        """Row i becomes what row `rows[i]` was; only rows that change place are copied.

        Rows of one source (beams) stay together: `rows` names as many of each source as there are.
        As many rows as before keep their arrays, so that bindings last.

        Args:
            since: a position before which each row has the same tokens as the row it replaces.
        """
        beams = self.beams
        sources = rows[::beams] // beams
        used = int(self._lengths.max(initial=0))
        self.own = _moved(self.own, rows, slice(since, used), np.arange(self.rows))
        cross = _moved(list(self.cross.values()), sources, slice(None), self._origins)
        self._origins = self._origins[sources]
        self.cross = dict(zip(self.cross, cross, strict=True))
        if len(rows) == self.rows:
            self._lengths[:] = self._lengths[rows]
            self.source_lengths[:] = self.source_lengths[sources]
            return
        self._lengths = self._lengths[rows]
        self.source_lengths = self.source_lengths[sources]
        # A part that was selected from has rows of its own, at the memory's old place.
        self._whole = None
        self.version += 1

    def room(self, sources: int, width: int, copies: int) -> Self:
        """Empty rows for so many sources of this state's kind, `width` tokens wide.

        Each source gets `copies` rows, which share its caches; int8 ones are copied for each, see
        `expand`.
        """
        if self._is_int8:
            sources, copies = sources * copies, 1
        cross = {}
        for name, array in self.cross.items():
            shape = [sources, *array.shape[1:]]
            # Scales have one line, whatever the width.
            shape[2] = width if array.ndim == 4 else array.shape[2]
            cross[name] = np.zeros(shape, array.dtype)
        empty = object.__new__(type(self))
        empty.cross, empty.version = cross, 0
        rows = sources * copies
        shapes = [(rows, array.shape[1], _BUCKET, array.shape[3]) for array in self.own]
        empty.own = [
            np.zeros(shape, array.dtype) for shape, array in zip(shapes, self.own, strict=True)
        ]
        empty.source_lengths = np.ones(sources, np.int64)
        empty._lengths, empty._origins = np.zeros(rows, np.int64), np.arange(sources)
        empty._whole, empty._span = None, slice(0, 0)
        return empty

    def receive(self, first: int, other: Self, copies: int) -> None:
        """Each row of another state becomes `copies` rows here, from row `first` on.

        Rows that are received into must be empty, see `truncate`, and sources fit the width.
        """
        each = copies * other.beams // self.beams
        place = first // self.beams
        sources = slice(place, place + len(other.source_lengths) * each)
        for name, array in other.cross.items():
            mine = self.cross[name]
            length = min(array.shape[2], mine.shape[2])
            mine[sources, :, :length] = np.repeat(array[:, :, :length], each, axis=0)
            mine[sources, :, length:] = 0
        self.source_lengths[sources] = np.repeat(other.source_lengths, each)
        fresh = np.arange(len(other.source_lengths)) + self._origins.max() + 1
        self._origins[sources] = np.repeat(fresh, each)
        used = int(other.lengths.max(initial=0))
        self.reserve(max(0, used - int(self._lengths.max(initial=0))))
        rows = slice(first, first + other.rows * copies)
        for own, array in zip(self.own, other.own, strict=True):
            own[rows, :, :used] = np.repeat(array[:, :, :used], copies, axis=0)
        self._lengths[rows] = np.repeat(other.lengths, copies)

    @property
    def _is_int8(self) -> bool:
        return any(array.dtype == np.int8 for array in self.cross.values())

    @property
    def beams(self) -> int:
        """Rows of each source."""
        return self.rows // max(1, len(self.source_lengths)) or 1

    def _share(self, whole: OrtState) -> None:
        self._whole = whole
        sources = slice(self._span.start // whole.beams, self._span.stop // whole.beams)
        self.own = [array[self._span] for array in whole.own]
        self.cross = {name: array[sources] for name, array in whole.cross.items()}
        self.source_lengths = whole.source_lengths[sources]
        self._origins = whole._origins[sources]
        self._lengths = whole._lengths[self._span]
        self.version += 1

    def _grow(self, capacity: int) -> None:
        capacity = -(-capacity // _BUCKET) * _BUCKET
        used = int(self._lengths.max(initial=0))
        for index, array in enumerate(self.own):
            rows, heads, _, width = array.shape
            grown = np.zeros((rows, heads, capacity, width), array.dtype)
            grown[:, :, :used] = array[:, :, :used]
            self.own[index] = grown
        self.version += 1


def _moved(
    arrays: list[NDArray[Any]], rows: NDArray[np.intp], span: slice, held: NDArray[np.intp]
) -> list[NDArray[Any]]:
    """The leading `len(rows)` rows of each array, holding in `span` what rows `rows` held.

    Rows of the same number in `held` hold the same.
    """
    moved = np.flatnonzero(held[rows] != held[: len(rows)])
    if len(moved):
        for array in arrays:
            array[moved, :, span] = array[rows[moved], :, span]
    return [array if len(rows) == len(array) else array[: len(rows)] for array in arrays]

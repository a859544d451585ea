"""TensorRTState: self and cross caches in device memory, where engines read and write them.

It knows rows and addresses, and no engine. The caches have slots for a bucket of sources: a step
computes all of a bucket, so that few shapes are captured, and what it finds for the idle ones is
left where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import InputError
from bart_onnx.graphs import TensorSpec
from bart_onnx.runners.buckets import row_bucket
from bart_onnx.runners.device_memory import Arena, Block, DeviceMemory

# numpy does not have every dtype; of these only the size counts.
_SIZES = {"bfloat16": 2}


def item_size(dtype: str) -> int:
    """Bytes of one number of a contract's dtype."""
    return _SIZES.get(dtype) or np.dtype(dtype).itemsize


@dataclass(frozen=True)
class CacheShapes:
    """How many bytes a row of each cache takes, by the caches' names in the step graph.

    Attributes:
        own: of the self caches, whose capacity is fixed.
        cross: of the cross caches, for one token of the source.
    """

    own: Mapping[str, int]
    cross: Mapping[str, int]

    @classmethod
    def of(cls, inputs: tuple[TensorSpec, ...], capacity: int) -> CacheShapes:
        """Of the step's inputs."""
        sizes: dict[str, dict[str, int]] = {"capacity": {}, "source_length": {}}
        for spec in inputs:
            for axis, named in sizes.items():
                if axis in spec.shape:
                    numbers = [size for size in spec.shape if isinstance(size, int)]
                    named[spec.name] = int(np.prod(numbers)) * item_size(spec.dtype)
        own = {name: size * capacity for name, size in sizes["capacity"].items()}
        return cls(own, sizes["source_length"])


class TensorRTState:
    """Rows of cache on a device; see `decoding.protocols.State`.

    Args:
        width: tokens that the cross caches have room for.
        most: rows that a step may compute.

    Attributes:
        width: tokens that the cross caches have room for.
        source_lengths: int64 [sources].
    """

    def __init__(
        self,
        shapes: CacheShapes,
        memory: DeviceMemory,
        arena: Arena,
        source_lengths: NDArray[np.int64],
        width: int,
        most: int,
    ) -> None:
        self._memory, self._arena = memory, arena
        self._row_sizes = dict(shapes.own)
        self._source_sizes = {name: size * width for name, size in shapes.cross.items()}
        self.width, self.source_lengths = width, source_lengths.copy()
        self._lengths = np.zeros(len(source_lengths), np.int64)
        self._most = most
        self._slots = max(len(source_lengths), min(row_bucket(len(source_lengths)), most))
        with arena.lock:
            self._own = self._cleared(self._slots)
            self._cross = self._blocks(self._source_sizes, self._slots)
        # Rows before this one's in the blocks, where others use them too.
        self._shared, self._first_row, self._first_source = False, 0, 0

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each row's self cache, int64 [rows]."""
        return self._lengths

    @property
    def rows(self) -> int:
        """How many rows are decoded together."""
        return len(self._lengths)

    @property
    def beams(self) -> int:
        """Rows of each source."""
        return self.rows // max(1, len(self.source_lengths)) or 1

    @property
    def computed_sources(self) -> int:
        """Sources that a step computes: with the idle ones, where nobody else has those slots."""
        sources = len(self.source_lengths)
        if self._shared:
            return sources
        return max(sources, min(row_bucket(sources), self._slots, self._most // self.beams))

    def addresses(self) -> dict[str, int]:
        """Where each cache of this state's first row lies, by its name in the step graph."""
        own = {
            name: block.address + self._first_row * self._row_sizes[name]
            for name, block in self._own.items()
        }
        return own | {name: self.cross_address(name) for name in self._cross}

    def cross_address(self, name: str, source: int = 0) -> int:
        """Where the cross cache of one of this state's sources lies."""
        place = self._first_source + source
        return self._cross[name].address + place * self._source_sizes[name]

    def advance(self, count: int) -> None:
        """Count `count` tokens that a step has written into every row."""
        self._lengths += count

    def truncate(self, lengths: NDArray[np.int64]) -> None:
        """Forget each row's tokens from position `lengths[r]` on.

        No memory is touched: attention goes by lengths. What is no number stays where it was
        written, so whoever has such tokens forgotten must not count on the row to be well again;
        `TensorRTRunner.drafts_pay` lets none be drafted.
        """
        if np.any(lengths > self._lengths) or np.any(lengths < 0):
            raise InputError(f"Cannot truncate rows of {self._lengths} tokens to {lengths}.")
        self._lengths[:] = lengths

    def between(self, first: int, last: int) -> Self:
        """Rows `first` to `last - 1` in the same memory."""
        part: Self = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        sources = slice(first // self.beams, last // self.beams)
        part._shared = self._shared or last - first < self.rows
        part._first_row = self._first_row + first
        part._first_source = self._first_source + sources.start
        part._lengths = self._lengths[first:last]
        part.source_lengths = self.source_lengths[sources]
        return part

    def expand(self, count: int) -> None:
        """Row r becomes rows r * count to r * count + count - 1; sources stay as they are."""
        with self._arena.lock:
            own = self._cleared(self._slots * self.beams * count)
            for name, size in self._row_sizes.items():
                source, target = self._own[name].address + self._first_row * size, own[name].address
                for row in range(self.rows * count):
                    self._memory.copy(target + row * size, source + row // count * size, size)
        self._own, self._first_row = own, 0
        self._lengths = np.repeat(self._lengths, count)

    def select(self, rows: NDArray[np.intp], since: int = 0) -> None:
        """Row i becomes what row `rows[i]` was; only rows that change place are copied, whole.

        Rows of one source (beams) stay together: `rows` names as many of each source as there are.
        """
        beams = self.beams
        sources = rows[::beams] // beams
        with self._arena.lock:
            self._move(self._own, self._row_sizes, self._first_row, rows)
            self._move(self._cross, self._source_sizes, self._first_source, sources)
        if len(rows) == self.rows:
            self._lengths[:] = self._lengths[rows]
            self.source_lengths[:] = self.source_lengths[sources]
            return
        self._lengths = self._lengths[rows]
        self.source_lengths = self.source_lengths[sources]

    def _move(
        self, blocks: Mapping[str, Block], sizes: Mapping[str, int], first: int, rows: NDArray[Any]
    ) -> None:
        """Let each slot hold what another did, as if all were copied at once."""
        moves = [(to, int(row)) for to, row in enumerate(rows) if to != row]
        targets = {to for to, _ in moves}
        crossing = any(row in targets for _, row in moves)
        for name, size in sizes.items():
            base = blocks[name].address + first * size
            if not crossing:
                for to, row in moves:
                    self._memory.copy(base + to * size, base + row * size, size)
                continue
            aside = self._arena.take(len(moves) * size)
            for index, (_, row) in enumerate(moves):
                self._memory.copy(aside.address + index * size, base + row * size, size)
            for index, (to, _) in enumerate(moves):
                self._memory.copy(base + to * size, aside.address + index * size, size)

    def _cleared(self, rows: int) -> dict[str, Block]:
        """Self caches of zeros: what an earlier batch left there may not even be a number."""
        blocks = self._blocks(self._row_sizes, rows)
        for block in blocks.values():
            self._memory.clear(block.address, block.size)
        return blocks

    def _blocks(self, sizes: Mapping[str, int], rows: int) -> dict[str, Block]:
        return {name: self._arena.take(rows * size) for name, size in sizes.items()}

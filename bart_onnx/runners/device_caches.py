"""Where states get their blocks from, and how a device is asked for anything at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import BartOnnxError, DeviceError, DeviceMemoryError
from bart_onnx.runners.blocks import Block, CacheKind, Lease, Placement, Pool
from bart_onnx.runners.device_errors import device_error
from bart_onnx.runners.row_moves import RowMover

RowArray: TypeAlias = NDArray[np.intp]

# onnxruntime captures graphs in cudaStreamCaptureModeGlobal: nothing else in the process may ask a
# device meanwhile, be it another model or a copy to the host. And what is bound belongs to one
# thread at a time. By process: a fork leaves a lock as it was, though nobody will ever let it go.
_LOCKS: dict[int, threading.RLock] = {}

# What rows that are put somewhere may take besides, twice: as they are, and as long as there.
_PUT_BYTES = 1 << 28


class Caches:
    """The blocks of one runner, and the moves between them.

    Args:
        divisible: whether a batch that finds no room is to be divided.
        forget: told the number of a block that is no more.
    """

    def __init__(
        self,
        placement: Placement,
        kind: CacheKind,
        divisible: bool,
        forget: Callable[[int], None],
    ) -> None:
        self.kind, self._placement, self._divisible = kind, placement, divisible
        self._whose = ""
        self._told = forget
        self._mover = RowMover(placement)
        self._pool = Pool(placement, kind, self._forget)
        self._blank = _blank(placement, kind)
        self._process = os.getpid()
        self._lock = _LOCKS.setdefault(self._process, threading.RLock())

    def of(self, whose: str) -> Self:
        """The same, but with blocks that are lent to nobody else.

        Steps are bound to pairs of blocks. Of 1,200 requests of nine kinds, 2 to 46 rows at a time,
        252 were, and more with each; with blocks of their own for rows of one kind, 60.
        """
        part = copy(self)
        part._whose = f" of {whose}"
        return part

    def for_sources(self, sources: int, length: int) -> Lease:
        """A block for the cross caches of so many sources; its content is not defined."""
        with self.asking(f"caches of {sources} sources of {length} tokens"):
            return self._pool.take(sources, length, f"cross{self._whose}")

    def for_rows(self, rows: int, length: int) -> Lease:
        """A block of zeros for self caches: attention multiplies what is not yet written by a
        probability of zero, which only finite values survive.
        """
        with self.asking(f"caches of {rows} rows of {length} tokens"):
            lease = self._pool.take(rows, length, f"own{self._whose}")
            self._mover.move(self._blank, lease.block, np.zeros(rows, np.int64))
            return lease

    def moved(self, lease: Lease, rows: RowArray, length: int) -> Lease:
        """A block of so many rows whose row i is row `rows[i]` of another."""
        with self.asking(f"moving {len(rows)} rows of {length} tokens"):
            target = self._pool.take(len(rows), length, lease.block.use)
            self._mover.move(lease.block, target.block, rows.astype(np.int64))
            return target

    def put(self, source: Lease, rows: RowArray, target: Lease, places: RowArray) -> None:
        """Row `places[i]` of a block becomes row `rows[i]` of another that is not longer.

        Args:
            rows, places: [n]; neighbours among the places, ascending, are written in one go, as
                far as that takes little memory.
        """
        with self.asking(f"putting {len(rows)} rows of {target.block.length} tokens"):
            edges = np.flatnonzero(np.diff(places) != 1) + 1
            at_once = max(1, _PUT_BYTES * target.block.rows // target.block.bytes)
            for run, some in zip(np.split(places, edges), np.split(rows, edges), strict=True):
                for first in range(0, len(run), at_once):
                    few = some[first : first + at_once].astype(np.int64)
                    self._mover.put(source.block, target.block, few, int(run[first]))

    def keep(self, lease: Lease, lengths: NDArray[np.int64]) -> None:
        """Zero row r of a block from position `lengths[r]` on."""
        with self.asking(f"clearing {lease.block.rows} rows of {lease.block.length} tokens"):
            lease.block.keep(lengths)

    @contextmanager
    def asking(self, doing: str) -> Iterator[None]:
        """Ask the device, alone in this process; what it answers amiss is raised as an error of
        this package.

        Raises:
            DeviceMemoryError: it has too little free memory.
            DeviceError: it failed, or this process is not the one that opened it.
        """
        if self._process != os.getpid():
            raise DeviceError(
                "A GPU cannot be used in a process forked after it was opened. Start processes "
                'with the method "spawn", or open the model in the child.'
            )
        try:
            with self._lock:
                yield
        except DeviceMemoryError as error:
            error.divisible = self._divisible
            raise
        except BartOnnxError:
            raise
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            told = device_error(error, self._placement.memory, self._placement.index, doing)
            if isinstance(told, DeviceMemoryError):
                told.divisible = self._divisible
            raise told from error

    def _forget(self, number: int) -> None:
        self._mover.forget(number)
        self._told(number)


def _blank(placement: Placement, kind: CacheKind) -> Block:
    """One row of zeros, one token long."""
    block = Block(placement, kind, 1, 1)
    block.value = placement.copied(np.zeros(block.as_float32(), np.float32))
    block.address = block.value.data_ptr()
    return block

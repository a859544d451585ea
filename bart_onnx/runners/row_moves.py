"""RowMover: rows of one block of caches become rows of another, on the device.

The graphs only copy (`exporters.row_moves` wrote them), so whatever a cache's numbers are, they
pass through as float32: half-width ones two by two. One file serves every precision, and no
operator need know bfloat16.

To move writes all of a block. To put writes some of its rows, where they lie: the other rows are
neither read nor written, so what rows cost that join others is their own caches, of all tensors in
one run.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.runners.blocks import Block, Placement
from bart_onnx.runners.providers import open_session

GRAPH = Path(__file__).with_name("move_rows.onnx")
PUT_GRAPH = Path(__file__).with_name("put_rows.onnx")

CACHES = "caches"
ROW_NUMBERS = "row_numbers"
PADS = "pads"
MOVED = "moved"

ROOM = "room"
FIRST = "first"
BLOCK = "block"
WRITTEN = "written"

# onnx.TensorProto.FLOAT
_FLOAT = 1
# Pad's numbers of five axes, first all starts and then all ends; the length is the fourth axis.
_PADS, _LENGTH_END = 10, 8

# How many rows come together from which block differs, so there are many; to bind one anew takes
# 21 µs, to run it 34 (a row of the shipped preset, the placement on one core).
_KEPT_PUTS = 256


class _Move:
    """One block's rows into another's, bound; which rows is written into it."""

    def __init__(self, session: Any, placement: Placement, source: Block, target: Block) -> None:
        self._session, self._blocks = session, (source, target)
        self._binding = session.io_binding()
        self._numbers = placement.copied(np.zeros(target.rows, np.int64))
        pads = np.zeros(_PADS, np.int64)
        pads[_LENGTH_END] = target.length - source.length
        # Pad reads its numbers on the host.
        self._pads = Placement.on_host(pads)
        where = (placement.memory, placement.index, _FLOAT)
        self._binding.bind_input(CACHES, *where, source.as_float32(), source.address)
        self._binding.bind_ortvalue_input(ROW_NUMBERS, self._numbers)
        self._binding.bind_ortvalue_input(PADS, self._pads)
        self._binding.bind_output(MOVED, *where, target.as_float32(), target.address)

    def run(self, rows: NDArray[np.int64]) -> None:
        self._numbers.update_inplace(rows)
        self._session.run_with_iobinding(self._binding)


class _Put:
    """Some rows of one block into another in use, bound; which, and where, is written into it."""

    def __init__(
        self, session: Any, placement: Placement, source: Block, target: Block, count: int
    ) -> None:
        self._session, self._blocks = session, (source, target)
        self._binding = session.io_binding()
        whole = target.as_float32()
        room = np.array([whole[0], count, *whole[2:]], np.int64)
        self._first = np.zeros(whole[0], np.int64)
        self._numbers = placement.copied(np.zeros(count, np.int64))
        self._starts = placement.copied(self._first)
        # Expand reads its shape on the host.
        self._room = Placement.on_host(room)
        where = (placement.memory, placement.index, _FLOAT)
        self._binding.bind_input(CACHES, *where, source.as_float32(), source.address)
        self._binding.bind_ortvalue_input(ROW_NUMBERS, self._numbers)
        self._binding.bind_ortvalue_input(ROOM, self._room)
        self._binding.bind_ortvalue_input(FIRST, self._starts)
        # The same memory: what is not written stays, and is not copied.
        self._binding.bind_input(BLOCK, *where, whole, target.address)
        self._binding.bind_output(WRITTEN, *where, whole, target.address)

    def run(self, rows: NDArray[np.int64], first: int) -> None:
        self._numbers.update_inplace(rows)
        self._first.fill(first)
        self._starts.update_inplace(self._first)
        self._session.run_with_iobinding(self._binding)


class RowMover:
    """Moves between the blocks of one pool. It is not to be used by two threads at a time."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._session = open_session(GRAPH, placement.device, 1, placement.provider_options)
        self._moves: dict[tuple[int, int], _Move] = {}
        self._puts: dict[tuple[int, int, int], _Put] = {}

    def move(self, source: Block, target: Block, rows: NDArray[np.int64]) -> None:
        """Row i of `target` becomes row `rows[i]` of `source`.

        Args:
            source, target: two blocks. Where the second is longer, zeros are added; where it is
                shorter, what lies beyond is left out.
            rows: int64 [rows of the target].
        """
        key = (source.number, target.number)
        if key not in self._moves:
            self._moves[key] = _Move(self._session, self._placement, source, target)
        self._moves[key].run(rows)

    def put(self, source: Block, target: Block, rows: NDArray[np.int64], first: int) -> None:
        """Row `first + i` of `target` becomes row `rows[i]` of `source`, with zeros behind it.

        Args:
            source, target: two blocks, the second not shorter than the first.
            rows: int64 [at most the rows of the target from `first` on].
        """
        key = (source.number, target.number, len(rows))
        put = self._puts.pop(key, None)
        if put is None:
            put = _Put(self._put_session, self._placement, source, target, len(rows))
        if len(self._puts) == _KEPT_PUTS:
            # The one that was used longest ago stands first.
            del self._puts[next(iter(self._puts))]
        self._puts[key] = put
        put.run(rows, first)

    def forget(self, number: int) -> None:
        """Drop what is bound to a block that is no more."""
        self._moves = {key: move for key, move in self._moves.items() if number not in key}
        self._puts = {key: put for key, put in self._puts.items() if number not in key[:2]}

    @cached_property
    def _put_session(self) -> Any:
        """Opened when rows first join others; who only generates never asks for that."""
        return open_session(PUT_GRAPH, self._placement.device, 1, self._placement.provider_options)

"""RowMover: rows of one block of caches become rows of another, on the device.

The graph only copies (`exporters.row_moves` wrote it), so whatever a cache's numbers are, they
pass through it as float32: half-width ones two by two. One file serves every precision, and no
operator need know bfloat16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.runners.blocks import Block, Placement
from bart_onnx.runners.providers import open_session

GRAPH = Path(__file__).with_name("move_rows.onnx")

CACHES = "caches"
ROW_NUMBERS = "row_numbers"
PADS = "pads"
MOVED = "moved"

# onnx.TensorProto.FLOAT
_FLOAT = 1
# Pad's numbers of five axes, first all starts and then all ends; the length is the fourth axis.
_PADS, _LENGTH_END = 10, 8


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


class RowMover:
    """Moves between the blocks of one pool. It is not to be used by two threads at a time."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._session = open_session(GRAPH, placement.device, 1, placement.provider_options)
        self._moves: dict[tuple[int, int], _Move] = {}

    def move(self, source: Block, target: Block, rows: NDArray[np.int64]) -> None:
        """Row i of `target` becomes row `rows[i]` of `source`, with zeros where that had no room.

        Args:
            source, target: two blocks, the second not shorter than the first.
            rows: int64 [rows of the target].
        """
        key = (source.number, target.number)
        if key not in self._moves:
            self._moves[key] = _Move(self._session, self._placement, source, target)
        self._moves[key].run(rows)

    def forget(self, number: int) -> None:
        """Drop what is bound to a block that is no more."""
        self._moves = {key: move for key, move in self._moves.items() if number not in key}

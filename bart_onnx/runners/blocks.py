"""Blocks of device memory that hold caches, and the pool that lends them. It knows no graph.

A block holds one tensor beside the other for all decoder layers, [tensors, rows, heads, length,
width], so that rows of all of them move in one go; a graph's tensor is bound by its address. A
captured CUDA graph reads and writes the addresses that it was captured with. So a block is never
moved and never changes its shape; a state that needs another shape takes another block, and one
given back waits, with whatever was captured on it, for the next state of its shape.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import DeviceMemoryError
from bart_onnx.runners.device_errors import device_error

# Numbers of onnx.TensorProto.DataType. onnxruntime takes them where numpy has no such type.
ELEMENTS = {"float32": 1, "int64": 7, "float16": 10, "bfloat16": 16}
_WIDTHS = {"float32": 4, "int64": 8, "float16": 2, "bfloat16": 2}

# Blocks that nobody uses are let go from so many bytes on, the oldest first.
_KEPT_BYTES = 4 << 30


@dataclass(frozen=True)
class Placement:
    """Where sessions run and memory lies.

    All that a GPU needs is said here, so that everything else runs on a CPU too.

    Attributes:
        device: the device's name for `providers.open_session`.
        memory: onnxruntime's name for its memory, "cuda" or "cpu".
        index: which of such devices.
        captures: whether the step's session captures CUDA graphs.
        provider_options: of every session.
    """

    device: str
    memory: str
    index: int = 0
    captures: bool = False
    provider_options: Mapping[str, str] = field(default_factory=dict)

    def allocated(self, shape: tuple[int, ...], dtype: str) -> Any:
        """An OrtValue on the device whose content is not defined."""
        from onnxruntime import OrtValue

        return OrtValue.ortvalue_from_shape_and_type(
            list(shape), ELEMENTS[dtype], self.memory, self.index
        )

    def copied(self, array: NDArray[Any]) -> Any:
        """An OrtValue on the device that holds a copy of an array."""
        from onnxruntime import OrtValue

        value = OrtValue.ortvalue_from_shape_and_type(
            array.shape, array.dtype, self.memory, self.index
        )
        value.update_inplace(array)
        return value

    @staticmethod
    def on_host(array: NDArray[Any]) -> Any:
        """An OrtValue that is the array."""
        from onnxruntime import OrtValue

        return OrtValue.ortvalue_from_numpy(array)


@dataclass(frozen=True)
class CacheKind:
    """What all caches of a model have in common.

    Attributes:
        tensors: keys and values of all decoder layers.
        heads, width: of one token's key.
        dtype: "float32", "float16" or "bfloat16".
    """

    tensors: int
    heads: int
    width: int
    dtype: str


# Of float32: kernels of onnxruntime's CUDA provider (Gather, Pad) count them in 32 bits.
_MOST_NUMBERS = (1 << 31) - 1


class Block:
    """Memory for rows of cache, [tensors, rows, heads, length, width].

    Attributes:
        number: its own, never given again.
        use: what it is for, so that those bound together come together again.
        address: where it begins.

    Raises:
        DeviceMemoryError: it is larger than can be moved, or than there is room for.
    """

    _numbers = itertools.count()

    def __init__(
        self, placement: Placement, kind: CacheKind, rows: int, length: int, use: str = "own"
    ) -> None:
        self.number = next(self._numbers)
        self.kind, self.rows, self.length, self.use = kind, rows, length, use
        shape = (kind.tensors, rows, kind.heads, length, kind.width)
        self.bytes = math.prod(shape) * _WIDTHS[kind.dtype]
        if math.prod(self.as_float32()) > _MOST_NUMBERS:
            raise DeviceMemoryError(
                f"Caches for {rows} rows of {length} tokens take {self.bytes:,} bytes, and "
                f"onnxruntime moves at most {4 * _MOST_NUMBERS:,} together on a GPU. Decode fewer "
                "rows at a time: smaller batches, batch_tokens or --rows."
            )
        # Only its address is bound, so it may be what numpy knows too.
        self.value = placement.allocated(tuple(self.as_float32()), "float32")
        self.address: int = self.value.data_ptr()

    @property
    def element(self) -> int:
        """The type of its numbers, as onnxruntime counts types."""
        return ELEMENTS[self.kind.dtype]

    def part(self, tensor: int, first: int = 0, last: int | None = None) -> tuple[list[int], int]:
        """Shape and address of rows `first` to `last - 1` of one tensor."""
        rows = (self.rows if last is None else last) - first
        shape = [rows, self.kind.heads, self.length, self.kind.width]
        row_bytes = self.bytes // (self.kind.tensors * self.rows)
        return shape, self.address + (tensor * self.rows + first) * row_bytes

    def keep(self, lengths: NDArray[np.int64]) -> None:
        """Zero row r from position `lengths[r]` on. It goes by way of the host: seldom called."""
        array = self.value.numpy().copy()
        for row, length in enumerate(lengths):
            array[:, row, :, length:] = 0
        self.value.update_inplace(array)

    def as_float32(self) -> list[int]:
        """Its shape, were it float32."""
        kind = self.kind
        width = kind.width * _WIDTHS[kind.dtype] // _WIDTHS["float32"]
        return [kind.tensors, self.rows, kind.heads, self.length, width]


class Lease:
    """A block for as long as somebody holds this."""

    def __init__(self, block: Block, returned: list[Block]) -> None:
        self.block = block
        # A list's append is whole in any thread, wherever the garbage collector comes from.
        weakref.finalize(self, returned.append, block).atexit = False


class Pool:
    """Blocks of one kind. Whoever takes one holds the lock of its runner.

    Args:
        forget: told the number of a block that is let go.
    """

    def __init__(
        self, placement: Placement, kind: CacheKind, forget: Callable[[int], None]
    ) -> None:
        self._placement, self.kind, self._forget = placement, kind, forget
        self._free: list[Block] = []
        self._blocks: weakref.WeakSet[Block] = weakref.WeakSet()

    @property
    def bytes(self) -> int:
        """What all blocks hold, lent or not."""
        return sum(block.bytes for block in self._blocks)

    def take(self, rows: int, length: int, use: str) -> Lease:
        """A block of that shape for that use; what it holds is not defined.

        Raises:
            DeviceMemoryError: the device has no memory for it, not even without what is kept.
        """
        # The last one given back first: what was captured on it is the likeliest to fit.
        for place in range(len(self._free) - 1, -1, -1):
            block = self._free[place]
            if (block.rows, block.length, block.use) == (rows, length, use):
                return Lease(self._free.pop(place), self._free)
        self._let_go(_KEPT_BYTES)
        return Lease(self._new(rows, length, use), self._free)

    def _new(self, rows: int, length: int, use: str) -> Block:
        try:
            block = self._allocated(rows, length, use)
        except Exception:  # onnxruntime's errors share no base class but Exception
            self._let_go(0)
            block = self._allocated_or_told(rows, length, use)
        self._blocks.add(block)
        return block

    def _allocated_or_told(self, rows: int, length: int, use: str) -> Block:
        try:
            return self._allocated(rows, length, use)
        except Exception as error:
            where = self._placement
            doing = (
                f"caches of {rows} rows of {length} tokens (those in use hold {self.bytes} bytes)"
            )
            raise device_error(error, where.memory, where.index, doing) from error

    def _allocated(self, rows: int, length: int, use: str) -> Block:
        return Block(self._placement, self.kind, rows, length, use)

    def _let_go(self, most: int) -> None:
        """Let the oldest free blocks go until the rest hold at most so many bytes."""
        while sum(block.bytes for block in self._free) > most:
            self._forget(self._free.pop(0).number)

"""Runs of one engine by shape and place: made once, kept while they may come again.

It knows the contract's tensors: whole numbers are read from the host, in one copy; caches lie where
a state has them; other outputs have memory of their own, which all runs of a size share.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.graphs import GraphSpec, TensorSpec
from bart_onnx.runners.device_memory import ALIGNMENT, Arena, Block, DeviceMemory
from bart_onnx.runners.tensorrt_engine import Engine, Run
from bart_onnx.runners.tensorrt_state import item_size

# Runs that are kept: each holds a context and, captured, a graph.
_KEPT = 64
_INT64 = "int64"
_BFLOAT16 = "bfloat16"


class Runs:
    """The runs of one engine."""

    def __init__(
        self,
        engine: Engine,
        spec: GraphSpec,
        memory: DeviceMemory,
        arena: Arena,
        activations: Block | None,
    ) -> None:
        self._engine, self._spec, self._memory = engine, spec, memory
        self._arena, self._activations = arena, activations
        self._aliased = engine.aliased()
        self._specs = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)}
        self._kept: OrderedDict[tuple[Any, ...], HostedRun] = OrderedDict()
        self._outputs: dict[tuple[str, int], Block] = {}

    def at(
        self, axes: Mapping[str, int], places: Mapping[str, int], room: Mapping[str, int]
    ) -> HostedRun:
        """The run at these sizes of axes, with the tensors named at these addresses.

        Args:
            room: sizes of the outputs' axes, as large or larger, that memory is kept for.
        """
        key = (tuple(axes.items()), tuple(places.items()))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        while len(self._kept) >= _KEPT:
            # It may be running still.
            self._memory.wait()
            self._kept.popitem(last=False)
        self._kept[key] = self._made(axes, places, room)
        return self._kept[key]

    def fetched(self, name: str, address: int, sizes: tuple[int, int]) -> NDArray[Any]:
        """A tensor of rows and columns that lies at an address, on the host."""
        spec = self._specs[name]
        named = iter(sizes)
        shape = [size if isinstance(size, int) else next(named) for size in spec.shape]
        array = np.empty(shape, host_dtype(spec.dtype))
        self._memory.to_host(address, array)
        return as_numbers(array, spec.dtype)

    def _made(
        self, axes: Mapping[str, int], places: Mapping[str, int], room: Mapping[str, int]
    ) -> HostedRun:
        shapes = {tensor.name: _shape(tensor, axes) for tensor in self._specs.values()}
        numbers = [tensor for tensor in self._spec.inputs if tensor.dtype == _INT64]
        given = Given({tensor.name: shapes[tensor.name] for tensor in numbers}, self._arena)
        addresses = {**places, **given.addresses()}
        for tensor in self._spec.outputs:
            if tensor.name in self._aliased:
                addresses[tensor.name] = addresses[self._aliased[tensor.name]]
            elif tensor.name not in addresses:
                addresses[tensor.name] = self._room_for(tensor, room).address
        inputs = {tensor.name: shapes[tensor.name] for tensor in self._spec.inputs}
        run = self._engine.run(inputs, addresses, self._activations)
        outputs = {
            tensor.name: Fetched(tensor.dtype, shapes[tensor.name], addresses[tensor.name])
            for tensor in self._spec.outputs
        }
        return HostedRun(run, given, outputs, self._memory)

    def _room_for(self, tensor: TensorSpec, room: Mapping[str, int]) -> Block:
        size = int(np.prod(_shape(tensor, room))) * item_size(tensor.dtype)
        key = (tensor.name, size)
        if key not in self._outputs:
            self._outputs[key] = self._arena.take(size)
        return self._outputs[key]


class Given:
    """Whole numbers that a run reads, side by side in one block, and their twin on the host."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], arena: Arena) -> None:
        step = ALIGNMENT // np.dtype(np.int64).itemsize
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        end = 0
        for name, shape in shapes.items():
            self._places[name] = (end, shape)
            end += -(-int(np.prod(shape)) // step) * step
        self._host = np.zeros(end, np.int64)
        self._block = arena.take(self._host.nbytes)

    def addresses(self) -> dict[str, int]:
        """Where each lies on the device."""
        size = self._host.itemsize
        return {
            name: self._block.address + first * size for name, (first, _) in self._places.items()
        }

    def write(
        self, values: Mapping[str, NDArray[np.int64]], idle: Mapping[str, int], memory: DeviceMemory
    ) -> None:
        """Take up `values`, whose first axis may be shorter; what is past it is `idle`."""
        for name, (first, shape) in self._places.items():
            view = self._host[first : first + int(np.prod(shape))].reshape(shape)
            count = len(values[name])
            view[:count] = values[name]
            view[count:] = idle.get(name, 0)
        memory.to_device(self._block.address, self._host)


class Fetched:
    """An output on the device, and memory on the host for as much of it as is wanted."""

    def __init__(self, dtype: str, shape: tuple[int, ...], address: int) -> None:
        self._dtype, self._shape, self._address = dtype, shape, address
        self._host: NDArray[Any] | None = None

    def rows(self, count: int, memory: DeviceMemory) -> NDArray[np.generic]:
        """The first rows."""
        if self._host is None:
            self._host = np.empty(self._shape, host_dtype(self._dtype))
        memory.to_host(self._address, self._host[:count])
        return as_numbers(self._host[:count], self._dtype)


class HostedRun:
    """A run that is given whole numbers from the host, and gives back what is asked for."""

    def __init__(
        self, run: Run, given: Given, outputs: Mapping[str, Fetched], memory: DeviceMemory
    ) -> None:
        self._run, self._given, self._outputs, self._memory = run, given, outputs, memory

    def __call__(
        self,
        values: Mapping[str, NDArray[np.int64]],
        idle: Mapping[str, int],
        wanted: Sequence[str],
        rows: int,
    ) -> dict[str, NDArray[np.generic]]:
        """Run once; of the outputs wanted, the first rows, in memory that the next run uses."""
        self._given.write(values, idle, self._memory)
        self._run()
        return {name: self._outputs[name].rows(rows, self._memory) for name in wanted}


def host_dtype(dtype: str) -> np.dtype[Any]:
    """What a contract's dtype is read as; numpy has no bfloat16."""
    return np.dtype(np.uint16 if dtype == _BFLOAT16 else dtype)


def as_numbers(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """What was read, as numbers: a bfloat16 is the upper half of a float32."""
    if dtype != _BFLOAT16:
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def _shape(tensor: TensorSpec, axes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(axes[axis] if isinstance(axis, str) else axis for axis in tensor.shape)

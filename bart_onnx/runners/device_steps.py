"""Steps bound to blocks: what goes up each time is ids, positions and lengths; what is read comes
down. It knows which tensor is which part of a block; which blocks, and when, is the runner's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bart_onnx.graphs import (
    CROSS_ATTENTION,
    DECODER_POSITIONS,
    DECODER_TOKEN_IDS,
    PAST_LENGTHS,
    SOURCE_LENGTHS,
    TensorSpec,
    cache_names,
    cross_query_name,
)
from bart_onnx.runners.blocks import Block, Placement
from bart_onnx.runners.device_caches import RowArray
from bart_onnx.runners.device_state import DeviceState, Storage

Asking: TypeAlias = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Layout:
    """What a step is bound for.

    Attributes:
        own, cross: the blocks of its rows and of their sources.
        query_length: tokens it is fed of each row.
        wanted: its outputs.
    """

    own: Block
    cross: Block
    query_length: int
    wanted: tuple[str, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for the same blocks."""
        return (self.own.number, self.cross.number, self.query_length, self.wanted)

    @property
    def layers(self) -> int:
        """The decoder's, each with a key and a value."""
        return self.own.kind.tensors // 2

    def shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """The shape of an output of the step or of the alignment."""
        axes = {
            "batch": self.own.rows,
            "source": self.cross.rows,
            "query_length": self.query_length,
            "source_length": self.cross.length,
            "capacity": self.own.length,
        }
        return tuple(axes[axis] if isinstance(axis, str) else axis for axis in spec.shape)


class DeviceBinding:
    """A session bound to memory of one device."""

    def __init__(self, session: Any, placement: Placement) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._where = (placement.memory, placement.index)

    def read(self, name: str, value: Any) -> None:
        """Bind an input."""
        self._binding.bind_ortvalue_input(name, value)

    def write(self, name: str, value: Any) -> None:
        """Bind an output."""
        self._binding.bind_ortvalue_output(name, value)

    def read_part(self, name: str, block: Block, tensor: int) -> None:
        """Bind an input to one tensor of a block."""
        self._binding.bind_input(name, *self._where, block.element, *block.part(tensor))

    def write_part(
        self, name: str, block: Block, tensor: int, first: int = 0, last: int | None = None
    ) -> None:
        """Bind an output to rows of one tensor of a block."""
        part = block.part(tensor, first, last)
        self._binding.bind_output(name, *self._where, block.element, *part)

    def run(self, options: Any = None) -> None:
        """Read the inputs and write the outputs; it returns when they are written."""
        self._session.run_with_iobinding(self._binding, options)


class Brought(Mapping[str, NDArray[Any]]):
    """Outputs of a step, each brought from the device when it is first looked at.

    Args:
        axes: of each output, which axis counts the tokens fed.
        asking: see `device_caches.Caches.asking`.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        axes: Mapping[str, int],
        rows: RowArray | slice,
        query_length: int,
        asking: Asking,
    ) -> None:
        self._asking = asking
        self._values, self._axes, self._rows = values, axes, rows
        self._query_length = query_length
        self._found: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._found:
            value = self._values[name]
            with self._asking(f"bringing {name} to the host"):
                whole: NDArray[Any] = value.numpy()
            rows = whole[self._rows]
            before = (slice(None),) * self._axes[name]
            self._found[name] = rows[(*before, slice(self._query_length))]
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class DeviceStep:
    """A step of one layout.

    Args:
        specs: the outputs of the step and of the alignment, by name.
        asking: how outputs are brought from the device, see `device_caches.Caches.asking`.
        alignment: the alignment graph's session, where its output is wanted.
        options: onnxruntime's options of a run, which name the graph to capture or to replay.
    """

    def __init__(
        self,
        session: Any,
        placement: Placement,
        layout: Layout,
        specs: Mapping[str, TensorSpec],
        asking: Asking,
        alignment: Any = None,
        options: Any = None,
    ) -> None:
        self._options, self._asking = options, asking
        self._offsets = np.arange(layout.query_length)
        shape = (layout.own.rows, layout.query_length)
        self._token_ids, self._positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._source_lengths = np.ones(layout.cross.rows, np.int64)
        given = {
            DECODER_TOKEN_IDS: self._token_ids,
            DECODER_POSITIONS: self._positions,
            PAST_LENGTHS: np.zeros(layout.own.rows, np.int64),
            SOURCE_LENGTHS: self._source_lengths,
        }
        self._given = {name: placement.copied(array) for name, array in given.items()}
        values = _outputs(placement, layout, specs)
        self._outputs = {name: values[name] for name in layout.wanted}
        self._axes = {name: specs[name].shape.index("query_length") for name in layout.wanted}
        self._binding = DeviceBinding(session, placement)
        for name, value in self._given.items():
            self._binding.read(name, value)
        for name in values.keys() - {CROSS_ATTENTION}:
            self._binding.write(name, values[name])
        self._bind_caches(layout)
        self._aligned: DeviceBinding | None = None
        if CROSS_ATTENTION in layout.wanted:
            self._aligned = self._alignment(alignment, placement, layout, values)

    def run(
        self, state: DeviceState, token_ids: NDArray[np.int64], positions: int
    ) -> Mapping[str, NDArray[np.generic]]:
        """Feed `token_ids` [rows, at most the layout's] to the rows of a state.

        Args:
            positions: how many the model has; what stands beyond them is padding.
        """
        storage, query_length = state.storage, token_ids.shape[1]
        self._token_ids.fill(0)
        self._token_ids[state.places, :query_length] = token_ids
        np.add(storage.past_lengths[:, None], self._offsets, out=self._positions)
        np.minimum(self._positions, positions - 1, out=self._positions)
        self._give(storage)
        self._binding.run(self._options)
        if self._aligned is not None:
            self._aligned.run()
        rows = slice(state.rows) if state.in_order else state.places
        return Brought(self._outputs, self._axes, rows, query_length, self._asking)

    def _give(self, storage: Storage) -> None:
        self._given[DECODER_TOKEN_IDS].update_inplace(self._token_ids)
        self._given[DECODER_POSITIONS].update_inplace(self._positions)
        self._given[PAST_LENGTHS].update_inplace(storage.past_lengths)
        # They change only when sources leave or others come, and then they are another array.
        if self._source_lengths is not storage.source_lengths:
            self._source_lengths = storage.source_lengths
            self._given[SOURCE_LENGTHS].update_inplace(self._source_lengths)

    def _bind_caches(self, layout: Layout) -> None:
        for layer in range(layout.layers):
            names, key, value = cache_names(layer), 2 * layer, 2 * layer + 1
            self._binding.read_part(names.self_key, layout.own, key)
            self._binding.read_part(names.self_value, layout.own, value)
            self._binding.read_part(names.cross_key, layout.cross, key)
            self._binding.read_part(names.cross_value, layout.cross, value)
            self._binding.write_part(names.updated_self_key, layout.own, key)
            self._binding.write_part(names.updated_self_value, layout.own, value)

    def _alignment(
        self, session: Any, placement: Placement, layout: Layout, values: Mapping[str, Any]
    ) -> DeviceBinding:
        """The alignment graph on the queries that the step writes."""
        binding = DeviceBinding(session, placement)
        binding.read(SOURCE_LENGTHS, self._given[SOURCE_LENGTHS])
        for layer in range(layout.layers):
            binding.read(cross_query_name(layer), values[cross_query_name(layer)])
            binding.read_part(cache_names(layer).cross_key, layout.cross, 2 * layer)
        binding.write(CROSS_ATTENTION, values[CROSS_ATTENTION])
        return binding


def _outputs(
    placement: Placement, layout: Layout, specs: Mapping[str, TensorSpec]
) -> dict[str, Any]:
    """Memory for what is wanted, and for the queries that an alignment is made of."""
    names = list(layout.wanted)
    if CROSS_ATTENTION in names:
        names += map(cross_query_name, range(layout.layers))
    return {
        name: placement.allocated(layout.shape(specs[name]), specs[name].dtype) for name in names
    }

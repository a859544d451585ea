"""OrtRunner: a bundle's graphs on onnxruntime. It knows tensors, and no rule of generation.

Inputs and outputs are bound once for as long as a state's arrays stand; a step then writes ids and
positions into bound memory and runs. Self caches are bound as input and output alike, so that each
step writes one token into them and copies nothing.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.bundle import Bundle
from bart_onnx.config import BartConfig
from bart_onnx.errors import BundleError, DeviceError, InputTooLongError
from bart_onnx.graphs import (
    DECODER_POSITIONS,
    DECODER_STEP,
    DECODER_TOKEN_IDS,
    ENCODER,
    ENCODER_SEQUENCE_OUTPUT,
    ENCODER_TOKEN_IDS,
    PAST_LENGTHS,
    SOURCE_LENGTHS,
    GraphSpec,
    cache_names,
    decoder_step_graph,
    graph_specs,
)
from bart_onnx.runners.cache import OrtState
from bart_onnx.runners.providers import open_session

# Encoder activations of so many tokens at a time: more would cost memory and gain no speed.
_ENCODER_TOKENS = 4096

# Sources are padded to a multiple of this. The last bits of an attention depend on how its keys
# fall into the groups that the CPU's kernels add up: with whole groups only, they fall alike for a
# source alone and beside a longer one.
_SOURCE_MULTIPLE = 16

# Sessions of a parent process. Their threads do not exist in a child, so they must not be closed.
_LEFT_OPEN: list[Any] = []


class OrtRunner:
    """Encoder and decoder step of one bundle, opened on one device.

    Steps of different states may run in different threads at the same time. In a process forked
    after opening, the sessions are opened again at their first use.

    Raises:
        DeviceError: the device is not there, or is none this runner drives.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", threads: int | None = None) -> None:
        if device != "cpu":
            raise DeviceError(f"Device {device!r} is not driven by this version; devices: cpu.")
        self.bundle = bundle
        self.device = device
        self._threads = threads
        self._outputs = {spec.name: spec for spec in decoder_step_graph(bundle.config).outputs}
        self._open()

    @property
    def config(self) -> BartConfig:
        """The model's numbers."""
        return self.bundle.config

    def encode(self, token_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> OrtState:
        """A state of one row for each source.

        Args:
            token_ids: int64 [rows, longest], padded on the right, at most the model's positions.
            lengths: int64 [rows].

        Raises:
            InputTooLongError: a source has more tokens than the model has positions.
        """
        token_ids = self._padded(token_ids)
        rows, longest = token_ids.shape
        heads, width = self.config.decoder.num_heads, self.config.decoder_head_dim
        shape = (rows, heads, longest, width)
        cross = {name: np.empty(shape, np.float32) for name in self._cross_names()}
        self._encode(token_ids, lengths, cross)
        return OrtState(self.config, list(cross.values()), lengths.copy())

    def encoder_output(
        self, token_ids: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """The encoder's hidden states, float32 [rows, length, hidden_dim]; see `encode`."""
        length = token_ids.shape[1]
        token_ids = self._padded(token_ids)
        output = np.empty((*token_ids.shape, self.config.hidden_dim), np.float32)
        self._encode(token_ids, lengths, {ENCODER_SEQUENCE_OUTPUT: output})
        return output[:, :length]

    def step(
        self, state: OrtState, token_ids: NDArray[np.int64], wanted: Sequence[str]
    ) -> Mapping[str, NDArray[np.generic]]:
        """Feed `token_ids` [rows, q] to the rows of `state`; see `decoding.protocols.Runner`.

        Raises:
            InputTooLongError: a row would pass the model's last position.
        """
        query_length = token_ids.shape[1]
        self._check_positions("decoder", int(state.lengths.max(initial=0)) + query_length)
        state.reserve(query_length)
        binding = self._binding(state, query_length, tuple(wanted))
        outputs = binding.run(token_ids, state.lengths)
        state.advance(query_length)
        return outputs

    def _encode(
        self,
        token_ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
        outputs: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Run the encoder, some rows at a time; what it computes lands in `outputs`."""
        session = self._session(ENCODER)
        at_once = max(1, _ENCODER_TOKENS // token_ids.shape[1])
        for first in range(0, len(token_ids), at_once):
            some = slice(first, first + at_once)
            binding = session.io_binding()
            inputs = {ENCODER_TOKEN_IDS: token_ids[some], SOURCE_LENGTHS: lengths[some]}
            for name, array in inputs.items():
                binding.bind_ortvalue_input(name, _value(np.ascontiguousarray(array)))
            for name, output in outputs.items():
                binding.bind_ortvalue_output(name, _value(output[some]))
            session.run_with_iobinding(binding, _only_what_is_bound())

    def _padded(self, token_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        longest = token_ids.shape[1]
        self._check_positions("encoder", longest)
        return np.pad(token_ids, ((0, 0), (0, -longest % _SOURCE_MULTIPLE)))

    def _cross_names(self) -> list[str]:
        """Names of the cross caches in the order in which a state holds them."""
        layers = map(cache_names, range(self.config.decoder.num_layers))
        return [name for names in layers for name in (names.cross_key, names.cross_value)]

    def _binding(self, state: OrtState, query_length: int, wanted: tuple[str, ...]) -> _Step:
        session = self._session(DECODER_STEP)
        key = (id(session), state.version, query_length, wanted)
        with self._lock:
            bound = self._bindings.setdefault(state, {})
        if key not in bound:
            stale = [other for other in bound if other[:2] != key[:2]]
            for other in stale:
                del bound[other]
            shapes = {name: self._output_shape(name, state, query_length) for name in wanted}
            bound[key] = _Step(session, state, query_length, shapes)
        return bound[key]

    def _output_shape(
        self, name: str, state: OrtState, query_length: int
    ) -> tuple[tuple[int, ...], str]:
        spec = self._outputs[name]
        axes = {"batch": state.rows, "query_length": query_length}
        return tuple(axes[axis] if isinstance(axis, str) else axis for axis in spec.shape), (
            spec.dtype
        )

    def _session(self, graph: str) -> Any:
        if self._process != os.getpid():
            _LEFT_OPEN.append((self._sessions, self._bindings))
            self._open()
        return self._sessions[graph]

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._bindings: weakref.WeakKeyDictionary[OrtState, dict[tuple[Any, ...], _Step]] = (
            weakref.WeakKeyDictionary()
        )
        self._sessions = {
            spec.name: _checked_session(
                open_session(self.bundle.graph(spec.name), self.device, self._threads), spec
            )
            for spec in graph_specs(self.config)
        }
        self._process = os.getpid()

    def _check_positions(self, side: str, length: int) -> None:
        limit = self.config.max_sequence_length
        if length > limit:
            raise InputTooLongError(
                f"The {side} was given {length} tokens; this model has {limit} positions."
            )


class _Step:
    """One step of one state with everything bound: ids and positions are written, then it runs."""

    def __init__(
        self,
        session: Any,
        state: OrtState,
        query_length: int,
        shapes: Mapping[str, tuple[tuple[int, ...], str]],
    ) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._options = _only_what_is_bound()
        self._token_ids = np.zeros((state.rows, query_length), np.int64)
        self._positions = np.zeros((state.rows, query_length), np.int64)
        self._past_lengths = np.zeros(state.rows, np.int64)
        self._offsets = np.arange(query_length)
        self._outputs = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
        inputs: dict[str, NDArray[Any]] = {
            DECODER_TOKEN_IDS: self._token_ids,
            DECODER_POSITIONS: self._positions,
            PAST_LENGTHS: self._past_lengths,
            SOURCE_LENGTHS: np.ascontiguousarray(state.source_lengths),
        }
        for layer in range(len(state.own) // 2):
            names = cache_names(layer)
            inputs[names.self_key], inputs[names.self_value] = state.own[2 * layer : 2 * layer + 2]
            cross = state.cross[2 * layer : 2 * layer + 2]
            inputs[names.cross_key], inputs[names.cross_value] = cross
        values = {name: _value(array) for name, array in inputs.items()}
        for name, value in values.items():
            self._binding.bind_ortvalue_input(name, value)
        for layer in range(len(state.own) // 2):
            names = cache_names(layer)
            self._binding.bind_ortvalue_output(names.updated_self_key, values[names.self_key])
            self._binding.bind_ortvalue_output(names.updated_self_value, values[names.self_value])
        for name, array in self._outputs.items():
            self._binding.bind_ortvalue_output(name, _value(array))
        # The bound values borrow the arrays' memory.
        self._keep = (inputs, values)

    def run(
        self, token_ids: NDArray[np.int64], past_lengths: NDArray[np.int64]
    ) -> Mapping[str, NDArray[np.generic]]:
        self._token_ids[:] = token_ids
        self._past_lengths[:] = past_lengths
        np.add(past_lengths[:, None], self._offsets, out=self._positions)
        self._session.run_with_iobinding(self._binding, self._options)
        return self._outputs


def _checked_session(session: Any, spec: GraphSpec) -> Any:
    """The session, if its graph takes and gives what the contract says."""
    for tensors, found in (
        (spec.inputs, session.get_inputs()),
        (spec.outputs, session.get_outputs()),
    ):
        expected = [(tensor.name, list(tensor.shape)) for tensor in tensors]
        given = [(tensor.name, list(tensor.shape)) for tensor in found]
        if given != expected:
            odd = next(pair for pair in zip_longest(expected, given) if pair[0] != pair[1])
            raise BundleError(
                f"The {spec.name} graph does not fit the bundle's config: expected {odd[0]}, "
                f"found {odd[1]}. Export the checkpoint again."
            )
    return session


def _value(array: NDArray[Any]) -> Any:
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy(array)


def _only_what_is_bound() -> Any:
    from onnxruntime import RunOptions

    options = RunOptions()
    options.only_execute_path_to_fetches = True
    return options

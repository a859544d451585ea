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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.bundle import Bundle
from bart_onnx.config import BartConfig
from bart_onnx.devices import check_precision
from bart_onnx.errors import DeviceError
from bart_onnx.graphs import (
    ALIGNMENT,
    CROSS_ATTENTION,
    DECODER_STEP,
    ENCODER,
    ENCODER_SEQUENCE_OUTPUT,
    ENCODER_TOKEN_IDS,
    INT8,
    SOURCE_LENGTHS,
    TensorSpec,
    cross_query_name,
    graph_specs,
    self_cache_dtype,
)
from bart_onnx.runners.cache import SOURCE_MULTIPLE, OrtState
from bart_onnx.runners.contract import check_positions, checked_session
from bart_onnx.runners.providers import open_session
from bart_onnx.runners.slots import OrtSlots
from bart_onnx.runners.steps import AlignedStep, Binding, Step

# Encoder activations of so many tokens at a time: of more, they no longer fit the caches of a core,
# and 4096 tokens take a tenth longer than four times 1024.
_ENCODER_TOKENS = 1024

# Prompt tokens fed in one step: bounds the activations that a long prompt makes.
_PROMPT_TOKENS = 64

# With more sources drafts cost more than they bring: on one core, four tokens of each take 1.2 of a
# step's time with one source, 1.4 with two, 1.9 with four, 2.2 with eight.
_DRAFTED_SOURCES = 2
# Steps of a model with fewer weights (1.5 ms) are no longer than what drafts take beside them.
_DRAFTED_WEIGHTS = 5_000_000

# Sessions of a parent process. Their threads do not exist in a child, so they must not be closed.
_LEFT_OPEN: list[Any] = []


class OrtRunner:
    """Encoder and decoder step of one bundle, opened on one device.

    Steps of different states may run in different threads at the same time. In a process forked
    after opening, the sessions are opened again at their first use.

    Args:
        judging: run on a CPU what is meant for a GPU too, slowly, to see what it answers.

    Raises:
        DeviceError: the device is not there, is none this runner drives, or does not run the
            bundle's precision.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cpu",
        threads: int | None = None,
        *,
        judging: bool = False,
    ) -> None:
        if device != "cpu":
            raise DeviceError(f"Device {device!r} is not driven by this version; devices: cpu.")
        if not judging:
            check_precision(device, bundle.precision, str(bundle.manifest["source"].get("uri")))
        self.bundle = bundle
        self.device = device
        self._threads = threads
        self._graphs = {spec.name: spec for spec in graph_specs(bundle.config, bundle.precision)}
        # Attention to int8 caches takes several sources, or several tokens of one.
        self._one_at_a_time = bundle.precision == INT8
        stepped = (self._graphs[DECODER_STEP], self._graphs[ALIGNMENT])
        self._outputs = {spec.name: spec for graph in stepped for spec in graph.outputs}
        self._open()

    @property
    def config(self) -> BartConfig:
        """The model's numbers."""
        return self.bundle.config

    @property
    def tokens_at_once(self) -> int:
        """See `decoding.protocols.Runner`."""
        return 1 if self._one_at_a_time else _PROMPT_TOKENS

    @property
    def batch_tokens(self) -> int | None:
        """See `decoding.protocols.Runner`."""
        return None

    def drafts_pay(self, sources: int) -> bool:
        """See `decoding.protocols.Runner`."""
        most = 1 if self._one_at_a_time else _DRAFTED_SOURCES
        return sources <= most and _step_weights(self.config) >= _DRAFTED_WEIGHTS

    def encode(self, token_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> OrtState:
        """A state of one row for each source.

        Args:
            token_ids: int64 [rows, longest], padded on the right, at most the model's positions.
            lengths: int64 [rows].

        Raises:
            InputTooLongError: a source has more tokens than the model has positions.
        """
        token_ids = self._padded(token_ids)
        axes = {"source": len(token_ids), "source_length": token_ids.shape[1]}
        cross = {
            spec.name: _memory(spec, axes)
            for spec in self._graphs[ENCODER].outputs
            if spec.name != ENCODER_SEQUENCE_OUTPUT
        }
        self._encode(token_ids, lengths, cross)
        return OrtState(self.config, cross, lengths.copy(), self_cache_dtype(self.bundle.precision))

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
        longest = int(state.lengths.max(initial=0)) + query_length
        check_positions("decoder", longest, self.config.max_sequence_length)
        state.reserve(query_length)
        if self._one_at_a_time and query_length > 1 and not _fits_int8_caches(state, query_length):
            return self._step_apart(state, token_ids, wanted)
        binding = self._binding(state, query_length, tuple(wanted))
        outputs = binding.run(token_ids, state.lengths)
        state.advance(query_length)
        return outputs

    def slots(self, copies: int) -> OrtSlots:
        """See `decoding.protocols.SlotRunner`."""
        return OrtSlots(copies)

    def _step_apart(
        self, state: OrtState, token_ids: NDArray[np.int64], wanted: Sequence[str]
    ) -> Mapping[str, NDArray[np.generic]]:
        """A step of several tokens as several steps of one."""
        steps = []
        for column in np.split(token_ids, token_ids.shape[1], axis=1):
            # The memory of a step's outputs is used again by the next.
            found = self.step(state, column, wanted)
            steps.append({name: array.copy() for name, array in found.items()})
        axes = {name: self._outputs[name].shape.index("query_length") for name in wanted}
        return {name: np.concatenate([step[name] for step in steps], axes[name]) for name in wanted}

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
            given = {ENCODER_TOKEN_IDS: token_ids[some], SOURCE_LENGTHS: lengths[some]}
            inputs = {name: np.ascontiguousarray(array) for name, array in given.items()}
            parts = {name: output[some] for name, output in outputs.items()}
            Binding(session, inputs, parts).run()

    def _padded(self, token_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        longest = token_ids.shape[1]
        check_positions("encoder", longest, self.config.max_sequence_length)
        padded = np.zeros((len(token_ids), longest + -longest % SOURCE_MULTIPLE), np.int64)
        padded[:, :longest] = token_ids
        return padded

    def _binding(
        self, state: OrtState, query_length: int, wanted: tuple[str, ...]
    ) -> Step | AlignedStep:
        session = self._session(DECODER_STEP)
        key = (id(session), state.version, query_length, wanted)
        with self._lock:
            bound = self._bindings.setdefault(state, {})
        if key not in bound:
            stale = [other for other in bound if other[:2] != key[:2]]
            for other in stale:
                del bound[other]
            bound[key] = self._bound(session, state, query_length, wanted)
        return bound[key]

    def _bound(
        self, session: Any, state: OrtState, query_length: int, wanted: tuple[str, ...]
    ) -> Step | AlignedStep:
        outputs = {name: self._output(name, state, query_length) for name in wanted}
        if CROSS_ATTENTION not in wanted:
            return Step(session, state, query_length, outputs)
        names = map(cross_query_name, range(self.config.decoder.num_layers))
        queries = {name: self._output(name, state, query_length) for name in names}
        stepped = {name: array for name, array in outputs.items() if name != CROSS_ATTENTION}
        step = Step(session, state, query_length, {**stepped, **queries})
        return AlignedStep(step, self._session(ALIGNMENT), state, queries, outputs)

    def _output(self, name: str, state: OrtState, query_length: int) -> NDArray[np.generic]:
        """Memory for an output of the step or of the alignment: parts of a state share the whole's.

        So as many of them as there are can stay bound, though logits of 64 rows of BART are 13 MB.
        """
        whole = state.whole
        axes = {"batch": whole.rows, "query_length": query_length, "source_length": whole.width}
        key = name, query_length, whole.width
        with self._lock:
            kept = self._written.setdefault(whole, {})
            if any(len(array) != whole.rows for array in kept.values()):
                kept.clear()
            if key not in kept:
                kept[key] = _memory(self._outputs[name], axes)
            return kept[key][: state.rows]

    def _session(self, graph: str) -> Any:
        if self._process != os.getpid():
            _LEFT_OPEN.append((self._sessions, self._bindings))
            self._open()
        with self._lock:
            if graph not in self._sessions:
                self._sessions[graph] = self._opened(graph)
            return self._sessions[graph]

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._bindings: weakref.WeakKeyDictionary[
            OrtState, dict[tuple[Any, ...], Step | AlignedStep]
        ] = weakref.WeakKeyDictionary()
        self._written: weakref.WeakKeyDictionary[
            OrtState, dict[tuple[str, int, int], NDArray[Any]]
        ] = weakref.WeakKeyDictionary()
        # The alignment graph is opened when somebody first asks for its output.
        self._sessions = {graph: self._opened(graph) for graph in (ENCODER, DECODER_STEP)}
        self._process = os.getpid()

    def _opened(self, graph: str) -> Any:
        path, repeat = self.bundle.graph(graph), graph != ENCODER
        session = open_session(path, self.device, self._threads, shapes_repeat=repeat)
        return checked_session(session, self._graphs[graph])


def _fits_int8_caches(state: OrtState, query_length: int) -> bool:
    """Whether attention to int8 caches takes several tokens: of one source, that is not shorter."""
    alone = len(state.source_lengths) == 1
    return alone and state.beams * query_length <= state.source_lengths[0]


def _step_weights(config: BartConfig) -> int:
    """How many weights a decoder step multiplies with, biases apart."""
    side, width = config.decoder, config.hidden_dim
    layer = 6 * width * width + 2 * width * side.intermediate_dim
    return side.num_layers * layer + config.vocabulary_size * width


def _memory(spec: TensorSpec, axes: Mapping[str, int]) -> NDArray[Any]:
    """Zeros for a tensor whose named axes have these sizes."""
    shape = [axes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
    return np.zeros(shape, spec.dtype)

"""TensorRTRunner: a bundle's engines on the GPU they were built for.

It knows tensors, and no rule of generation. Caches stay on the device; a step takes ids, positions
and lengths up in one copy, and brings down what was asked for. Engines run one after another.
**Not run on a GPU yet**; a fake engine stands in for one in the tests.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bart_onnx.bundle import Bundle
from bart_onnx.config import BartConfig
from bart_onnx.engines import Engines, Platform, find_engines
from bart_onnx.errors import DeviceError, InputError, InputTooLongError
from bart_onnx.graphs import (
    CROSS_ATTENTION,
    DECODER_POSITIONS,
    DECODER_STEP,
    DECODER_TOKEN_IDS,
    ENCODER,
    ENCODER_SEQUENCE_OUTPUT,
    ENCODER_TOKEN_IDS,
    PAST_LENGTHS,
    SOURCE_LENGTHS,
    alignment_graph,
    cache_names,
    cross_query_name,
    graph_specs,
)
from bart_onnx.runners.alignment import aligned
from bart_onnx.runners.buckets import length_bucket
from bart_onnx.runners.cuda_driver import CudaDriver
from bart_onnx.runners.device_memory import Arena, DeviceMemory
from bart_onnx.runners.tensorrt_engine import Engine, check_caches_in_place, open_engine
from bart_onnx.runners.tensorrt_library import tensorrt_library
from bart_onnx.runners.tensorrt_runs import Runs
from bart_onnx.runners.tensorrt_state import CacheShapes, TensorRTState

IdArray = NDArray[np.int64]
Outputs = Mapping[str, NDArray[np.generic]]


class TensorRTRunner:
    """Encoder and decoder step of one bundle, as engines; see `decoding.protocols.Runner`.

    More rows than the engines take are decoded part by part, and more tokens piece by piece. Steps
    of different states may come from different threads; they run one after another.

    Args:
        bundle: what the engines were built from.
        engines: their directory.
        opened: an `Engine` for each graph.
        memory: where they run.
    """

    device = "tensorrt"

    def __init__(
        self, bundle: Bundle, engines: Engines, opened: Mapping[str, Engine], memory: DeviceMemory
    ) -> None:
        self.bundle, self.engines = bundle, engines
        self._memory, self._process = memory, os.getpid()
        specs = {spec.name: spec for spec in graph_specs(bundle.config, bundle.precision)}
        step = specs[DECODER_STEP]
        check_caches_in_place(opened[DECODER_STEP], bundle.config)
        self._limits = engines.limits
        self._arena = Arena(memory)
        # One engine runs at a time, so they share what they need while they do.
        size = max(engine.activation_size for engine in opened.values())
        shared = (memory, self._arena, self._arena.take(size) if size else None)
        self._encoder = Runs(opened[ENCODER], specs[ENCODER], *shared)
        self._step = Runs(opened[DECODER_STEP], step, *shared)
        self._caches = CacheShapes.of(step.inputs, self._limits.capacity)
        # The axis of each output that counts the tokens fed.
        given = (*step.outputs, *alignment_graph(bundle.config).outputs)
        self._token_axes = {
            spec.name: spec.shape.index("query_length")
            for spec in given
            if "query_length" in spec.shape
        }

    @classmethod
    def open(cls, bundle: Bundle, engines: Path | None = None, index: int = 0) -> TensorRTRunner:
        """The engines of a bundle on a GPU.

        Args:
            engines: a directory of them; None takes those beside the bundle that fit.
            index: which GPU, as CUDA counts them.

        Raises:
            DeviceError: there is no GPU, or no engines for it and this TensorRT.
            MissingPackageError: TensorRT is not installed.
            BundleError, MissingFileError: the engines are damaged.
        """
        library = tensorrt_library()
        memory = CudaDriver(index)
        platform = Platform(library.flavour, library.version, memory.compute_capability)
        if engines is None:
            found = find_engines(bundle, platform)
        else:
            found = Engines.open(engines)
            found.check_fits(bundle, platform)
        graphs = (ENCODER, DECODER_STEP)
        opened = {
            graph: open_engine(library, found.engine(graph), graph, memory) for graph in graphs
        }
        return cls(bundle, found, opened, memory)

    @property
    def config(self) -> BartConfig:
        """The model's numbers."""
        return self.bundle.config

    @property
    def tokens_at_once(self) -> int:
        """See `decoding.protocols.Runner`."""
        return self._limits.query_lengths[-1]

    @property
    def batch_tokens(self) -> int:
        """See `decoding.protocols.Runner`: as many as the longest rows of a full batch have."""
        limits = self._limits
        return limits.max_batch * (limits.max_source + limits.max_tokens)

    def drafts_pay(self, sources: int) -> bool:
        """See `decoding.protocols.Runner`; nobody has measured yet whether they do."""
        return False

    def encode(self, token_ids: IdArray, lengths: IdArray) -> TensorRTState:
        """A state of one row for each source.

        Args:
            token_ids: int64 [rows, longest], padded on the right.
            lengths: int64 [rows].

        Raises:
            InputTooLongError: a source is longer than the engines take.
            DeviceMemoryError: the device has no memory left.
        """
        with self._entered():
            state, _ = self._encoded(token_ids, lengths, ())
            return state

    def encoder_output(self, token_ids: IdArray, lengths: IdArray) -> NDArray[np.float32]:
        """The encoder's hidden states, float32 [rows, length, hidden_dim]; see `encode`."""
        with self._entered():
            _, outputs = self._encoded(token_ids, lengths, (ENCODER_SEQUENCE_OUTPUT,))
            whole = outputs[ENCODER_SEQUENCE_OUTPUT][:, : token_ids.shape[1]]
            return whole.astype(np.float32)

    def step(self, state: TensorRTState, token_ids: IdArray, wanted: Sequence[str]) -> Outputs:
        """Feed `token_ids` [rows, q] to the rows of `state`; see `decoding.protocols.Runner`.

        Raises:
            InputTooLongError: a row would have more tokens than the engines have room for.
            InputError: one source has more beams than the engines take rows.
            DeviceMemoryError: the device has no memory left.
        """
        with self._entered():
            self._check_room(int(state.lengths.max(initial=0)) + token_ids.shape[1])
            return self._in_pieces(state, token_ids, tuple(wanted))

    def _in_pieces(
        self, state: TensorRTState, token_ids: IdArray, wanted: tuple[str, ...]
    ) -> Outputs:
        """A step as several: some tokens after others, and some sources beside others."""
        most, rows = self.tokens_at_once, self._limits.max_batch // state.beams * state.beams
        if rows == 0:
            raise InputError(
                f"{state.beams} beams of a source are more rows than the {self._limits.max_batch} "
                "that these engines take. Use fewer, or build engines with a larger --max-batch."
            )
        if token_ids.shape[1] > most:
            starts = range(0, token_ids.shape[1], most)
            parts = [
                _copied(self._in_pieces(state, token_ids[:, i : i + most], wanted)) for i in starts
            ]
            return _joined(parts, self._token_axes)
        if state.rows > rows:
            spans = [(i, min(i + rows, state.rows)) for i in range(0, state.rows, rows)]
            parts = [
                _copied(self._fed(state.between(i, j), token_ids[i:j], wanted)) for i, j in spans
            ]
            return _joined(parts, dict.fromkeys(wanted, 0))
        return self._fed(state, token_ids, wanted)

    def _fed(self, state: TensorRTState, token_ids: IdArray, wanted: tuple[str, ...]) -> Outputs:
        """A step that the engine takes at once."""
        rows, query_length = token_ids.shape
        sources = state.computed_sources
        axes = {
            "batch": sources * state.beams,
            "query_length": query_length,
            "source": sources,
            "source_length": state.width,
            "capacity": self._limits.capacity,
        }
        given = {
            DECODER_TOKEN_IDS: token_ids,
            DECODER_POSITIONS: state.lengths[:, None] + np.arange(query_length),
            PAST_LENGTHS: state.lengths,
            SOURCE_LENGTHS: state.source_lengths,
        }
        # Of a row that nobody reads: one token of its source is enough to attend to.
        idle = {DECODER_TOKEN_IDS: 0, DECODER_POSITIONS: 0, PAST_LENGTHS: 0, SOURCE_LENGTHS: 1}
        run = self._step.at(axes, state.addresses(), self._room(query_length))
        queries = [cross_query_name(layer) for layer in range(self.config.decoder.num_layers)]
        plain = [name for name in wanted if name != CROSS_ATTENTION]
        needed = [*plain, *(queries if CROSS_ATTENTION in wanted else ())]
        found = run(given, idle, needed, rows)
        outputs = {name: found[name] for name in plain}
        if CROSS_ATTENTION in wanted:
            outputs[CROSS_ATTENTION] = self._weighed(state, [found[name] for name in queries])
        state.advance(query_length)
        return outputs

    def _weighed(
        self, state: TensorRTState, queries: Sequence[NDArray[np.generic]]
    ) -> NDArray[np.float32]:
        """What each token attended to in its source; computed on the host, for reports only."""
        keys = []
        for layer in range(self.config.decoder.num_layers):
            name = cache_names(layer).cross_key
            shape = (len(state.source_lengths), state.width)
            keys.append(self._step.fetched(name, state.cross_address(name), shape))
        return aligned(queries, keys, state.source_lengths)

    def _encoded(
        self, token_ids: IdArray, lengths: IdArray, wanted: Sequence[str]
    ) -> tuple[TensorRTState, Outputs]:
        """A state whose cross caches the encoder has written, and of its outputs those wanted."""
        token_ids, most = self._padded(token_ids), self._limits.max_batch
        width = token_ids.shape[1]
        state = TensorRTState(self._caches, self._memory, self._arena, lengths, width, most)
        room = {"source": most, "source_length": self._limits.max_source}
        idle = {ENCODER_TOKEN_IDS: 0, SOURCE_LENGTHS: 1}
        parts = []
        for first in range(0, len(token_ids), most):
            some = token_ids[first : first + most]
            places = {name: state.cross_address(name, first) for name in self._caches.cross}
            whole = len(some) == len(token_ids)
            sources = state.computed_sources if whole else len(some)
            run = self._encoder.at({"source": sources, "source_length": width}, places, room)
            given = {ENCODER_TOKEN_IDS: some, SOURCE_LENGTHS: lengths[first : first + most]}
            parts.append(_copied(run(given, idle, wanted, len(some))))
        return state, _joined(parts, dict.fromkeys(wanted, 0))

    def _room(self, query_length: int) -> dict[str, int]:
        """The largest step, of one token or of several: all others' outputs have room in its."""
        tokens = 1 if query_length == 1 else self.tokens_at_once
        return {"batch": self._limits.max_batch, "query_length": tokens}

    def _padded(self, token_ids: IdArray) -> IdArray:
        """Sources as wide as their bucket, so that few widths come."""
        longest, most = token_ids.shape[1], self._limits.max_source
        if longest > most:
            raise InputTooLongError(
                f"The encoder was given {longest} tokens; these engines take {most}. Build engines "
                f"with a larger --max-source, at most {self.config.max_sequence_length}."
            )
        width = min(length_bucket(longest), most)
        return np.pad(token_ids, ((0, 0), (0, width - longest)))

    def _check_room(self, length: int) -> None:
        room = min(self._limits.max_tokens, self.config.max_sequence_length)
        if length > room:
            raise InputTooLongError(
                f"The decoder was given {length} tokens; these engines have room for {room}. Build "
                f"engines with a larger --max-tokens, at most {self.config.max_sequence_length}."
            )

    def _entered(self) -> AbstractContextManager[object]:
        """The lock, in the process that opened the engines."""
        if os.getpid() != self._process:
            raise DeviceError(
                "TensorRT engines do not outlive a fork. Open the model in the child process, or "
                "start it with the method 'spawn'."
            )
        return self._arena.lock


def _copied(outputs: Outputs) -> Outputs:
    """Outputs in memory of their own: the next run uses theirs."""
    return {name: array.copy() for name, array in outputs.items()}


def _joined(parts: Sequence[Outputs], axes: Mapping[str, int]) -> Outputs:
    """Outputs of several steps as those of one."""
    return {name: np.concatenate([part[name] for part in parts], axes[name]) for name in parts[0]}

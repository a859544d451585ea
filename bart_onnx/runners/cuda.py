"""CudaRunner: a bundle's graphs on a GPU. It knows shapes and sessions, and no rule of generation.

Caches lie in blocks on the device (`device_state`), steps are bound once for the blocks they read
and write (`device_steps`), and shapes come from few buckets (`buckets`). So after the first steps
of a shape nothing is allocated, and where onnxruntime captures CUDA graphs each bound step has a
graph of its own, by a number that is never given again. What is bound belongs to one thread at a
time; steps of different threads wait for each other, as they would on the device.

What a GPU needs is in the `Placement` alone; with one of the CPU, the same code runs there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.bundle import Bundle
from bart_onnx.config import BartConfig
from bart_onnx.devices import CUDA, Device, check_precision
from bart_onnx.errors import BundleError, DeviceError, DeviceMemoryError
from bart_onnx.graphs import (
    ALIGNMENT,
    CROSS_ATTENTION,
    DECODER_STEP,
    ENCODER,
    ENCODER_SEQUENCE_OUTPUT,
    ENCODER_TOKEN_IDS,
    LOG_SUM_EXP,
    LOGITS,
    NEXT_TOKEN_IDS,
    SOURCE_LENGTHS,
    GraphSpec,
    cache_names,
    graph_specs,
)
from bart_onnx.runners.blocks import CacheKind, Placement
from bart_onnx.runners.buckets import length_bucket, query_bucket, row_bucket
from bart_onnx.runners.contract import check_positions
from bart_onnx.runners.cuda_sessions import CudaSessions, cuda_placement
from bart_onnx.runners.device_caches import Caches
from bart_onnx.runners.device_slots import DeviceSlots
from bart_onnx.runners.device_state import DeviceState
from bart_onnx.runners.device_steps import DeviceBinding, DeviceStep, Layout

# Encoder activations of so many tokens at a time. A guess: it has not been measured on a GPU.
_ENCODER_TOKENS = 16_384
# Prompt tokens fed in one step: bounds the logits that a long prompt makes.
_PROMPT_TOKENS = 64
# With more sources the drafts of a step are left out. A guess: few tokens more are all but free
# for a GPU that waits for its weights, but each row's draft costs time on the host.
_DRAFTED_SOURCES = 8

_GRAPH_ID = "gpu_graph_id"
_NEVER_CAPTURED = -1


class CudaRunner:
    """Encoder and decoder step of one bundle on one GPU; see `decoding.protocols.Runner`.

    Args:
        placement: None for the GPU that `device` names.

    Raises:
        DeviceError: the GPU, its driver or a library is not there, or the bundle's precision is
            not one of a GPU's; the message says which.
        DeviceMemoryError: the weights do not fit.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device | None = None,
        threads: int | None = None,
        placement: Placement | None = None,
    ) -> None:
        check_precision(CUDA, bundle.precision, str(bundle.manifest["source"].get("uri")))
        self.bundle, self.device = bundle, CUDA
        self._asked = Device(CUDA) if device is None else device
        self._placement = placement or cuda_placement(self._asked, bundle.precision)
        self._graphs = {spec.name: spec for spec in graph_specs(bundle.config, bundle.precision)}
        stepped = (self._graphs[DECODER_STEP], self._graphs[ALIGNMENT])
        self._outputs = {spec.name: spec for graph in stepped for spec in graph.outputs}
        self._sessions = CudaSessions(bundle, self._graphs, self._placement, threads)
        self._steps: dict[tuple[Any, ...], DeviceStep] = {}
        self._graph_ids = count(1)
        kind = _cache_kind(self._graphs[DECODER_STEP])
        self._caches = Caches(self._placement, kind, self._asked.smaller_batches, self._forget)
        if self._sessions.captures:
            self._warm_up_or_go_without()

    @property
    def config(self) -> BartConfig:
        """The model's numbers."""
        return self.bundle.config

    @property
    def tokens_at_once(self) -> int:
        """See `decoding.protocols.Runner`."""
        return _PROMPT_TOKENS

    @property
    def batch_tokens(self) -> int:
        """See `decoding.protocols.Runner`."""
        return self._asked.batch_tokens

    def drafts_pay(self, sources: int) -> bool:
        """See `decoding.protocols.Runner`."""
        return sources <= _DRAFTED_SOURCES

    def warm_up(self, rows: int) -> None:
        """Take the first steps of so many rows, with the shortest and the longest sources.

        They load kernels and capture the graphs of these shapes; others are captured when they
        first come.
        """
        longest = self.config.max_sequence_length
        for width in sorted({min(length_bucket(1), longest), longest}):
            state = self.encode(np.zeros((rows, width), np.int64), np.full(rows, width))
            for query_length in (2, 1, 1):
                fed = np.zeros((rows, query_length), np.int64)
                dict(self.step(state, fed, (NEXT_TOKEN_IDS,)))

    def _warm_up_or_go_without(self) -> None:
        """Warm up as asked; where that fails, again without capturing."""
        try:
            for rows in self._asked.warm_up:
                self.warm_up(rows)
        except DeviceMemoryError:
            raise
        except DeviceError as error:
            # A kernel that waits for the device cannot be captured, which shows only when it runs.
            self._sessions.stop_capturing(error)
            self._steps = {}
            for rows in self._asked.warm_up:
                self.warm_up(rows)

    def encode(self, token_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> DeviceState:
        """A state of one row for each source.

        Args:
            token_ids: int64 [rows, longest], padded on the right, at most the model's positions.
            lengths: int64 [rows].

        Raises:
            InputTooLongError: a source has more tokens than the model has positions.
            DeviceMemoryError: the GPU has too little free memory for the caches.
        """
        token_ids = self._padded(token_ids)
        rows, width = token_ids.shape
        with self._caches.asking(f"encoding {rows} sources of {width} tokens"):
            cross = self._caches.for_sources(row_bucket(rows), width)
            for first, last, binding in self._encodings(token_ids, lengths):
                block = cross.block
                for tensor, spec in enumerate(self._cross_specs()):
                    binding.write_part(spec, block, tensor, first, last)
                binding.run()
            return DeviceState(self._caches, cross, lengths)

    def encoder_output(
        self, token_ids: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """The encoder's hidden states, float32 [rows, length, hidden_dim]; see `encode`."""
        length = token_ids.shape[1]
        token_ids = self._padded(token_ids)
        spec = self._graphs[ENCODER].outputs[0]
        parts = []
        with self._caches.asking(
            f"encoding {len(token_ids)} sources of {token_ids.shape[1]} tokens"
        ):
            for first, last, binding in self._encodings(token_ids, lengths):
                shape = (last - first, token_ids.shape[1], self.config.hidden_dim)
                output = self._placement.allocated(shape, spec.dtype)
                binding.write(ENCODER_SEQUENCE_OUTPUT, output)
                binding.run()
                parts.append(np.array(output.numpy()[:, :length], np.float32))
        return np.concatenate(parts)

    def step(
        self, state: DeviceState, token_ids: NDArray[np.int64], wanted: Sequence[str]
    ) -> Mapping[str, NDArray[np.generic]]:
        """Feed `token_ids` [rows, q] to the rows of `state`; see `decoding.protocols.Runner`.

        Raises:
            InputTooLongError: a row would pass the model's last position.
            DeviceMemoryError: the GPU has too little free memory.
        """
        query_length = token_ids.shape[1]
        positions = self.config.max_sequence_length
        check_positions("decoder", int(state.lengths.max(initial=0)) + query_length, positions)
        fed = query_bucket(query_length) or query_length
        with self._caches.asking(f"a step of {state.rows} rows and {query_length} tokens each"):
            state.reserve(fed)
            storage = state.storage
            layout = Layout(storage.own.block, storage.cross.block, fed, tuple(wanted))
            outputs = self._step(layout).run(state, token_ids, positions)
            # Of several tokens some may be forgotten.
            if query_length > 1 and not _is_finite(outputs):
                state.spoil()
        state.advance(query_length)
        return outputs

    def slots(self, copies: int) -> DeviceSlots:
        """See `decoding.protocols.SlotRunner`."""
        return DeviceSlots(self._caches, copies)

    def _step(self, layout: Layout) -> DeviceStep:
        if layout.key not in self._steps:
            aligned = CROSS_ATTENTION in layout.wanted
            self._steps[layout.key] = DeviceStep(
                self._sessions[DECODER_STEP],
                self._placement,
                layout,
                self._outputs,
                self._caches.asking,
                self._sessions[ALIGNMENT] if aligned else None,
                self._run_options(layout.query_length),
            )
        return self._steps[layout.key]

    def _run_options(self, query_length: int) -> Any:
        """What tells onnxruntime which graph a step is; None where none is captured."""
        if not self._sessions.captures:
            return None
        from onnxruntime import RunOptions

        captured = query_bucket(query_length) == query_length
        number = next(self._graph_ids) if captured else _NEVER_CAPTURED
        options = RunOptions()
        options.add_run_config_entry(_GRAPH_ID, str(number))
        return options

    def _encodings(
        self, token_ids: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> Iterator[tuple[int, int, DeviceBinding]]:
        """Some rows at a time, with the encoder bound to read them."""
        at_once = max(1, _ENCODER_TOKENS // token_ids.shape[1])
        for first in range(0, len(token_ids), at_once):
            last = min(first + at_once, len(token_ids))
            binding = DeviceBinding(self._sessions[ENCODER], self._placement)
            for name, array in ((ENCODER_TOKEN_IDS, token_ids), (SOURCE_LENGTHS, lengths)):
                some = np.ascontiguousarray(array[first:last], np.int64)
                binding.read(name, self._placement.copied(some))
            yield first, last, binding

    def _cross_specs(self) -> Iterator[str]:
        """The names of the encoder's cross caches, as blocks hold them."""
        for layer in range(self.config.decoder.num_layers):
            names = cache_names(layer)
            yield from (names.cross_key, names.cross_value)

    def _forget(self, number: int) -> None:
        """Drop what is bound to a block that is no more."""
        self._steps = {key: step for key, step in self._steps.items() if number not in key[:2]}

    def _padded(self, token_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        longest = token_ids.shape[1]
        check_positions("encoder", longest, self.config.max_sequence_length)
        return np.pad(token_ids, ((0, 0), (0, length_bucket(longest) - longest)))


def _is_finite(outputs: Mapping[str, NDArray[np.generic]]) -> bool:
    """Whether a step gave numbers only, by one that whoever verifies drafts looks at anyway; true
    where nothing tells.
    """
    told = next((outputs[name] for name in (LOG_SUM_EXP, LOGITS) if name in outputs), None)
    return told is None or bool(np.isfinite(np.asarray(told, np.float32)).all())


def _cache_kind(step: GraphSpec) -> CacheKind:
    """What the caches of a step have in common.

    Raises:
        BundleError: they have not, or their numbers cannot be moved in pairs.
    """
    caches = [spec for spec in step.inputs if len(spec.shape) == 4]
    heads, width = caches[0].shape[1], caches[0].shape[3]
    alike = {(spec.dtype, spec.shape[1], spec.shape[3]) for spec in caches}
    if len(alike) != 1 or not isinstance(heads, int) or not isinstance(width, int) or width % 2:
        found = sorted(map(str, alike))
        raise BundleError(f"A GPU holds caches of one type and an even head size, found {found}.")
    return CacheKind(len(caches) // 2, heads, width, caches[0].dtype)

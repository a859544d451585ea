"""Steps with everything bound: what a session reads and writes are arrays that stay where they are.

It knows which tensor is which array of a state; when a step is bound anew is the runner's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.graphs import (
    CROSS_ATTENTION,
    DECODER_POSITIONS,
    DECODER_TOKEN_IDS,
    PAST_LENGTHS,
    SOURCE_LENGTHS,
    cache_names,
)
from bart_onnx.runners.cache import OrtState

Arrays = Mapping[str, NDArray[Any]]


class Binding:
    """A session bound to contiguous arrays; one that is input and output is updated in place."""

    def __init__(self, session: Any, inputs: Arrays, outputs: Arrays) -> None:
        self._session = session
        self._binding = session.io_binding()
        # What is bound borrows the arrays' memory.
        self._keep = (inputs, outputs)
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, _value(array))
        for name, array in outputs.items():
            self._binding.bind_ortvalue_output(name, _value(array))

    def run(self) -> None:
        """Read the inputs and write the outputs."""
        self._session.run_with_iobinding(self._binding)


class Step:
    """One step of one state: ids and positions are written into bound memory, then it runs."""

    def __init__(self, session: Any, state: OrtState, query_length: int, outputs: Arrays) -> None:
        self._token_ids = np.zeros((state.rows, query_length), np.int64)
        self._positions = np.zeros((state.rows, query_length), np.int64)
        self._past_lengths = np.zeros(state.rows, np.int64)
        self._offsets = np.arange(query_length)
        self._outputs = outputs
        inputs: dict[str, NDArray[Any]] = {
            DECODER_TOKEN_IDS: self._token_ids,
            DECODER_POSITIONS: self._positions,
            PAST_LENGTHS: self._past_lengths,
            SOURCE_LENGTHS: np.ascontiguousarray(state.source_lengths),
        }
        updated: dict[str, NDArray[Any]] = {}
        for layer in range(len(state.own) // 2):
            names = cache_names(layer)
            key, value = state.own[2 * layer : 2 * layer + 2]
            inputs |= {names.self_key: key, names.self_value: value}
            updated |= {names.updated_self_key: key, names.updated_self_value: value}
            for name, kept in (
                (names.cross_key, names.kept_cross_key),
                (names.cross_value, names.kept_cross_value),
            ):
                if state.cross[name].dtype == np.int8:
                    updated[kept] = state.cross[name]
        inputs |= state.cross
        self._binding = Binding(session, inputs, {**updated, **outputs})

    def run(
        self, token_ids: NDArray[np.int64], past_lengths: NDArray[np.int64]
    ) -> Mapping[str, NDArray[np.generic]]:
        """The bound outputs, when rows of `past_lengths` tokens have been fed `token_ids`."""
        self._token_ids[:] = token_ids
        self._past_lengths[:] = past_lengths
        np.add(past_lengths[:, None], self._offsets, out=self._positions)
        self._binding.run()
        return self._outputs


class AlignedStep:
    """A step, and then the alignment graph on the queries that it gave."""

    def __init__(
        self, step: Step, session: Any, state: OrtState, queries: Arrays, outputs: Arrays
    ) -> None:
        self._step = step
        self._outputs = outputs
        read = {value.name for value in session.get_inputs()}
        keys = {name: array for name, array in state.cross.items() if name in read}
        lengths = {SOURCE_LENGTHS: np.ascontiguousarray(state.source_lengths)}
        weighed = {CROSS_ATTENTION: outputs[CROSS_ATTENTION]}
        self._binding = Binding(session, {**lengths, **queries, **keys}, weighed)

    def run(
        self, token_ids: NDArray[np.int64], past_lengths: NDArray[np.int64]
    ) -> Mapping[str, NDArray[np.generic]]:
        """See `Step.run`."""
        self._step.run(token_ids, past_lengths)
        self._binding.run()
        return self._outputs


def _value(array: NDArray[Any]) -> Any:
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy(array)

"""A runner whose every step runs, and then says what it was told to say.

Used by measure_speculation.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bart_onnx.config import BartConfig
from bart_onnx.graphs import TOP_TOKEN_IDS
from bart_onnx.runners.cache import OrtState
from bart_onnx.runners.ort import OrtRunner


class ForcedRunner:
    """Rows are told apart by the lengths of their sources.

    The encoder runs once; its output serves every later call.
    """

    def __init__(self, runner: OrtRunner, targets: Mapping[int, Sequence[int]]) -> None:
        self._runner = runner
        self._targets = {length: np.array(target) for length, target in targets.items()}
        self._encoded: OrtState | None = None

    @property
    def config(self) -> BartConfig:
        return self._runner.config

    @property
    def tokens_at_once(self) -> int:
        return self._runner.tokens_at_once

    @property
    def batch_tokens(self) -> int | None:
        return self._runner.batch_tokens

    def drafts_pay(self, sources: int) -> bool:
        return self._runner.drafts_pay(sources)

    def encode(self, token_ids: np.ndarray, lengths: np.ndarray) -> OrtState:
        if self._encoded is None:
            self._encoded = self._runner.encode(token_ids, lengths)
        cross = {name: array.copy() for name, array in self._encoded.cross.items()}
        return OrtState(self.config, cross, lengths.copy())

    def step(
        self, state: OrtState, token_ids: np.ndarray, wanted: Sequence[str]
    ) -> Mapping[str, Any]:
        following = state.lengths[:, None] + 1 + np.arange(token_ids.shape[1])
        outputs = self._runner.step(state, token_ids, wanted)
        for row, length in enumerate(state.source_lengths.tolist()):
            target = self._targets[length]
            outputs[TOP_TOKEN_IDS][row, :, 0] = target[following[row].clip(max=len(target) - 1)]
        return outputs

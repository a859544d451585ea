"""Sampler: the base of every sampler that chooses one token at a time. Knows probabilities only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import InputError
from bart_onnx.graphs import LOGITS


class Sampler:
    """Chooses the next token of each row. Subclass it and write `get_next_token`.

    Args:
        temperature: logits are divided by it; above 0.

    Raises:
        InputError: temperature is not above 0.
    """

    #: The decoder-step outputs that `next_tokens` reads.
    wanted: tuple[str, ...] = (LOGITS,)

    def __init__(self, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise InputError(
                f"temperature must be above 0, found {temperature}; for the likeliest token at "
                "every step use the greedy sampler."
            )
        self.temperature = temperature

    def get_next_token(self, probabilities: NDArray[np.float32]) -> NDArray[np.integer]:
        """Token ids [rows] from probabilities float32 [rows, vocabulary]."""
        raise NotImplementedError(f"{type(self).__name__} must define get_next_token.")

    def next_tokens(self, outputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.int64]:
        """Token ids int64 [rows] that follow the last token of a step with these outputs."""
        logits = outputs[LOGITS][:, -1].astype(np.float32)  # [rows, vocabulary]
        return np.asarray(self.get_next_token(self._probabilities(logits)), np.int64)

    def _probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Softmax in float32, as KerasHub computes it whatever the model's dtype."""
        scaled = logits / np.float32(self.temperature)
        exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        shares: NDArray[np.float32] = exponentials / exponentials.sum(axis=-1, keepdims=True)
        return shares

"""GreedySampler: the likeliest token. The graph has found it already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.graphs import NEXT_TOKEN_IDS
from bart_onnx.samplers.sampler import Sampler


class GreedySampler(Sampler):
    """The token of the highest probability, the first of equals (KerasHub 0.32 `GreedySampler`).

    Args:
        temperature: above 0; it changes no choice.
    """

    def get_next_token(self, probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
        """Token ids int64 [rows] from probabilities float32 [rows, vocabulary]."""
        return np.asarray(probabilities.argmax(axis=-1), np.int64)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The token that the graph chose."""
        return (NEXT_TOKEN_IDS,)

    def next_tokens(
        self,
        outputs: Mapping[str, NDArray[Any]],
        uniforms: NDArray[np.float64] | None = None,
    ) -> NDArray[np.int64]:
        """Token ids int64 [rows], read from the graph: no temperature changes which is highest."""
        return np.array(outputs[NEXT_TOKEN_IDS][:, -1], np.int64)

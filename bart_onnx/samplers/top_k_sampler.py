"""TopKSampler: a draw from the k likeliest tokens. It knows probabilities only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.graphs import LARGEST_TOP_K, LOGITS, TOP_LOGITS, TOP_TOKEN_IDS
from bart_onnx.samplers.arguments import check_fits, checked_count, checked_seed
from bart_onnx.samplers.distributions import drawn_ids, renormalised, spread
from bart_onnx.samplers.draws import Draws
from bart_onnx.samplers.likeliest import largest
from bart_onnx.samplers.sampler import Sampler


class TopKSampler(Sampler):
    """A draw from the k most probable tokens, renormalised (KerasHub 0.32 `TopKSampler`).

    Args:
        k: how many tokens to draw from, at least 1.
        seed: the same seed draws the same tokens; None draws others each time.
        temperature: above 0.

    Raises:
        InputError, InputTypeError: an argument outside its range.
    """

    def __init__(self, k: int = 5, seed: int | None = None, *, temperature: float = 1.0) -> None:
        super().__init__(temperature)
        self.k = checked_count("k", k)
        self.seed = checked_seed(seed)
        self.draws: Draws = Draws(self.seed)

    def distribution(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """What tokens are drawn from, float32 [rows, vocabulary], of softmax'ed probabilities."""
        weights, ids = self._best(probabilities)
        return spread(weights, ids, probabilities.shape[-1])

    def get_next_token(self, probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
        """Token ids int64 [rows] from probabilities float32 [rows, vocabulary]."""
        uniforms = self.draws.next_uniforms(len(probabilities))
        return drawn_ids(*self._best(probabilities), uniforms)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The graph's best logits where they are enough of them."""
        return (TOP_LOGITS, TOP_TOKEN_IDS) if self.k <= LARGEST_TOP_K else (LOGITS,)

    def next_tokens(
        self,
        outputs: Mapping[str, NDArray[Any]],
        uniforms: NDArray[np.float64] | None = None,
    ) -> NDArray[np.int64]:
        """Token ids int64 [rows]. No sum over the vocabulary is needed: it cancels."""
        if self.k <= LARGEST_TOP_K:
            weights = self.compute_probabilities(outputs[TOP_LOGITS][:, -1, : self.k])
            ids = np.array(outputs[TOP_TOKEN_IDS][:, -1, : self.k], np.int64)
        else:
            weights, ids = self._best(self.compute_probabilities(outputs[LOGITS][:, -1]))
        if uniforms is None:
            uniforms = self.draws.next_uniforms(len(ids))
        return drawn_ids(weights, ids, uniforms)

    def check_vocabulary(self, vocabulary_size: int) -> None:
        """Raise InputError where k exceeds the vocabulary."""
        check_fits("k", self.k, vocabulary_size)

    def get_config(self) -> dict[str, Any]:
        """The arguments by name, ready for JSON."""
        return {**super().get_config(), "k": self.k, "seed": self.seed}

    def _best(
        self, probabilities: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Renormalised probabilities and ids of the k best, [rows, k]."""
        self.check_vocabulary(probabilities.shape[-1])
        ids = largest(probabilities, self.k)
        return renormalised(np.take_along_axis(probabilities, ids, axis=-1)), ids

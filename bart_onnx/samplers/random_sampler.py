"""RandomSampler: a draw from the whole vocabulary. It knows probabilities only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.graphs import LOGITS
from bart_onnx.samplers.arguments import checked_seed
from bart_onnx.samplers.distributions import drawn, renormalised
from bart_onnx.samplers.draws import Draws
from bart_onnx.samplers.sampler import Sampler


class RandomSampler(Sampler):
    """A draw from all tokens by their probabilities (KerasHub 0.32 `RandomSampler`).

    Args:
        seed: the same seed draws the same tokens; None draws others each time.
        temperature: above 0; lower draws likely tokens more often.

    Raises:
        InputError, InputTypeError: an argument outside its range.
    """

    def __init__(self, seed: int | None = None, *, temperature: float = 1.0) -> None:
        super().__init__(temperature)
        self.seed = checked_seed(seed)
        self.draws: Draws = Draws(self.seed)

    def distribution(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """What tokens are drawn from, float32 [rows, vocabulary], of softmax'ed probabilities."""
        return renormalised(probabilities)

    def get_next_token(self, probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
        """Token ids int64 [rows] from probabilities float32 [rows, vocabulary]."""
        return drawn(probabilities, self.draws.next_uniforms(len(probabilities))).astype(np.int64)

    @property
    def wanted(self) -> tuple[str, ...]:
        """All logits."""
        return (LOGITS,)

    def next_tokens(
        self,
        outputs: Mapping[str, NDArray[Any]],
        uniforms: NDArray[np.float64] | None = None,
    ) -> NDArray[np.int64]:
        """Token ids int64 [rows]."""
        probabilities = self.compute_probabilities(outputs[LOGITS][:, -1])
        if uniforms is None:
            uniforms = self.draws.next_uniforms(len(probabilities))
        return drawn(probabilities, uniforms).astype(np.int64)

    def get_config(self) -> dict[str, Any]:
        """The arguments by name, ready for JSON."""
        return {**super().get_config(), "seed": self.seed}

"""Weights of a BART that nothing has trained yet, as KerasHub begins. Numpy only; knows no file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig
from bart_onnx.weights import FINAL_LOGITS_BIAS, weight_shapes

Weights = dict[str, Callable[[], NDArray[np.float32]]]

STANDARD_DEVIATION = 0.02


def initialize(
    config: BartConfig, seed: int = 0, standard_deviation: float = STANDARD_DEVIATION
) -> Weights:
    """KerasHub's TruncatedNormal for embeddings and kernels; biases 0; norms 1 and 0.

    A weight's values depend on the seed and the weight's place alone. Keras cuts at two standard
    deviations, which leaves the values with 0.88 of the one asked for.

    Returns:
        Name (`bart_onnx.weights`) to a function that makes the weight, float32.
    """
    return {
        name: partial(_fresh, name, shape, standard_deviation, [seed, index])
        for index, (name, shape) in enumerate(weight_shapes(config).items())
    }


def _fresh(
    name: str, shape: tuple[int, ...], standard_deviation: float, key: list[int]
) -> NDArray[np.float32]:
    if name.endswith((".bias", ".beta", FINAL_LOGITS_BIAS)):
        return np.zeros(shape, np.float32)
    if name.endswith(".gamma"):
        return np.ones(shape, np.float32)
    random = np.random.Generator(np.random.Philox(key=key))
    values = random.standard_normal(shape)
    while (far := np.abs(values) > 2).any():
        values[far] = random.standard_normal(int(far.sum()))
    return (values * standard_deviation).astype(np.float32)

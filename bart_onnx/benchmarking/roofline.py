"""How many bytes a decoder step must read at least: the time it cannot be faster than."""

from __future__ import annotations

import math

from bart_onnx.config import BartConfig
from bart_onnx.weights import LM_HEAD, TOKEN_EMBEDDING, weight_shapes

_WEIGHT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "int4": 0.5}
# Of the cross-attention, these are read once a source and not in each step.
_ONCE = (".cross_attention.key.", ".cross_attention.value.")


def step_weight_bytes(config: BartConfig, precision: str) -> float:
    """Bytes of the weights that every step reads: the decoder's and the output projection's."""
    shapes = weight_shapes(config)
    head = LM_HEAD if LM_HEAD in shapes else TOKEN_EMBEDDING
    read = [
        shape
        for name, shape in shapes.items()
        if name == head
        or (name.startswith("decoder.layers.") and not any(part in name for part in _ONCE))
    ]
    return sum(map(math.prod, read)) * _WEIGHT_BYTES[precision]


def step_cache_bytes(config: BartConfig, cross: int, own: int) -> int:
    """Bytes of the keys and values that a step reads.

    Args:
        cross: bytes of one number of the cross caches, times the source tokens of all sources; the
            rows of a source share its cache.
        own: bytes of one number of the self caches, times the tokens in those of all rows.
    """
    return 2 * config.decoder.num_layers * config.hidden_dim * (cross + own)

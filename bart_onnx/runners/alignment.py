"""What cross-attention looked at, from its queries and keys, in numpy. It knows no device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def aligned(
    queries: Sequence[NDArray[Any]], keys: Sequence[NDArray[Any]], source_lengths: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Attention probabilities; the alignment graph's formula, `exporters.alignment`.

    Args:
        queries: each layer's, [batch, query_length, width].
        keys: each layer's, [source, heads, source_length, head_dim].
        source_lengths: int64 [source].

    Returns:
        float32 [batch, layers, heads, query_length, source_length], zero from the source's length
        on.
    """
    sources, heads, length, head_dim = keys[0].shape
    rows, tokens, _ = queries[0].shape
    shape = (sources, rows // sources, tokens, heads, head_dim)
    padding = np.arange(length) >= source_lengths[:, None]  # [source, source_length]
    layers = []
    for query, key in zip(queries, keys, strict=True):
        split = query.astype(np.float32).reshape(shape)
        scores = np.einsum("sbqhd,shtd->sbhqt", split, key.astype(np.float32)) / np.sqrt(head_dim)
        scores = np.where(padding[:, None, None, None], -np.inf, scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        layers.append(weights.reshape(rows, heads, tokens, length))
    return np.stack(layers, axis=1).astype(np.float32)

"""The two operators of opset 24 that torch has no word for: a cache update and masked attention.

Traced, each becomes one ONNX node. Run eagerly, each computes the same in torch, so that the
modules train and judge the graphs that were traced from them.
"""

from __future__ import annotations

import torch
from torch import Tensor

OPSET = 24


def update_cache(cache: Tensor, new: Tensor, write_indices: Tensor) -> Tensor:
    """Row r of `new` written into row r of `cache` from position `write_indices[r]` on.

    Args:
        cache: [batch, heads, capacity, head_dim].
        new: [batch, heads, query_length, head_dim].
        write_indices: int64 [batch]; index + query_length must not exceed the capacity.

    Returns:
        The updated cache; ONNX TensorScatter-24, which a runtime does in place.
    """
    if torch.onnx.is_in_onnx_export():
        traced: Tensor = torch.onnx.ops.symbolic(
            "TensorScatter",
            (cache, new, write_indices),
            {"axis": -2},
            dtype=cache.dtype,
            shape=cache.shape,
            version=OPSET,
        )
        return traced
    slots = write_indices[:, None] + torch.arange(new.shape[2], device=new.device)
    return cache.scatter(2, slots[:, None, :, None].expand_as(new), new)


def attention(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, causal: bool) -> Tensor:
    """softmax(query key' / sqrt(head_dim)) value over the first `lengths[b]` keys of row b.

    Args:
        query: [batch, heads, query_length, head_dim].
        key, value: [batch, heads, key_length, head_dim].
        lengths: int64 [batch], keys that count.
        causal: query i sees key j only if j <= i + lengths[b] - query_length.

    Returns:
        [batch, heads, query_length, head_dim]; ONNX Attention-24 with `nonpad_kv_seqlen`.
    """
    if torch.onnx.is_in_onnx_export():
        traced: Tensor = torch.onnx.ops.symbolic(
            "Attention",
            (query, key, value, None, None, None, lengths),
            {"is_causal": int(causal)},
            dtype=query.dtype,
            shape=query.shape,
            version=OPSET,
        )
        return traced
    keys = torch.arange(key.shape[2], device=key.device)
    visible = (keys < lengths[:, None])[:, None, None, :]
    if causal:
        queries = torch.arange(query.shape[2], device=key.device)
        last = queries + (lengths - query.shape[2])[:, None]
        visible = visible & (keys <= last[:, :, None])[:, None]
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, visible)

"""What a decoder's cross-attention looked at, from its queries and keys. It has no weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from exporters.bart import Bart, split_heads


def cross_attention(queries: list[Tensor], keys: list[Tensor], source_lengths: Tensor) -> Tensor:
    """The probabilities by which each layer and head of the decoder weighs a source's tokens.

    Args:
        queries: each layer's, [batch, query_length, width].
        keys: each layer's, [source, heads, source_length, head_dim].
        source_lengths: int64 [source], at least 1.

    Returns:
        [batch, layers, heads, query_length, source_length], zero from the source's length on.
    """
    sources, heads, width, head_dim = keys[0].shape
    split = [split_heads(query, sources, heads) for query in queries]
    pairs = zip(split, keys, strict=True)
    scores = torch.stack([query @ key.transpose(-2, -1) for query, key in pairs], dim=1)
    padding = torch.arange(width, device=scores.device) >= source_lengths[:, None]
    scores = scores * head_dim**-0.5
    scores = scores.masked_fill(padding[:, None, None, None], float("-inf"))
    return _rows(scores.softmax(-1), *queries[0].shape[:2])


def _rows(folded: Tensor, rows: int, length: int) -> Tensor:
    """[source, layers, heads, rows * length / source, keys] to [rows, layers, heads, length, keys].

    The inverse of what `split_heads` does to the rows of one source.
    """
    sources, layers, heads, _, keys = folded.shape
    beams = folded.reshape(sources, layers, heads, -1, length, keys)
    return beams.permute(0, 3, 1, 2, 4, 5).reshape(rows, layers, heads, length, keys)


class AlignmentGraph(nn.Module):
    """`cross_attention` with the inputs and outputs of `graphs.alignment_graph`."""

    def __init__(self, bart: Bart) -> None:
        super().__init__()

    def forward(self, source_lengths: Tensor, layers: list[Tensor]) -> list[Tensor]:
        return [cross_attention(layers[::2], layers[1::2], source_lengths)]

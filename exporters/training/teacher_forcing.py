"""The whole target sequence through a `Bart` at once, as KerasHub trains it. No cache, no loop.

Its masks are KerasHub's: the encoder's padding hides keys, and the decoder's self-attention sees
what is both earlier and no padding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from exporters.bart import Bart, DecoderLayer, EncoderLayer, Layer, merge_heads, split_heads
from exporters.training.batches import Batch


def token_logits(bart: Bart, batch: Batch) -> Tensor:
    """Logits [rows, length, vocabulary] of every place of the decoder's sequences."""
    encoded, sources = _encode(bart, batch)
    tokens = batch.decoder_token_ids
    length = tokens.shape[1]
    places = torch.arange(length, device=tokens.device)
    earlier = places <= places[:, None]
    visible = _bias(earlier & (places < batch.decoder_lengths[:, None, None, None]), encoded)
    x = bart.decoder.embed(bart.embed_tokens(tokens), places)
    for layer in cast(Iterable[DecoderLayer], bart.decoder.layers):
        x = _self_attend(layer, x, visible)
        key, value = layer.remember(encoded)
        cross = layer.cross_attention
        query = split_heads(cross.query(x), len(x), cross.num_heads)
        change = cross.output(merge_heads(_attend(layer, query, key, value, sources), x))
        x = layer.add(x, change, layer.cross_attention_layer_norm)
        x = layer.feedforward(x)
    return bart.logits(x)


def _encode(bart: Bart, batch: Batch) -> tuple[Tensor, Tensor]:
    """Encoder output [rows, source_length, width], and the bias that hides its padding."""
    tokens = batch.encoder_token_ids
    places = torch.arange(tokens.shape[1], device=tokens.device)
    x = bart.encoder.embed(bart.embed_tokens(tokens), places)
    visible = _bias(places < batch.encoder_lengths[:, None, None, None], x)
    for layer in cast(Iterable[EncoderLayer], bart.encoder.layers):
        x = layer.feedforward(_self_attend(layer, x, visible))
    return x, visible


def _self_attend(layer: Layer, x: Tensor, visible: Tensor) -> Tensor:
    query, key, value = layer.self_attention.project(x)
    attended = _attend(layer, query, key, value, visible)
    change = layer.self_attention.output(merge_heads(attended, x))
    return layer.add(x, change, layer.self_attention_layer_norm)


def _attend(layer: Layer, query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    # Keras drops attention probabilities too.
    dropout = layer.dropout.p if layer.training else 0.0
    return functional.scaled_dot_product_attention(query, key, value, visible, dropout)


def _bias(visible: Tensor, like: Tensor) -> Tensor:
    """0 where a key is seen and -inf where not, made once for all layers."""
    bias = torch.zeros(visible.shape, dtype=like.dtype, device=like.device)
    return bias.masked_fill_(~visible, float("-inf"))

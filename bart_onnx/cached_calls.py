"""KerasHub's low calls on caches in its own layout, on top of a runner's.

A cache here is [rows, layers, 2, length, heads, head_dim], key before value, as KerasHub keeps it.
The encoder's graph makes cross caches itself; from hidden states they are made in numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.backbone import BartBackbone
from bart_onnx.errors import InputError
from bart_onnx.graphs import DECODER_SEQUENCE_OUTPUT, LOGITS, cache_names
from bart_onnx.runners.cache import OrtState

FloatArray = NDArray[np.float32]


def call_encoder(backbone: BartBackbone, token_ids: Any, padding_mask: Any) -> FloatArray:
    """Hidden states float32 [rows, length, hidden_dim] of right-padded sources."""
    lengths = np.asarray(padding_mask).astype(bool).sum(axis=1)
    return backbone.runner.encoder_output(np.asarray(token_ids, np.int64), lengths)


def call_decoder_with_cache(
    backbone: BartBackbone,
    encoder_hidden_states: Any,
    encoder_padding_mask: Any,
    decoder_token_ids: Any,
    self_attention_cache: Any = None,
    self_attention_cache_update_index: int | None = None,
    cross_attention_cache: Any = None,
    cross_attention_cache_update_index: int | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Decode some tokens, written into the self cache from the update index on.

    Args:
        encoder_hidden_states: float32 [rows, source_length, hidden_dim].
        encoder_padding_mask: [rows, source_length], padded on the right.
        decoder_token_ids: int [rows, count].
        self_attention_cache: None begins an empty one as long as the tokens.
        cross_attention_cache: used as it is where the cross index is None; otherwise made anew.

    Returns:
        Logits [rows, count, vocabulary], hidden states [rows, count, hidden_dim], self cache and
        cross cache; new arrays.

    Raises:
        InputError: the tokens do not fit into the self cache from that index on.
    """
    token_ids = np.asarray(decoder_token_ids, np.int64)
    index, count = self_attention_cache_update_index or 0, token_ids.shape[1]
    lengths = np.asarray(encoder_padding_mask).astype(bool).sum(axis=1)
    if cross_attention_cache is None or cross_attention_cache_update_index is not None:
        cross = _cross_cache(backbone, np.asarray(encoder_hidden_states, np.float32))
    else:
        cross = _by_layer(cross_attention_cache)
    state = OrtState(backbone.config, _by_name(cross), lengths)
    room = count if self_attention_cache is None else np.shape(self_attention_cache)[3]
    if index + count > room:
        raise InputError(f"{count} tokens from {index} on do not fit into a cache of {room}.")
    state.reserve(room)
    if self_attention_cache is not None:
        for own, given in zip(state.own, _by_layer(self_attention_cache), strict=True):
            own[:, :, :room] = given
    state.advance(index)
    outputs = backbone.runner.step(state, token_ids, (LOGITS, DECODER_SEQUENCE_OUTPUT))
    logits, hidden = (np.array(outputs[name], np.float32) for name in outputs)
    own_cache = _as_keras([own[:, :, :room] for own in state.own])
    return logits, hidden, own_cache, _as_keras(cross)


def _by_name(cross: list[FloatArray]) -> dict[str, FloatArray]:
    """Cross caches, key and value of each layer in turn, by their names in the graphs."""
    names = map(cache_names, range(len(cross) // 2))
    ordered = [name for each in names for name in (each.cross_key, each.cross_value)]
    return dict(zip(ordered, cross, strict=True))


def _cross_cache(backbone: BartBackbone, hidden: FloatArray) -> list[FloatArray]:
    """Key and value of each layer in turn, [rows, heads, source_length, head_dim]."""
    rows, length, _ = hidden.shape
    shape = (rows, length, backbone.config.decoder.num_heads, backbone.config.decoder_head_dim)
    arrays = []
    for layer in range(backbone.config.decoder.num_layers):
        for part in ("key", "value"):
            name = f"decoder.layers.{layer}.cross_attention.{part}"
            kernel, bias = (backbone.weights[f"{name}.{kind}"]() for kind in ("kernel", "bias"))
            projected = (hidden @ kernel + bias).reshape(shape)
            arrays.append(np.ascontiguousarray(projected.transpose(0, 2, 1, 3)))
    return arrays


def _by_layer(cache: Any) -> list[FloatArray]:
    """From KerasHub's layout to key and value of each layer in turn."""
    array = np.asarray(cache, np.float32)
    _, layers, kinds, *_ = array.shape
    return [
        np.ascontiguousarray(array[:, layer, kind].transpose(0, 2, 1, 3))
        for layer in range(layers)
        for kind in range(kinds)
    ]


def _as_keras(arrays: list[FloatArray]) -> FloatArray:
    """The inverse of `_by_layer`."""
    stacked = np.stack([array.transpose(0, 2, 1, 3) for array in arrays], axis=1)
    return stacked.reshape(len(stacked), -1, 2, *stacked.shape[2:])

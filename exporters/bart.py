"""BART in torch, written to be traced and trained. It knows no file, no ONNX and no tokenizer.

Lewis et al., "BART: Denoising Sequence-to-Sequence Pre-training" (arXiv 1910.13461): learned
positions, normalisation after each residual sum, exact GELU, one embedding for encoder, decoder
and output. Parameters are named as `exporters.packing` names the packed tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bart_onnx.config import BartConfig, SideConfig
from bart_onnx.graphs import top_k
from exporters.operators import attention, update_cache
from exporters.packing import packed_tensors

NORM_EPSILON = 1e-5


class Dense(nn.Module):
    """x kernel + bias, with the kernel [inputs, outputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel + self.bias


class LayerNorm(nn.Module):
    """Normalisation over the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))
        self.beta = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.gamma.shape, self.gamma, self.beta, NORM_EPSILON)


class SelfAttention(nn.Module):
    """Attention of a sequence to itself, with one packed projection for query, key and value."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = Dense(width, 3 * width)
        self.output = Dense(width, width)

    def project(self, x: Tensor) -> list[Tensor]:
        """Query, key and value, each [batch, heads, length, head_dim]."""
        parts = self.query_key_value(x).split(x.shape[-1], dim=-1)
        return [split_heads(part, x.shape[0], self.num_heads) for part in parts]


class CrossAttention(nn.Module):
    """Attention of the decoder to the encoder's output, whose keys and values are made once."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = Dense(width, width)
        self.key_value = Dense(width, 2 * width)
        self.output = Dense(width, width)

    def forward(
        self, x: Tensor, key: Tensor, value: Tensor, source_lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Output and queries, both in the shape of x."""
        query = self.query(x)
        # The rows of one source become one row with more queries: beams share its keys.
        split = split_heads(query, key.shape[0], self.num_heads)
        attended = attention(split, key, value, source_lengths, causal=False)
        return self.output(merge_heads(attended, x)), query


class Layer(nn.Module):
    """What encoder and decoder layers share: self-attention, feed-forward, dropout."""

    def __init__(self, width: int, side: SideConfig, dropout: float) -> None:
        super().__init__()
        self.self_attention = SelfAttention(width, side.num_heads)
        self.self_attention_layer_norm = LayerNorm(width)
        self.feedforward_intermediate = Dense(width, side.intermediate_dim)
        self.feedforward_output = Dense(side.intermediate_dim, width)
        self.feedforward_layer_norm = LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def feedforward(self, x: Tensor) -> Tensor:
        hidden = functional.gelu(self.feedforward_intermediate(x))
        return self.add(x, self.feedforward_output(hidden), self.feedforward_layer_norm)

    def add(self, x: Tensor, change: Tensor, norm: nn.Module) -> Tensor:
        """norm(x + change): BART normalises after each residual sum."""
        total: Tensor = norm(x + self.dropout(change))
        return total


class EncoderLayer(Layer):
    """Self-attention over the whole source, then feed-forward."""

    def forward(self, x: Tensor, source_lengths: Tensor) -> Tensor:
        query, key, value = self.self_attention.project(x)
        attended = attention(query, key, value, source_lengths, causal=False)
        change = self.self_attention.output(merge_heads(attended, x))
        return self.feedforward(self.add(x, change, self.self_attention_layer_norm))


class DecoderLayer(Layer):
    """Cached causal self-attention, cross-attention, then feed-forward."""

    def __init__(self, width: int, side: SideConfig, dropout: float) -> None:
        super().__init__(width, side, dropout)
        self.cross_attention = CrossAttention(width, side.num_heads)
        self.cross_attention_layer_norm = LayerNorm(width)

    def remember(self, encoded: Tensor) -> list[Tensor]:
        """Cross key and value of an encoder output, each [source, heads, length, head_dim]."""
        parts = self.cross_attention.key_value(encoded).split(encoded.shape[-1], dim=-1)
        heads = self.cross_attention.num_heads
        return [split_heads(part, encoded.shape[0], heads) for part in parts]

    def forward(
        self, x: Tensor, past_lengths: Tensor, source_lengths: Tensor, caches: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Output, cross-attention's queries, and the updated self key and value."""
        self_key, self_value, cross_key, cross_value = caches
        query, key, value = self.self_attention.project(x)
        self_key = update_cache(self_key, key, past_lengths)
        self_value = update_cache(self_value, value, past_lengths)
        lengths = past_lengths + x.shape[1]
        attended = attention(query, self_key, self_value, lengths, causal=True)
        change = self.self_attention.output(merge_heads(attended, x))
        x = self.add(x, change, self.self_attention_layer_norm)
        change, cross_query = self.cross_attention(x, cross_key, cross_value, source_lengths)
        x = self.add(x, change, self.cross_attention_layer_norm)
        return self.feedforward(x), cross_query, [self_key, self_value]


class Side(nn.Module):
    """One side of the model: positions, the embeddings' normalisation and a stack of layers."""

    def __init__(self, config: BartConfig, side: SideConfig, layer: type[Layer]) -> None:
        super().__init__()
        width = config.hidden_dim
        self.position_embedding = nn.Parameter(torch.empty(config.max_sequence_length, width))
        self.embedding_layer_norm = LayerNorm(width)
        self.layers = nn.ModuleList(
            layer(width, side, config.dropout) for _ in range(side.num_layers)
        )
        self.dropout = nn.Dropout(config.dropout)

    def embed(self, embedded: Tensor, positions: Tensor) -> Tensor:
        x = embedded + functional.embedding(positions, self.position_embedding)
        normalised: Tensor = self.dropout(self.embedding_layer_norm(x))
        return normalised


class Bart(nn.Module):
    """A BART language model: `encode` once, `decode` step by step."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.config = config
        embedding_shape = (config.vocabulary_size, config.hidden_dim)
        self.token_embedding = nn.Parameter(torch.empty(embedding_shape))
        self.encoder = Side(config, config.encoder, EncoderLayer)
        self.decoder = Side(config, config.decoder, DecoderLayer)
        if not config.tied_embeddings:
            self.lm_head = nn.Parameter(torch.empty(embedding_shape))
        if config.final_logits_bias:
            self.final_logits_bias = nn.Parameter(torch.empty(config.vocabulary_size))
        self.embedding_scale = math.sqrt(config.hidden_dim) if config.scale_embedding else 1.0

    @classmethod
    def from_weights(
        cls, config: BartConfig, weights: Mapping[str, Callable[[], NDArray[np.float32]]]
    ) -> Bart:
        """A model in evaluation mode that holds the weights named in `bart_onnx.weights`."""
        with torch.device("meta"):
            model = cls(config)
        values = {
            tensor.name: torch.from_numpy(tensor.pack(weights)) for tensor in packed_tensors(config)
        }
        model.load_state_dict(values, assign=True)
        return model.eval()

    def encode(self, token_ids: Tensor, source_lengths: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encoder output [source, length, width], and each decoder layer's cross key and value."""
        # Padding may pass the last position: a runtime rounds widths up.
        last = self.config.max_sequence_length - 1
        positions = torch.arange(token_ids.shape[1], device=token_ids.device).clamp(max=last)
        x = self.encoder.embed(self.embed_tokens(token_ids), positions)
        for layer in self.encoder.layers:
            x = layer(x, source_lengths)
        layers = cast(Iterable[DecoderLayer], self.decoder.layers)
        return x, [part for layer in layers for part in layer.remember(x)]

    def decode(
        self,
        token_ids: Tensor,
        positions: Tensor,
        past_lengths: Tensor,
        source_lengths: Tensor,
        caches: list[Tensor],
    ) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        """Logits, decoder output, updated self caches and cross queries of one step.

        Their shapes are those of `graphs.decoder_step_graph`.
        `caches` holds self key, self value, cross key and cross value of each layer in turn.
        """
        x = self.decoder.embed(self.embed_tokens(token_ids), positions)
        updated, queries = [], []
        for index, layer in enumerate(self.decoder.layers):
            mine = caches[4 * index : 4 * index + 4]
            x, query, changed = layer(x, past_lengths, source_lengths, mine)
            updated += changed
            queries.append(query)
        return self.logits(x), x, updated, queries

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        embedded = functional.embedding(token_ids, self.token_embedding)
        return embedded * self.embedding_scale if self.config.scale_embedding else embedded

    def logits(self, x: Tensor) -> Tensor:
        head = self.token_embedding if self.config.tied_embeddings else self.lm_head
        bias = self.final_logits_bias if self.config.final_logits_bias else None
        # Rows by columns, so that ONNX multiplies by the embedding as it lies (Gemm, transB).
        flat = functional.linear(x.reshape(-1, x.shape[-1]), head, bias)
        return flat.reshape(*x.shape[:-1], -1)


class EncoderGraph(nn.Module):
    """`Bart.encode` with the inputs and outputs of `graphs.encoder_graph`."""

    def __init__(self, bart: Bart) -> None:
        super().__init__()
        self.bart = bart

    def forward(self, encoder_token_ids: Tensor, source_lengths: Tensor) -> list[Tensor]:
        encoded, cross = self.bart.encode(encoder_token_ids, source_lengths)
        return [encoded, *cross]


class DecoderStepGraph(nn.Module):
    """`Bart.decode` with the inputs and outputs of `graphs.decoder_step_graph`."""

    def __init__(self, bart: Bart) -> None:
        super().__init__()
        self.bart = bart

    def forward(
        self,
        decoder_token_ids: Tensor,
        decoder_positions: Tensor,
        past_lengths: Tensor,
        source_lengths: Tensor,
        caches: list[Tensor],
    ) -> list[Tensor]:
        logits, hidden, updated, queries = self.bart.decode(
            decoder_token_ids, decoder_positions, past_lengths, source_lengths, caches
        )
        top_logits, top_token_ids = logits.topk(top_k(self.bart.config))
        total = log_sum_exp(logits, top_logits, top_token_ids)
        best = [logits.argmax(-1), top_logits, top_token_ids, total]
        return [logits, *best, hidden, *updated, *queries]


def log_sum_exp(logits: Tensor, top_logits: Tensor, top_token_ids: Tensor) -> Tensor:
    """The logarithm of the sum of exponentials over the last axis, of which the best are known.

    onnxruntime's ReduceLogSumExp takes five times as long as its LogSoftmax, and what its ReduceSum
    gives depends on where a row lies in memory. The best token's logarithm is nearest to zero, so
    the difference is rounded least.
    """
    of_best = functional.log_softmax(logits, -1).gather(-1, top_token_ids[..., :1])
    return top_logits[..., 0] - of_best[..., 0]


def split_heads(x: Tensor, batch: int, num_heads: int) -> Tensor:
    """[rows, length, width] to [batch, heads, rows * length / batch, head_dim]."""
    return x.reshape(batch, -1, num_heads, x.shape[-1] // num_heads).transpose(1, 2)


def merge_heads(attended: Tensor, like: Tensor) -> Tensor:
    """The inverse of `split_heads`, in the shape of `like`."""
    return attended.transpose(1, 2).reshape(like.shape)

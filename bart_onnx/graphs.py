"""The contract between exporters and runners: every graph's tensors, their dtypes and axes.

No tensor name is written anywhere else. It knows no file, no operator and no library.

The encoder graph emits each decoder layer's cross-attention keys and values. The decoder-step graph
reads them, so that nothing after the encoder sees its hidden states. The alignment graph says what
a step's tokens attended to, from the step's cross-attention queries; it has no weights. An axis is
a number, or a name for one that may differ from call to call:

    source            texts that were encoded
    batch             rows that are decoded: a multiple of source. Row r belongs to source
                      r // (batch // source), so that beams share one cross cache
    query_length      tokens that one step feeds to each row
    source_length     width of the encoder's input and of the cross caches
    capacity          tokens that the self caches have room for
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from bart_onnx.config import BartConfig

FP32, INT8, FP16, BF16 = "fp32", "int8", "fp16", "bf16"
PRECISIONS = (FP32, INT8, FP16, BF16)
# What lies in the caches of a half precision; everything else of a contract is float32 there too.
HALF_PRECISIONS = {FP16: "float16", BF16: "bfloat16"}

ENCODER = "encoder"
DECODER_STEP = "decoder_step"
ALIGNMENT = "alignment"

ENCODER_TOKEN_IDS = "encoder_token_ids"
SOURCE_LENGTHS = "source_lengths"
ENCODER_SEQUENCE_OUTPUT = "encoder_sequence_output"
DECODER_TOKEN_IDS = "decoder_token_ids"
DECODER_POSITIONS = "decoder_positions"
PAST_LENGTHS = "past_lengths"
LOGITS = "logits"
NEXT_TOKEN_IDS = "next_token_ids"
TOP_LOGITS = "top_logits"
TOP_TOKEN_IDS = "top_token_ids"
LOG_SUM_EXP = "log_sum_exp"
DECODER_SEQUENCE_OUTPUT = "decoder_sequence_output"
CROSS_ATTENTION = "cross_attention"

LARGEST_TOP_K = 64

Axis: TypeAlias = int | str


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: its name, its dtype's name and its axes.

    The names are numpy's, and ml_dtypes' for "bfloat16", which numpy does not have.
    """

    name: str
    dtype: str
    shape: tuple[Axis, ...]


@dataclass(frozen=True)
class GraphSpec:
    """One graph: its name and its tensors, in order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class CacheNames:
    """What one decoder layer's caches are called, as step inputs and, updated, as outputs.

    Scales belong to int8 caches only, and so do the kept ones: what a step gives back unchanged.
    """

    self_key: str
    self_value: str
    updated_self_key: str
    updated_self_value: str
    cross_key: str
    cross_value: str
    cross_key_scale: str
    cross_value_scale: str
    kept_cross_key: str
    kept_cross_value: str


def cache_names(layer: int) -> CacheNames:
    """Names of the caches of decoder layer `layer`, counted from 0."""
    return CacheNames(
        self_key=f"self_key_{layer}",
        self_value=f"self_value_{layer}",
        updated_self_key=f"updated_self_key_{layer}",
        updated_self_value=f"updated_self_value_{layer}",
        cross_key=f"cross_key_{layer}",
        cross_value=f"cross_value_{layer}",
        cross_key_scale=f"cross_key_scale_{layer}",
        cross_value_scale=f"cross_value_scale_{layer}",
        kept_cross_key=f"kept_cross_key_{layer}",
        kept_cross_value=f"kept_cross_value_{layer}",
    )


def cross_query_name(layer: int) -> str:
    """What the cross-attention queries of decoder layer `layer` are called."""
    return f"cross_query_{layer}"


def encoder_graph(config: BartConfig, precision: str = "fp32") -> GraphSpec:
    """Token ids of right-padded sources in; cross caches out. Called once per source."""
    outputs = [
        TensorSpec(
            ENCODER_SEQUENCE_OUTPUT, "float32", ("source", "source_length", config.hidden_dim)
        )
    ]
    for layer in range(config.decoder.num_layers):
        outputs += _cross_caches(config, layer, precision)
    return GraphSpec(
        name=ENCODER,
        inputs=(
            TensorSpec(ENCODER_TOKEN_IDS, "int64", ("source", "source_length")),
            TensorSpec(SOURCE_LENGTHS, "int64", ("source",)),
        ),
        outputs=tuple(outputs),
    )


def decoder_step_graph(config: BartConfig, precision: str = "fp32") -> GraphSpec:
    """`query_length` tokens of every row in; what may follow each, and the updated caches, out.

    Row r's tokens are written into its self cache from `past_lengths[r]` on, all `query_length` of
    them, so past length + query length must not exceed the capacity; each sees the cache up to and
    including itself. `decoder_positions` chooses the position embedding of each token.
    """
    inputs = [
        TensorSpec(DECODER_TOKEN_IDS, "int64", ("batch", "query_length")),
        TensorSpec(DECODER_POSITIONS, "int64", ("batch", "query_length")),
        TensorSpec(PAST_LENGTHS, "int64", ("batch",)),
        TensorSpec(SOURCE_LENGTHS, "int64", ("source",)),
    ]
    outputs = _token_outputs(config)
    queries: list[TensorSpec] = []
    given_back: list[TensorSpec] = []
    for layer in range(config.decoder.num_layers):
        names = cache_names(layer)
        own = self_cache_dtype(precision)
        inputs += _caches(config, (names.self_key, names.self_value), "batch", "capacity", own)
        inputs += _cross_caches(config, layer, precision)
        updated = (names.updated_self_key, names.updated_self_value)
        outputs += _caches(config, updated, "batch", "capacity", own)
        queries.append(_cross_query(config, layer, precision))
        if precision == INT8:
            kept = (names.kept_cross_key, names.kept_cross_value)
            given_back += _caches(config, kept, "source", "source_length", "int8")
    every = (*outputs, *queries, *given_back)
    return GraphSpec(name=DECODER_STEP, inputs=tuple(inputs), outputs=every)


def alignment_graph(config: BartConfig, precision: str = "fp32") -> GraphSpec:
    """Queries of one step in; how much each head of each layer attended to each source token, out.

    The probabilities of a token sum to 1 and are zero from its source's length on. A graph of its
    own, because onnxruntime computes every output of a graph, asked for or not.
    """
    inputs = [TensorSpec(SOURCE_LENGTHS, "int64", ("source",))]
    for layer in range(config.decoder.num_layers):
        inputs.append(_cross_query(config, layer, precision))
        own = _cross_caches(config, layer, precision)
        inputs += own[: len(own) // 2]
    decoder = config.decoder
    shape = ("batch", decoder.num_layers, decoder.num_heads, "query_length", "source_length")
    outputs = (TensorSpec(CROSS_ATTENTION, "float32", shape),)
    return GraphSpec(name=ALIGNMENT, inputs=tuple(inputs), outputs=outputs)


def top_k(config: BartConfig) -> int:
    """How many of the best logits the step sorts out for each token."""
    return min(LARGEST_TOP_K, config.vocabulary_size)


def self_cache_dtype(precision: str) -> str:
    """What the self caches of a bundle of this precision hold."""
    return HALF_PRECISIONS.get(precision, "float32")


def graph_specs(config: BartConfig, precision: str = "fp32") -> tuple[GraphSpec, ...]:
    """Every graph of a bundle of this precision."""
    graphs = (encoder_graph, decoder_step_graph, alignment_graph)
    return tuple(graph(config, precision) for graph in graphs)


def _token_outputs(config: BartConfig) -> list[TensorSpec]:
    rows: tuple[Axis, ...] = ("batch", "query_length")
    best: tuple[Axis, ...] = (*rows, top_k(config))
    return [
        TensorSpec(LOGITS, "float32", (*rows, config.vocabulary_size)),
        TensorSpec(NEXT_TOKEN_IDS, "int64", rows),
        TensorSpec(TOP_LOGITS, "float32", best),
        TensorSpec(TOP_TOKEN_IDS, "int64", best),
        TensorSpec(LOG_SUM_EXP, "float32", rows),
        TensorSpec(DECODER_SEQUENCE_OUTPUT, "float32", (*rows, config.hidden_dim)),
    ]


def _cross_query(config: BartConfig, layer: int, precision: str) -> TensorSpec:
    """Queries are what the step's attention reads: in half, a float32 copy would be made for it."""
    shape = ("batch", "query_length", config.hidden_dim)
    return TensorSpec(cross_query_name(layer), HALF_PRECISIONS.get(precision, "float32"), shape)


def _cross_caches(config: BartConfig, layer: int, precision: str) -> list[TensorSpec]:
    """Key and value of one layer; in int8 each is followed by its scales.

    The value of channel c of head h of a source is its int8 times scale [source, 0, h * dim + c].
    """
    names = cache_names(layer)
    specs = []
    for cache, scale in (
        (names.cross_key, names.cross_key_scale),
        (names.cross_value, names.cross_value_scale),
    ):
        dtype = "int8" if precision == INT8 else self_cache_dtype(precision)
        specs += _caches(config, (cache,), "source", "source_length", dtype)
        if precision == INT8:
            specs.append(TensorSpec(scale, "float32", ("source", 1, config.hidden_dim)))
    return specs


def _caches(
    config: BartConfig, names: tuple[str, ...], rows: Axis, length: Axis, dtype: str
) -> list[TensorSpec]:
    shape = (rows, config.decoder.num_heads, length, config.decoder_head_dim)
    return [TensorSpec(name, dtype, shape) for name in names]

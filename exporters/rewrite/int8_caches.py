"""Master graph -> int8 cross caches: written by the encoder, read by GroupQueryAttention.

One scale serves a channel of a head of one source, and lies beside the cache, so that no source
depends on another and no calibration is needed. The query is multiplied by the key's scales and the
result by the value's, which is the same as multiplying the caches.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bart_onnx.config import BartConfig
from bart_onnx.graphs import ALIGNMENT, DECODER_STEP, ENCODER, SOURCE_LENGTHS, cache_names
from exporters.rewrite.graph_edits import Adder, Edits, named, only_user, origin

_MICROSOFT = "com.microsoft"


def use_int8_caches(model: ir.Model, config: BartConfig) -> None:
    """Write or read the cross caches in int8, whichever the graph does."""
    _PASSES[str(model.graph.name)](model, config)


def write_int8_caches(model: ir.Model, config: BartConfig) -> None:
    """Let the encoder graph give each cross cache as int8 and scales."""
    edits, graph = Edits(model), model.graph
    lengths = named(graph.inputs, SOURCE_LENGTHS)
    outputs = list(graph.outputs)
    for layer in range(config.decoder.num_layers):
        names = cache_names(layer)
        for cache, scale in (
            (names.cross_key, names.cross_key_scale),
            (names.cross_value, names.cross_value_scale),
        ):
            place = next(i for i, value in enumerate(outputs) if value.name == cache)
            value = outputs[place]
            value.name = f"{cache}_float"
            small, scales = _quantised(edits, value, lengths)
            small.name, scales.name = cache, scale
            outputs[place : place + 1] = [small, scales]
    graph.outputs[:] = outputs


def _quantised(edits: Edits, value: ir.Value, lengths: ir.Value) -> tuple[ir.Value, ir.Value]:
    """A cache [source, heads, length, head_dim] as int8, and its scales [source, 1, heads * dim].

    What lies past a source's length is left out of its scales: how much there is depends on the
    batch.
    """
    add = edits.at_end()
    heads, width = _head_sizes(value)
    positions = add(
        "Range",
        add.constant(np.int64(0)),
        add("Squeeze", add("Shape", value, start=2, end=3)),
        add.constant(np.int64(1)),
    )
    counted = add(
        "Less", positions, add("Unsqueeze", lengths, add.constant(np.array([1], np.int64)))
    )
    mask = add("Cast", counted, to=int(ir.DataType.FLOAT))
    mask = add("Unsqueeze", mask, add.constant(np.array([1, 3], np.int64)))
    kept = add("Mul", value, mask)
    largest = add("ReduceMax", add("Abs", kept), add.constant(np.array([2], np.int64)), keepdims=1)
    scales = add("Mul", largest, add.constant(np.float32(1 / 127)))
    scales = add("Max", scales, add.constant(np.float32(1e-12)))
    rounded = add("Round", add("Div", kept, scales))
    small = add("Cast", rounded, to=int(ir.DataType.INT8))
    shape = add.constant(np.array([-1, 1, heads * width], np.int64))
    return small, add("Reshape", scales, shape)


def read_int8_caches(model: ir.Model, config: BartConfig) -> None:
    """Let the decoder step attend to int8 cross caches.

    GroupQueryAttention gives its caches back; they are bound to where they came from. It takes one
    query for each of several sources, or several of one source.
    """
    edits, graph = Edits(model), model.graph
    first = next(iter(graph))
    add = edits.before(first)
    lengths = named(graph.inputs, SOURCE_LENGTHS)
    last = add(
        "Cast",
        add("Sub", lengths, add.constant(np.array([1], np.int64))),
        to=int(ir.DataType.INT32),
    )
    for layer in range(config.decoder.num_layers):
        names = cache_names(layer)
        key, value = (named(graph.inputs, name) for name in (names.cross_key, names.cross_value))
        attention = next(use.node for use in value.uses())
        scales = (
            _scales(graph, key, names.cross_key_scale, config),
            _scales(graph, value, names.cross_value_scale, config),
        )
        kept = _attend(edits, attention, (key, value), scales, last)
        for cache, name in zip(kept, (names.kept_cross_key, names.kept_cross_value), strict=True):
            cache.name = name
            graph.outputs.append(cache)
    edits.drop_unused()


def _scales(graph: ir.Graph, cache: ir.Value, name: str, config: BartConfig) -> ir.Value:
    """Make a cache among the inputs int8; its scales, the input after it."""
    cache.type = ir.TensorType(ir.DataType.INT8)
    scales = ir.Value(
        name=name,
        shape=ir.Shape(("source", 1, config.hidden_dim)),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    graph.inputs.insert(list(graph.inputs).index(cache) + 1, scales)
    return scales


def _attend(
    edits: Edits,
    attention: ir.Node,
    caches: tuple[ir.Value, ir.Value],
    scales: tuple[ir.Value, ir.Value],
    last: ir.Value,
) -> list[ir.Value]:
    """Put int8 attention in the place of a cross-attention; the caches that it gives back."""
    key, value = caches
    heads, width = _head_sizes(key)
    add = edits.before(attention)
    # The query was cut into heads by a Reshape and a Transpose.
    query = origin(origin(attention.inputs[0]))
    merged = only_user(only_user(attention.outputs[0]).outputs[0])
    sources = add("Shape", key, start=0, end=1)
    rest = add.constant(np.array([-1, heads * width], np.int64))
    query = add("Reshape", query, add("Concat", sources, rest, axis=0))
    none = _no_tokens(add, query)
    capacity = add("Cast", add("Shape", key, start=2, end=3), to=int(ir.DataType.INT32))
    ones = add.constant(np.ones((1, heads, 1, width), np.float32))
    attended, *kept = add.several(
        "GroupQueryAttention",
        3,
        *(add("Mul", query, scales[0]), none, none, key, value, last, capacity),
        *(None, None, None, None, None, ones, ones),
        domain=_MICROSOFT,
        num_heads=heads,
        kv_num_heads=heads,
        causal=0,
        k_quant_type="PER_CHANNEL",
        v_quant_type="PER_CHANNEL",
        kv_cache_bit_width=8,
    )
    for before, after in zip(caches, kept, strict=True):
        after.shape, after.type = before.shape, before.type
    result = edits.before(merged)("Reshape", add("Mul", attended, scales[1]), merged.inputs[1])
    edits.replace(merged, result)
    return kept


def _no_tokens(add: Adder, query: ir.Value) -> ir.Value:
    """[source, 0, width]: no key or value is new."""
    zero, axis = add.constant(np.array([0], np.int64)), add.constant(np.array([1], np.int64))
    return add("Slice", query, zero, zero, axis)


def _head_sizes(cache: ir.Value) -> tuple[int, int]:
    """Heads and width of one, of a cache [rows, heads, length, width]."""
    assert cache.shape is not None
    heads, width = cache.shape[1], cache.shape[3]
    assert isinstance(heads, int)
    assert isinstance(width, int)
    return heads, width


def weigh_int8_keys(model: ir.Model, config: BartConfig) -> None:
    """Let the alignment graph read int8 keys: as float32, times their scales."""
    edits, graph = Edits(model), model.graph
    add = edits.before(next(iter(graph)))
    for layer in range(config.decoder.num_layers):
        names = cache_names(layer)
        key = named(graph.inputs, names.cross_key)
        heads, width = _head_sizes(key)
        users = [(use.node, use.idx) for use in key.uses()]
        scale = _scales(graph, key, names.cross_key_scale, config)
        shape = add.constant(np.array([-1, heads, 1, width], np.int64))
        whole = add("Cast", key, to=int(ir.DataType.FLOAT))
        whole = add("Mul", whole, add("Reshape", scale, shape))
        for node, place in users:
            node.replace_input_with(place, whole)


_PASSES: dict[str, Callable[[ir.Model, BartConfig], None]] = {
    ENCODER: write_int8_caches,
    DECODER_STEP: read_int8_caches,
    ALIGNMENT: weigh_int8_keys,
}

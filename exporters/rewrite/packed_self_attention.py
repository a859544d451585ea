"""Master decoder step -> one whose self-attention is one operator on the CPU.

GroupQueryAttention reads query, key and value where the packed projection left them, writes the
caches in place and attends to them, in two thirds of the time that TensorScatter, Attention and
the reshaping around them take.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bart_onnx.config import BartConfig
from bart_onnx.graphs import DECODER_STEP, DECODER_TOKEN_IDS, PAST_LENGTHS, cache_names
from exporters.rewrite.graph_edits import Adder, Edits, named, only_user, origin

_MICROSOFT = "com.microsoft"
_INT32 = int(ir.DataType.INT32)


def pack_self_attention(model: ir.Model, config: BartConfig) -> None:
    """Let GroupQueryAttention update the self caches and attend to them.

    It counts a row's tokens with the new ones; `past_lengths` counts them without.
    """
    graph = model.graph
    if graph.name != DECODER_STEP:
        return
    edits = Edits(model)
    add = edits.before(next(iter(graph)))
    counts = _Counts(add, graph)
    for layer in range(config.decoder.num_layers):
        names = cache_names(layer)
        caches = [named(graph.inputs, name) for name in (names.self_key, names.self_value)]
        scatters = [only_user(cache) for cache in caches]
        attention = only_user(scatters[0].outputs[0])
        # The new key came from the packed projection by Split, Reshape and Transpose.
        packed = origin(origin(origin(scatters[0].inputs[1])))
        merged = only_user(only_user(attention.outputs[0]).outputs[0])
        add = edits.before(merged)
        attended, *kept = add.several(
            "GroupQueryAttention",
            3,
            *(add("Reshape", packed, counts.packed_shape), None, None, *caches),
            *(counts.last, add("Cast", add("Shape", caches[0], start=2, end=3), to=_INT32)),
            *(*[None] * 9, counts.query_lengths),
            domain=_MICROSOFT,
            num_heads=config.decoder.num_heads,
            kv_num_heads=config.decoder.num_heads,
        )
        edits.replace(merged, add("Reshape", attended, merged.inputs[1]))
        for before, after in zip(scatters, kept, strict=True):
            edits.replace(before, after)
    edits.drop_unused()


class _Counts:
    """What all layers' attentions are told of rows and tokens."""

    def __init__(self, add: Adder, graph: ir.Graph) -> None:
        token_ids = named(graph.inputs, DECODER_TOKEN_IDS)
        past_lengths = named(graph.inputs, PAST_LENGTHS)
        query_length = add("Shape", token_ids, start=1, end=2)
        one = add.constant(np.array([1], np.int64))
        last = add("Sub", add("Add", past_lengths, query_length), one)
        rows = add("Shape", token_ids, start=0, end=1)
        self.last = add("Cast", last, to=_INT32)
        self.query_lengths = add("Expand", add("Cast", query_length, to=_INT32), rows)
        every = add.constant(np.array([-1], np.int64))
        self.packed_shape = add("Concat", add("Shape", token_ids), every, axis=0)

"""Master graph -> one that TensorRT's parser takes whole.

The parser imports Attention with `nonpad_kv_seqlen` and drops the lengths without a word
(TensorRT-RTX 1.7.1). Its own operator TRT_Attention takes them, as input 5 and in int32. That one
in turn drops `scale`: it computes softmax(query key') value, so the query is multiplied before it.
TensorScatter becomes an update in place if the cache's capacity is a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from bart_onnx.config import BartConfig
from bart_onnx.errors import ExportError
from bart_onnx.graphs import ENCODER
from exporters.operators import OPSET
from exporters.rewrite.graph_edits import Adder, Edits

ATTENTION = "TRT_Attention"
# The parser looks at an operator's name and not at its domain.
DOMAIN = "tensorrt"
CAPACITY = "capacity"

# onnx's Attention-24: query, key, value, mask, past key, past value, valid keys of each row.
_ONNX_LENGTHS = 6
# TopK sorts in shared memory.
_TOP_K_LIMIT = 3840
_DTYPES = {
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.BOOL,
}
_REFUSED = {"DynamicQuantizeLinear", "MatMulInteger", "Loop", "If", "Scan", "Attention"}


def use_tensorrt_operators(model: ir.Model, config: BartConfig, capacity: int) -> None:
    """Let attention be TensorRT's own, and self caches have room for `capacity` tokens.

    Takes the encoder and the decoder step in fp32, fp16 and bf16.

    Raises:
        ExportError: something is left that TensorRT does not take; it is named.
    """
    edits = Edits(model)
    side = config.encoder if model.graph.name == ENCODER else config.decoder
    factor = query_scale(config.hidden_dim // side.num_heads)
    lengths: dict[ir.Value, ir.Value] = {}
    for node in list(model.graph):
        if node.op_type == "Attention":
            edits.replace(node, _attention(edits.before(node), node, factor, lengths))
    for value in (*model.graph.inputs, *model.graph.outputs):
        _fix_capacity(value, capacity)
    if lengths:
        model.graph.opset_imports[DOMAIN] = 1
    check_tensorrt_takes(model)


def query_scale(head_dim: int) -> np.float32:
    """What queries are multiplied by: one over the root of a head's width."""
    return np.float32(1 / math.sqrt(head_dim))


def check_tensorrt_takes(model: ir.Model) -> None:
    """Refuse a graph with an operator, a version or a dtype that TensorRT does not take.

    Raises:
        ExportError: see above.
    """
    found = [*_odd_versions(model), *_odd_operators(model.graph), *_odd_dtypes(model.graph)]
    if found:
        raise ExportError(
            f"TensorRT does not take the {model.graph.name} graph: {'; '.join(found[:5])}. Export "
            "the checkpoint with --precision fp32, fp16 or bf16, of which engines are built."
        )


def _attention(
    add: Adder, node: ir.Node, factor: np.float32, lengths: dict[ir.Value, ir.Value]
) -> ir.Value:
    """What stands for an Attention; `lengths` holds those that are int32 already."""
    query, key, value = node.inputs[:3]
    valid = node.inputs[_ONNX_LENGTHS] if len(node.inputs) > _ONNX_LENGTHS else None
    if query is None or valid is None:
        raise ExportError(
            f"{node.name}: an Attention without lengths attends to padding; TensorRT engines are "
            "built from graphs that give every attention its lengths."
        )
    if valid not in lengths:
        lengths[valid] = add("Cast", valid, to=int(ir.DataType.INT32))
    causal = node.attributes.get_int("is_causal", 0)
    return add(
        ATTENTION,
        *(_scaled(add, query, factor), key, value, None, None, lengths[valid]),
        domain=DOMAIN,
        causal_kind="lower_right" if causal else "none",
        scale=1.0,
        # A shape without a fused kernel, such as any in float32, is an error otherwise.
        TRT_decomposable=1,
    )


def _scaled(add: Adder, query: ir.Value, factor: np.float32) -> ir.Value:
    """The query times a factor. Not the key: that may be a whole cache."""
    scale = add.constant(factor)
    if query.dtype is not None and query.dtype != ir.DataType.FLOAT:
        scale = add("Cast", scale, to=int(query.dtype))
    scaled = add("Mul", query, scale)
    scaled.type = query.type
    return scaled


def _fix_capacity(value: ir.Value, capacity: int) -> None:
    if value.shape is None:
        return
    axes = [axis if isinstance(axis, int) else axis.value for axis in value.shape]
    value.shape = ir.Shape([capacity if axis == CAPACITY else axis for axis in axes])


def _odd_versions(model: ir.Model) -> Iterable[str]:
    for domain, version in model.graph.opset_imports.items():
        if domain == "" and version is not None and version > OPSET:
            yield f"opset {version} is newer than {OPSET}"


def _odd_operators(graph: ir.Graph) -> Iterable[str]:
    for node in graph:
        own = node.domain == DOMAIN and node.op_type == ATTENTION
        if (node.domain != "" and not own) or (node.domain == "" and node.op_type in _REFUSED):
            yield f"operator {node.domain or 'onnx'}.{node.op_type}"
        if node.op_type == "TopK":
            wanted = node.inputs[1]
            k = ir.convenience.get_const_tensor(wanted) if wanted is not None else None
            if k is None or int(k.numpy().ravel()[0]) >= _TOP_K_LIMIT:
                yield f"TopK takes a constant below {_TOP_K_LIMIT}"


def _odd_dtypes(graph: ir.Graph) -> Iterable[str]:
    values = (*graph.inputs, *graph.outputs, *graph.initializers.values())
    for value in values:
        if value.dtype not in _DTYPES:
            yield f"{value.name} is {'of no dtype' if value.dtype is None else value.dtype.name}"

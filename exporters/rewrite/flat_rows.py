"""Master graph -> one whose activations are rows: [batch * length, width] in place of three axes.

Then every multiplication takes and gives what lies there, and only attention and outputs are
reshaped. Residual sum, bias and normalisation become one operator.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bart_onnx.config import BartConfig
from bart_onnx.graphs import DECODER_STEP
from exporters.rewrite.graph_edits import Edits

_MICROSOFT = "com.microsoft"


def use_flat_rows(model: ir.Model, config: BartConfig) -> None:
    """Let activations be rows from the embeddings' normalisation on."""
    graph = model.graph
    norms = [node for node in graph if node.op_type == "LayerNormalization"]
    if not norms:
        return
    edits = Edits(model)
    flat = edits.constant(np.array([-1, config.hidden_dim], np.int64))
    for node in list(graph):
        if node.op_type == "Split":
            node.attributes["axis"] = ir.AttrInt64("axis", -1)
        elif node.op_type == "Reshape" and _merges_heads(node):
            node.replace_input_with(1, flat)
    _flatten(edits, norms[0].outputs[0], flat)
    _restore_outputs(edits, graph, config)


def fuse_norms(model: ir.Model, config: BartConfig) -> None:
    """Let SkipLayerNormalization add a residual and a bias, and normalise.

    In the decoder step only: it saves calls, which count there, and takes 2 ms where the encoder's
    512 rows of bart-base are normalised in 0.2 ms and summed in 0.3.
    """
    if model.graph.name != DECODER_STEP:
        return
    edits = Edits(model)
    for node in list(model.graph):
        if node.op_type != "LayerNormalization":
            continue
        total, gamma, beta = (value for value in node.inputs if value is not None)
        residual = total.producer()
        change = None if residual is None else _biased(residual.inputs[1])
        if residual is None or change is None or residual.op_type != "Add":
            continue
        fused = edits.before(node).several(
            "SkipLayerNormalization",
            1,
            *(change.inputs[0], residual.inputs[0], gamma, beta, change.inputs[1]),
            domain=_MICROSOFT,
            epsilon=node.attributes["epsilon"].as_float(),
        )
        edits.replace(node, fused[0])
    edits.drop_unused()


def _merges_heads(node: ir.Node) -> bool:
    """Whether a Reshape puts heads side by side after attention."""
    transpose = _producer(node.inputs[0])
    attention = None if transpose is None else _producer(transpose.inputs[0])
    return attention is not None and attention.op_type == "Attention"


def _flatten(edits: Edits, value: ir.Value, shape: ir.Value) -> None:
    """Let all that reads a value read it as rows."""
    readers = [(use.node, use.idx) for use in value.uses()]
    add = edits.before(readers[0][0])
    rows = add("Reshape", value, shape)
    for reader, place in readers:
        reader.replace_input_with(place, rows)


def _restore_outputs(edits: Edits, graph: ir.Graph, config: BartConfig) -> None:
    """Give activations that are outputs, [batch, length, width], their axes back."""
    add = edits.at_end()
    axes = add("Shape", graph.inputs[0])
    width = add.constant(np.array([config.hidden_dim], np.int64))
    shape = add("Concat", axes, width, axis=0)
    for place, value in enumerate(graph.outputs):
        node = value.producer()
        if node is None or node.op_type not in ("Add", "LayerNormalization"):
            continue
        if value.shape is None or value.shape[-1] != config.hidden_dim:
            continue
        name, value.name = value.name, f"{value.name}_rows"
        restored = add("Reshape", value, shape)
        restored.name, restored.shape, restored.type = name, value.shape, value.type
        value.shape = None
        graph.outputs[place] = restored


def _biased(value: ir.Value | None) -> ir.Node | None:
    """The node that adds a bias, if that is what makes this value for one reader."""
    node = None if value is None else _producer(value)
    if node is None or node.op_type != "Add" or len(node.outputs[0].uses()) != 1:
        return None
    bias = node.inputs[1]
    shape = None if bias is None else bias.shape
    return node if shape is not None and len(shape) == 1 else None


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()

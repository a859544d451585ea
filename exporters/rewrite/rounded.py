"""Half-precision graph -> float32 graph of the same results: a reference where half cannot run.

Every operator computes in float32 and its result is rounded to half and back, as by the kernels of
a GPU, which add up in float32. What a kernel keeps in half within itself, such as the probabilities
of an attention, is not rounded.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from exporters.rewrite.graph_edits import Adder, Edits

_FLOAT = ir.DataType.FLOAT
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
# What these give was rounded when it was made.
_MOVES = ("Gather", "Reshape", "Split", "TensorScatter", "Transpose")


def round_in_float32(model: ir.Model) -> None:
    """Let a half-precision graph compute in float32, under fp32's contract; weights stay half."""
    graph, edits = model.graph, Edits(model)
    nodes = list(graph)
    for value in graph.inputs:
        if value.dtype in _HALVES:
            value.type = ir.TensorType(_FLOAT)
    for weight in list(graph.initializers.values()):
        if weight.dtype in _HALVES:
            _read_as_float(edits.before(nodes[0]), graph, weight)
    for node, following in zip(nodes, (*nodes[1:], None), strict=True):
        add = edits.at_end() if following is None else edits.before(following)
        for output in node.outputs:
            half = output.dtype
            if half not in _HALVES:
                continue
            if node.op_type == "Cast":
                _read_as_float(add, graph, output)
                continue
            output.type = ir.TensorType(_FLOAT)
            if node.op_type not in _MOVES:
                _read_rounded(add, graph, output, half)


def _read_rounded(add: Adder, graph: ir.Graph, value: ir.Value, half: ir.DataType) -> None:
    """Let all that reads a float32 value read what half would hold of it."""
    readers = list(value.uses())
    rounded = _cast(add, value, half)
    _give(graph, value, readers, _cast(add, rounded, _FLOAT))


def _read_as_float(add: Adder, graph: ir.Graph, value: ir.Value) -> None:
    """Let all that reads a half value read it in float32."""
    readers = list(value.uses())
    _give(graph, value, readers, _cast(add, value, _FLOAT))


def _cast(add: Adder, value: ir.Value, to: ir.DataType) -> ir.Value:
    cast = add("Cast", value, to=int(to))
    cast.type, cast.shape = ir.TensorType(to), value.shape
    return cast


def _give(
    graph: ir.Graph, value: ir.Value, readers: Sequence[tuple[ir.Node, int]], other: ir.Value
) -> None:
    """Let those readers, and the graph's outputs, have another value in place of one."""
    for node, place in readers:
        node.replace_input_with(place, other)
    if value.is_graph_output():
        place = list(graph.outputs).index(value)
        other.name, value.name = value.name, f"{value.name}_exact"
        graph.outputs[place] = other

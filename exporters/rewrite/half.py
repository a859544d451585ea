"""Master graph -> half precision: products in float16 or bfloat16, sums and norms in float32.

In half: multiplications by weights, attention, caches, GELU and the biases before it. In float32:
the residual stream, its norms, and everything from the logits on. Sums along the residual stream
are where float16 overflows, and where bfloat16 has too few digits. Standard operators only.
"""

from __future__ import annotations

import onnx_ir as ir

from bart_onnx.config import BartConfig
from bart_onnx.graphs import BF16, FP16, GraphSpec, TensorSpec, graph_specs
from exporters.rewrite.graph_edits import Edits
from exporters.rewrite.half_weights import is_half

_FLOAT = ir.DataType.FLOAT
_HALVES = {FP16: ir.DataType.FLOAT16, BF16: ir.DataType.BFLOAT16}
# Without weights, these are computed in half all the same.
_HALF_OPERATORS = ("Attention", "Gelu", "TensorScatter")
# These take what they are given in whichever type it comes.
_INDIFFERENT = ("Reshape", "Shape", "Split", "Transpose")


def use_float16(model: ir.Model, config: BartConfig) -> None:
    """Compute in float16 what may be."""
    use_half(model, config, FP16)


def use_bfloat16(model: ir.Model, config: BartConfig) -> None:
    """Compute in bfloat16 what may be."""
    use_half(model, config, BF16)


def use_half(model: ir.Model, config: BartConfig, precision: str) -> None:
    """Let the graph answer the contract of a half precision.

    Weights keep their names; those that `half_weights.is_half` names become half.
    """
    graph = model.graph
    specs = {spec.name: spec for spec in graph_specs(config, precision)}
    spec = specs[str(graph.name)]
    _add_output_bias_apart(model)
    half = _HALVES[precision]
    for name, weight in graph.initializers.items():
        if is_half(name):
            weight.type = ir.TensorType(half)
    for value, tensor in zip(graph.inputs, spec.inputs, strict=True):
        value.type = ir.TensorType(_type_of(tensor, half))
    types = _Types(Edits(model), half)
    for node in list(graph):
        types.settle(node)
    _settle_outputs(types, graph, spec)


def _add_output_bias_apart(model: ir.Model) -> None:
    """Add the logits' bias after their product, in float32, and not within it, in half."""
    edits = Edits(model)
    for node in list(model.graph):
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        if bias is None:
            continue
        add = edits.before(node)
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        product = add("Gemm", *node.inputs[:2], **attributes)
        product.type = ir.TensorType(_FLOAT)
        edits.replace(node, add("Add", product, bias))


class _Types:
    """Gives nodes their types, in the order of the graph, with casts where types meet.

    A value is cast once, however many read it. Types are replaced and not changed: copies of a
    graph share them.
    """

    def __init__(self, edits: Edits, half: ir.DataType) -> None:
        self._edits = edits
        self.half = half
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def settle(self, node: ir.Node) -> None:
        """Let a node compute in its own type, and know what it gives."""
        floats = [value for value in node.inputs if value is not None and self._is_float(value)]
        if not floats:
            return
        own = self._own_type(node, floats)
        for place, value in enumerate(node.inputs):
            if value is not None and self._is_float(value) and value.dtype != own:
                node.replace_input_with(place, self.cast(value, own, node))
        for output in node.outputs:
            if self._is_float(output):
                output.type = ir.TensorType(own)

    def cast(self, value: ir.Value, to: ir.DataType, reader: ir.Node | None) -> ir.Value:
        """The value in another type, made before its first reader; None for the end."""
        if (value, to) not in self._casts:
            add = self._edits.at_end() if reader is None else self._edits.before(reader)
            cast = add("Cast", value, to=int(to))
            cast.type, cast.shape = ir.TensorType(to), value.shape
            self._casts[value, to] = cast
        return self._casts[value, to]

    def _own_type(self, node: ir.Node, floats: list[ir.Value]) -> ir.DataType:
        if node.op_type in _INDIFFERENT:
            return floats[0].dtype or _FLOAT
        weighted = any(value.is_initializer() and is_half(value.name or "") for value in floats)
        return self.half if weighted or node.op_type in _HALF_OPERATORS else _FLOAT

    def _is_float(self, value: ir.Value) -> bool:
        return value.dtype in (_FLOAT, self.half)


def _settle_outputs(types: _Types, graph: ir.Graph, spec: GraphSpec) -> None:
    """Give what the contract has in another type than it was computed in."""
    for place, tensor in enumerate(spec.outputs):
        value = graph.outputs[place]
        expected = _type_of(tensor, types.half)
        if value.dtype == expected:
            continue
        cast = types.cast(value, expected, None)
        value.name, cast.name = f"{value.name}_computed", value.name
        graph.outputs[place] = cast


def _type_of(tensor: TensorSpec, half: ir.DataType) -> ir.DataType:
    """A tensor's type; `half` is what its half types are."""
    names = {"float32": _FLOAT, "int64": ir.DataType.INT64}
    return names.get(tensor.dtype, half)

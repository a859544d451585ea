"""Master graph -> int8 matrices: every multiplication by a weight, and the embedding's rows.

Activations are quantised row by row, each row with a scale of its own, so that a row's result does
not depend on the rows beside it. onnxruntime's own dynamic quantisation takes one scale for all.
A NaN in a row does not come out of such a multiplication: ReduceMax skips it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bart_onnx.config import BartConfig
from exporters.rewrite.graph_edits import Edits
from exporters.rewrite.quantization import (
    INT8_SUFFIX,
    SCALE_SUFFIX,
    SUMS_SUFFIX,
    is_quantised,
    scale_axis,
)

# Activations are stored with this zero point: only unsigned times signed has a fast kernel.
_ZERO = 128
_MICROSOFT = "com.microsoft"
# The least value of GELU is -0.16997.
_GELU_DEPTH = 0.17


def use_int8_weights(model: ir.Model, config: BartConfig) -> None:
    """Multiply by int8 weights wherever `quantization.is_quantised` says so.

    The graph refers to `NAME.int8` and `NAME.scale` afterwards, and to `NAME` no more.
    """
    quantised = {name for name in model.graph.initializers if is_quantised(name)}
    edits = Edits(model)
    if not quantised:
        return
    linears = _Linears(edits, model.graph)
    for node in list(model.graph):
        names = [None if value is None else value.name for value in node.inputs]
        if node.op_type == "MatMul" and names[1] in quantised:
            edits.replace(node, linears.matmul(node))
        elif node.op_type == "Gemm" and names[1] in quantised:
            edits.replace(node, linears.output_projection(node))
        elif node.op_type == "Gather" and names[0] in quantised:
            edits.replace(node, linears.embedding(node))
    edits.drop_unused()


class _Linears:
    """Builds the nodes that take a node's place. A row quantised once serves all its uses.

    Activations are rows already (`flat_rows`), one for each token id.
    """

    def __init__(self, edits: Edits, graph: ir.Graph) -> None:
        self._edits = edits
        self._rows: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        token_ids = graph.inputs[0]
        add = edits.before(next(iter(graph)))
        count = add("Unsqueeze", add("Size", token_ids), add.constant(np.array([0], np.int64)))
        self._zeros = {
            zero: add("Expand", add.constant(np.array([zero], np.uint8)), count)
            for zero in (0, _ZERO)
        }

    def matmul(self, node: ir.Node) -> ir.Value:
        """x [rows, inputs] times a kernel [inputs, outputs]."""
        x, kernel = _inputs(node)
        producer = x.producer()
        if producer is not None and producer.op_type == "Gelu":
            return self._product_of_gelu(node, x, kernel)
        return self._product(node, x, *self._weights(kernel))

    def output_projection(self, node: ir.Node) -> ir.Value:
        """x [rows, inputs] times the transpose of an embedding [outputs, inputs], plus a bias.

        The transpose is folded into the session's own copy of the weight at opening; what is
        stored is the embedding alone.
        """
        add = self._edits.before(node)
        x, embedding, *bias = _inputs(node)
        weights, scales = self._weights(embedding)
        columns = add("Transpose", weights, perm=[1, 0])
        product = self._product(node, x, columns, scales)
        return add("Add", product, bias[0]) if bias else product

    def embedding(self, node: ir.Node) -> ir.Value:
        """Rows of an embedding by their ids, each times its own scale."""
        add = self._edits.before(node)
        embedding, token_ids = _inputs(node)
        weights, scales = self._weights(embedding)
        rows = add("Cast", add("Gather", weights, token_ids), to=int(ir.DataType.FLOAT))
        last = add.constant(np.array([-1], np.int64))
        return add("Mul", rows, add("Unsqueeze", add("Gather", scales, token_ids), last))

    def _product(self, node: ir.Node, x: ir.Value, weights: ir.Value, scales: ir.Value) -> ir.Value:
        """float32 [rows, outputs] of x [rows, inputs]; a bias must come after the row's scale."""
        rows, row_scales = self._quantised_rows(node, x)
        product = self._integer_product(node, rows, weights, scales, _ZERO)
        return self._edits.before(node)("Mul", product, row_scales)

    def _integer_product(
        self, node: ir.Node, rows: ir.Value, weights: ir.Value, scales: ir.Value, zero: int
    ) -> ir.Value:
        """uint8 rows times int8 weights, times the weights' scales but not yet the rows'."""
        add = self._edits.before(node)
        one, zero_point = add.constant(np.float32(1)), add.constant(np.uint8(zero))
        return add(
            "MatMulIntegerToFloat", rows, weights, one, scales, zero_point, domain=_MICROSOFT
        )

    def _product_of_gelu(self, node: ir.Node, x: ir.Value, kernel: ir.Value) -> ir.Value:
        """As `_product`, of what GELU gives, which is never below -0.17.

        Raised by that, rows use all of uint8 from zero on, which halves their error. What was
        added is taken away from the bias that follows, column by column.
        """
        add = self._edits.before(node)
        weights, scales = self._weights(kernel)
        raised = add("Add", x, add.constant(np.float32(_GELU_DEPTH)))
        rows, row_scales = self._rows_from(node, raised, raised, 255, 0)
        product = self._integer_product(node, rows, weights, scales, 0)
        sums = self._edits.weight(
            f"{kernel.name}{SUMS_SUFFIX}", ir.DataType.FLOAT, (_sizes(kernel)[1],)
        )
        (use,) = node.outputs[0].uses()
        bias = use.node.inputs[1]
        # All of these are constants, so that the session computes them once.
        lowered = add("Sub", bias, add("Mul", sums, add.constant(np.float32(_GELU_DEPTH))))
        lowered.shape = sums.shape
        use.node.replace_input_with(1, lowered)
        return add("Mul", product, row_scales)

    def _quantised_rows(self, node: ir.Node, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """x as uint8 [rows, inputs] around the zero point, and the rows' scales [rows, 1]."""
        if x not in self._rows:
            largest = self._edits.before(node)("Abs", x)
            self._rows[x] = self._rows_from(node, x, largest, 127, _ZERO)
        return self._rows[x]

    def _rows_from(
        self, node: ir.Node, x: ir.Value, sizes: ir.Value, most: int, zero: int
    ) -> tuple[ir.Value, ir.Value]:
        """Rows as uint8, the largest of a row's `sizes` as `zero` + `most`; scales [rows, 1]."""
        add = self._edits.before(node)
        second = add.constant(np.array([1], np.int64))
        largest = add("ReduceMax", sizes, second, keepdims=0)
        scales = add("Mul", largest, add.constant(np.float32(1 / most)))
        # A row of zeros has no scale; any will do.
        scales = add("Max", scales, add.constant(np.float32(1e-8)))
        rows = add("QuantizeLinear", x, scales, self._zeros[zero], axis=0)
        return rows, add("Unsqueeze", scales, second)

    def _weights(self, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
        rows, columns = _sizes(weight)
        assert weight.name is not None
        by_row = scale_axis(weight.name) == 1
        return (
            self._edits.weight(weight.name + INT8_SUFFIX, ir.DataType.INT8, (rows, columns)),
            self._edits.weight(
                weight.name + SCALE_SUFFIX, ir.DataType.FLOAT, (rows if by_row else columns,)
            ),
        )


def _inputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _sizes(value: ir.Value) -> tuple[int, int]:
    assert value.shape is not None
    rows, columns = value.shape.numpy()
    return rows, columns

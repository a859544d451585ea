"""The graph that moves rows of a cache from one block of device memory to another.

It has no weights and belongs to no model, so it ships with the runtime; a test holds the file
against what is written here. Rows are picked by Gather, and room for more tokens is added by Pad.
Both only copy, so two half-width numbers may pass as one float32.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from bart_onnx.runners.row_moves import CACHES, GRAPH, MOVED, PADS, ROW_NUMBERS

# The oldest operator set in which onnxruntime's CUDA provider has both for float32.
_OPSET = 18
_IR_VERSION = 10


def row_moves() -> onnx.ModelProto:
    """caches [tensors, rows, heads, length, width] -> moved [tensors, moved, heads, longer, width].

    `pads` are the numbers of Pad: zeros, and how many tokens of room are added as its ninth.
    """
    element = TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Gather", [CACHES, ROW_NUMBERS], ["gathered"], axis=1),
            helper.make_node("Pad", ["gathered", PADS], [MOVED]),
        ],
        "move_rows",
        [
            helper.make_tensor_value_info(
                CACHES, element, ["tensors", "rows", "heads", "length", "width"]
            ),
            helper.make_tensor_value_info(ROW_NUMBERS, TensorProto.INT64, ["moved_rows"]),
            helper.make_tensor_value_info(PADS, TensorProto.INT64, [10]),
        ],
        [
            helper.make_tensor_value_info(
                MOVED, element, ["tensors", "moved_rows", "heads", "moved_length", "width"]
            )
        ],
    )
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)


def write(path: Path = GRAPH) -> None:
    """Write the graph to where the runtime looks for it."""
    model = row_moves()
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))

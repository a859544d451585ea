"""The graphs that bring rows of a cache from one block of device memory to another.

They have no weights and belong to no model, so they ship with the runtime; a test holds the files
against what is written here. Their operators only copy, so two half-width numbers may pass as one
float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from bart_onnx.runners.row_moves import (
    BLOCK,
    CACHES,
    FIRST,
    GRAPH,
    MOVED,
    PADS,
    PUT_GRAPH,
    ROOM,
    ROW_NUMBERS,
    WRITTEN,
)

# The oldest operator set in which onnxruntime's CUDA provider has both for float32.
_OPSET = 18
# The first that has TensorScatter. Of newer ones' Pad not every CUDA provider knows.
_PUT_OPSET = 24
_IR_VERSION = 10


def row_moves() -> onnx.ModelProto:
    """caches [tensors, rows, heads, length, width] -> moved [tensors, moved, heads, longer, width].

    Gather picks the rows. `pads` are the numbers of Pad: zeros, and how many tokens of room are
    added as its ninth; less than 0 takes some away.
    """
    nodes = [
        helper.make_node("Gather", [CACHES, ROW_NUMBERS], ["gathered"], axis=1),
        helper.make_node("Pad", ["gathered", PADS], [MOVED]),
    ]
    inputs = [
        _caches(CACHES, "rows", "length"),
        _numbers(ROW_NUMBERS, "moved_rows"),
        _numbers(PADS, 10),
    ]
    return _model("move_rows", nodes, inputs, _caches(MOVED, "moved_rows", "moved_length"), _OPSET)


def row_puts() -> onnx.ModelProto:
    """block [tensors, places, heads, longer, width] -> written, with rows of `caches` from `first`.

    Gather picks the rows, the first TensorScatter lays them on zeros of the shape `room`, and the
    second writes them over the rows of the block that begin at `first`, the same for each tensor.
    A runtime writes in place where both are one memory.
    """
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    nodes = [
        helper.make_node("Gather", [CACHES, ROW_NUMBERS], ["gathered"], axis=1),
        helper.make_node("Expand", ["zero", ROOM], ["zeros"]),
        helper.make_node("TensorScatter", ["zeros", "gathered"], ["longer"], axis=3),
        helper.make_node("TensorScatter", [BLOCK, "longer", FIRST], [WRITTEN], axis=1),
    ]
    inputs = [
        _caches(CACHES, "rows", "length"),
        _numbers(ROW_NUMBERS, "put_rows"),
        _numbers(ROOM, 5),
        _numbers(FIRST, "tensors"),
        _caches(BLOCK, "places", "block_length"),
    ]
    written = _caches(WRITTEN, "places", "block_length")
    return _model("put_rows", nodes, inputs, written, _PUT_OPSET, [zero])


def write(directory: Path = GRAPH.parent) -> None:
    """Write the graphs to where the runtime looks for them."""
    for model, path in ((row_moves(), GRAPH), (row_puts(), PUT_GRAPH)):
        onnx.checker.check_model(model, full_check=True)
        (directory / path.name).write_bytes(model.SerializeToString(deterministic=True))


def _caches(name: str, rows: str, length: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, TensorProto.FLOAT, ["tensors", rows, "heads", length, "width"]
    )


def _numbers(name: str, size: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, [size])


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
    opset: int,
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, name, inputs, [output], constants)
    versions = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=versions, ir_version=_IR_VERSION)

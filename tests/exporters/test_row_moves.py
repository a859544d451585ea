"""The graphs that ship with the runtime are those that are written here."""

from __future__ import annotations

import onnx
import pytest

from bart_onnx.runners.row_moves import GRAPH, PUT_GRAPH
from exporters.row_moves import row_moves, row_puts, write

GRAPHS = {GRAPH: row_moves, PUT_GRAPH: row_puts}


@pytest.mark.parametrize("path", GRAPHS)
def test_the_shipped_graph_is_what_is_written(path, tmp_path):
    write(tmp_path)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert onnx.load(path) == GRAPHS[path]()
    assert path.stat().st_size < 600


def test_they_only_copy():
    assert [node.op_type for node in row_moves().graph.node] == ["Gather", "Pad"]
    assert not row_moves().graph.initializer
    operators = [node.op_type for node in row_puts().graph.node]
    assert operators == ["Gather", "Expand", "TensorScatter", "TensorScatter"]
    (zero,) = row_puts().graph.initializer
    assert onnx.numpy_helper.to_array(zero) == 0

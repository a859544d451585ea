"""The graph that ships with the runtime is the one that is written here."""

from __future__ import annotations

import onnx

from bart_onnx.runners.row_moves import GRAPH
from exporters.row_moves import row_moves, write


def test_the_shipped_graph_is_what_is_written(tmp_path):
    write(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == GRAPH.read_bytes()
    assert onnx.load(GRAPH) == row_moves()
    assert GRAPH.stat().st_size < 500


def test_it_only_copies():
    assert [node.op_type for node in row_moves().graph.node] == ["Gather", "Pad"]
    assert not row_moves().graph.initializer

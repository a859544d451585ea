"""The traced graphs against the contract, and nothing in them but standard operators."""

from __future__ import annotations

import itertools

import onnx
import onnxruntime
import pytest
from tiny_models import VARIANTS

from bart_onnx import BartBackbone
from bart_onnx.graphs import graph_specs
from exporters.operators import OPSET
from exporters.packing import packed_tensors
from exporters.weight_file import WEIGHT_FILE


@pytest.fixture(params=sorted(VARIANTS))
def bundle(request, variant_bundles):
    return variant_bundles(request.param)


def test_graphs_answer_the_contract(bundle):
    for spec in graph_specs(bundle.config):
        session = onnxruntime.InferenceSession(
            bundle.graph(spec.name), providers=["CPUExecutionProvider"]
        )
        for tensors, found in (
            (spec.inputs, session.get_inputs()),
            (spec.outputs, session.get_outputs()),
        ):
            assert [(tensor.name, list(tensor.shape)) for tensor in tensors] == [
                (tensor.name, tensor.shape) for tensor in found
            ]
            types = {"int64": "tensor(int64)", "float32": "tensor(float)"}
            assert [types[tensor.dtype] for tensor in tensors] == [tensor.type for tensor in found]


def test_graphs_hold_standard_operators_and_no_weights(bundle):
    for spec in graph_specs(bundle.config):
        model = onnx.load(bundle.graph(spec.name), load_external_data=False)
        onnx.checker.check_model(str(bundle.graph(spec.name)), full_check=False)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
        assert {node.domain for node in model.graph.node} == {""}
        assert not {node.op_type for node in model.graph.node} & {"If", "Loop", "Scan"}
        for tensor in model.graph.initializer:
            places = {entry.key: entry.value for entry in tensor.external_data}
            if places:
                assert places["location"] == WEIGHT_FILE
            else:
                assert len(tensor.raw_data) <= 64, f"{tensor.name} lies in the graph"


def test_every_stored_weight_is_read_by_a_graph(bundle):
    read = set()
    for spec in graph_specs(bundle.config):
        model = onnx.load(bundle.graph(spec.name), load_external_data=False)
        for tensor in model.graph.initializer:
            places = {entry.key: entry.value for entry in tensor.external_data}
            if places:
                offset = int(places["offset"])
                read.add((offset, offset + int(places["length"])))
    size = bundle.manifest["files"][WEIGHT_FILE]["size"]
    edges = sorted(read)
    gaps = [start - end for (_, end), (start, _) in itertools.pairwise(edges)]
    assert edges[0][0] == 0
    assert edges[-1][1] == size
    assert all(0 <= gap < 4096 for gap in gaps), "weights overlap, or bytes belong to none"


def test_caches_are_updated_and_attended_by_lengths(bundle):
    model = onnx.load(bundle.graph("decoder_step"), load_external_data=False)
    layers = bundle.config.decoder.num_layers
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("TensorScatter") == 2 * layers
    attentions = [node for node in model.graph.node if node.op_type == "Attention"]
    assert len(attentions) == 2 * layers
    # Input 6 of Attention-24 is nonpad_kv_seqlen.
    assert all(len(node.input) == 7 and node.input[6] for node in attentions)


def test_only_the_alignment_graph_computes_probabilities(bundle):
    step, alignment = (
        onnx.load(bundle.graph(name), load_external_data=False)
        for name in ("decoder_step", "alignment")
    )
    assert "Softmax" not in {node.op_type for node in step.graph.node}
    # An Attention's other outputs would be computed in every step.
    assert all(len(node.output) == 1 for node in step.graph.node if node.op_type == "Attention")
    # One for all layers.
    assert [node.op_type for node in alignment.graph.node].count("Softmax") == 1
    assert not any(tensor.external_data for tensor in alignment.graph.initializer)


def test_equal_weights_are_not_taken_for_one():
    """Biases that are all zero at export are others after fit, and the graphs are kept then."""
    backbone = BartBackbone(40, 1, 2, 8, 16, max_sequence_length=16)
    assert backbone.runner
    referred = set()
    for spec in graph_specs(backbone.config):
        graph = onnx.load(backbone.runner.bundle.graph(spec.name), load_external_data=False).graph
        referred |= {tensor.name for tensor in graph.initializer}
    assert {tensor.name for tensor in packed_tensors(backbone.config)} <= referred

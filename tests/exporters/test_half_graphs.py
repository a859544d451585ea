"""fp16 and bf16 graphs against what a GPU's providers take, and against the master they come from.

The operators and types are those that onnxruntime's CUDA provider has kernels for at opset 24.
"""

from __future__ import annotations

import collections

import onnx
import pytest
from onnx import TensorProto, shape_inference
from tiny_models import VARIANTS

from bart_onnx.graphs import ALIGNMENT, DECODER_STEP, ENCODER, HALF_PRECISIONS, PRECISIONS
from bart_onnx.graphs import graph_specs as graph_contracts
from exporters.operators import OPSET
from exporters.rewrite import REWRITES
from exporters.rewrite.half_weights import is_half

TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
    "int8": TensorProto.INT8,
}
# What is computed in half, what in float32, and what moves either.
HALF = {"Attention", "Gelu", "Gemm", "MatMul", "TensorScatter"}
FLOAT = {"ArgMax", "Exp", "LayerNormalization", "Log", "LogSoftmax", "ReduceSum", "Softmax", "Sub"}
FLOAT |= {"TopK"}
EITHER = {"Add", "Cast", "Gather", "GatherElements", "Mul", "Reshape", "Slice", "Split", "Squeeze"}
EITHER |= {"Transpose", "Unsqueeze"}
# Of ids, lengths and shapes.
COUNTS = {"Clip", "Concat", "ConstantOfShape", "GreaterOrEqual", "Range", "Shape", "Where"}
# Inputs that a GPU's kernels take from the host.
SHAPES = {("ConstantOfShape", 0), ("Range", 0), ("Range", 1), ("Range", 2), ("Reshape", 1)}


@pytest.fixture(scope="module", params=sorted(VARIANTS))
def bundles(request, variant_bundles):
    """One checkpoint in every precision."""
    return {precision: variant_bundles(request.param, precision) for precision in PRECISIONS}


def loaded(bundle, name):
    return onnx.load(bundle.graph(name), load_external_data=False)


def typed(model):
    """Each value's element type, as ONNX's own inference finds them: it checks each operator's."""
    inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    graph = inferred.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def half_graphs(bundles):
    for precision, dtype in HALF_PRECISIONS.items():
        for spec in graph_contracts(bundles[precision].config, precision):
            yield spec, TYPES[dtype], loaded(bundles[precision], spec.name)


def test_every_precision_is_rewritten_from_the_same_master(bundles):
    """Graphs of all precisions read the same weights, and answer the contract of theirs."""
    assert set(REWRITES) == set(PRECISIONS)
    for precision in PRECISIONS:
        for spec in graph_contracts(bundles[precision].config, precision):
            graph = loaded(bundles[precision], spec.name).graph
            for tensors, values in ((spec.inputs, graph.input), (spec.outputs, graph.output)):
                found = [
                    (
                        value.name,
                        value.type.tensor_type.elem_type,
                        len(value.type.tensor_type.shape.dim),
                    )
                    for value in values
                ]
                expected = [(t.name, TYPES[t.dtype], len(t.shape)) for t in tensors]
                assert found == expected
            assert weights_read(graph) == weights_read(loaded(bundles["fp32"], spec.name).graph)


def weights_read(graph):
    suffixes = (".int8", ".scale", ".sums")
    names = {tensor.name for tensor in graph.initializer if tensor.external_data}
    for suffix in suffixes:
        names = {name.removesuffix(suffix) for name in names}
    return names


def test_half_graphs_are_the_master_and_casts(bundles):
    for spec, _, model in half_graphs(bundles):
        master = [node.op_type for node in loaded(bundles["fp32"], spec.name).graph.node]
        kinds = [node.op_type for node in model.graph.node if node.op_type != "Cast"]
        if spec.name == DECODER_STEP:
            assert kinds[:3] == ["Shape", "ConstantOfShape", "ReduceSum"]
            kinds = without_counts(kinds[3:])
            master = without_counts(master)
        if bundles["fp32"].config.final_logits_bias and spec.name == DECODER_STEP:
            # It is added after the product, in float32.
            master.insert(master.index("Gemm") + 1, "Add")
        assert kinds == master


def without_counts(kinds):
    """Without the shape of the tokens, which the master has as a number too."""
    return [kind for kind in kinds if kind not in ("Shape", "Squeeze")]


def test_nothing_goes_between_host_and_device(bundles):
    """A shape is the host's, and what is made of it, until a kernel takes it as a shape."""
    for _, _, model in half_graphs(bundles):
        assert copies(model.graph) == []
    master = loaded(bundles["fp32"], DECODER_STEP)
    assert [node.op_type for node in copies(master.graph)] == ["Add"]


def copies(graph):
    """Nodes that read what the host has beside what the device has."""
    constants = {tensor.name for tensor in graph.initializer} | {""}
    host, found = set(), []
    for node in graph.node:
        shapes = {name for place, name in enumerate(node.input) if (node.op_type, place) in SHAPES}
        read = set(node.input) - shapes
        if node.op_type == "Shape" or (read & host and read <= host | constants):
            host |= set(node.output)
        elif read & host:
            found.append(node)
    return found


def test_operators_and_types_are_those_of_a_gpu(bundles):
    for spec, half, model in half_graphs(bundles):
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
        types = typed(model)
        for node in model.graph.node:
            assert node.domain == ""
            assert node.op_type in HALF | FLOAT | EITHER | COUNTS, node.op_type
            read = {types[name] for name in node.input if name} & {half, TensorProto.FLOAT}
            # No operator mixes types.
            assert len(read) <= 1, node
            if node.op_type in FLOAT:
                assert read <= {TensorProto.FLOAT}, node
            # Alignments are probabilities of rounded queries, exact from there on.
            if node.op_type in HALF and spec.name != ALIGNMENT:
                assert read == {half}, node


def test_only_what_is_summed_stays_float32(bundles):
    for _, half, model in half_graphs(bundles):
        types = typed(model)
        for node in model.graph.node:
            if node.op_type == "Add" and types[node.output[0]] == half:
                # A bias, of a product that stays in half.
                assert is_half(node.input[1]), node
        for tensor in model.graph.initializer:
            if tensor.external_data:
                expected = half if is_half(tensor.name) else TensorProto.FLOAT
                assert tensor.data_type == expected, tensor.name
        outputs = {value.name: types[value.name] for value in model.graph.output}
        assert set(outputs.values()) <= {half, TensorProto.FLOAT, TensorProto.INT64}


def test_casts_are_few_and_none_is_undone(bundles):
    for spec, _, model in half_graphs(bundles):
        made = {name: node for node in model.graph.node for name in node.output}
        casts = [node for node in model.graph.node if node.op_type == "Cast"]
        assert len(casts) == expected_casts(spec.name, bundles["fp32"].config)
        asked = collections.Counter((node.input[0], node.attribute[0].i) for node in casts)
        assert max(asked.values(), default=0) <= 1, "a value is cast twice"
        for node in casts:
            before = made.get(node.input[0])
            assert before is None or before.op_type != "Cast", "a cast of a cast"


def expected_casts(graph, config):
    """One from half and one to half for each block, with one each for embedding and output."""
    if graph == ENCODER:
        return 1 + 1 + 4 * config.encoder.num_layers
    if graph == DECODER_STEP:
        return 1 + 1 + 6 * config.decoder.num_layers + 1
    return 2 * config.decoder.num_layers


def test_a_half_bundle_takes_half_the_bytes(bundles):
    def size(precision):
        return (bundles[precision].path / "weights.bin").stat().st_size

    for precision in HALF_PRECISIONS:
        assert size(precision) < 0.75 * size("fp32")
        stored = bundles[precision].manifest["tensors"]
        assert stored
        assert not any(map(is_half, stored))

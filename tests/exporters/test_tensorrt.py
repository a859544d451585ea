"""The graphs for TensorRT, and what its parser makes of them; what is refused.

Nothing here is run on a GPU.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from fake_tensorrt import fake_runner
from tensorrt_builds import builder_of, spec_of

from bart_onnx.engines import GRAPHS, Limits
from bart_onnx.errors import ExportError
from bart_onnx.graphs import DECODER_STEP, ENCODER, LOGITS, SOURCE_LENGTHS, cache_names
from bart_onnx.runners.ort import OrtRunner
from exporters.engines.guard import check_network
from exporters.engines.network import parse
from exporters.rewrite.graph_edits import Edits
from exporters.rewrite.tensorrt import ATTENTION, check_tensorrt_takes, use_tensorrt_operators
from exporters.tensorrt import parsed, rewritten

HALVES = {"fp16": "HALF", "bf16": "BF16"}


def understood(library, bundle, name, change=None, model=None):
    """The network of a graph, after `change`, unchecked."""
    limits = Limits.of(bundle.config)
    model = model or rewritten(bundle, spec_of(bundle, name), limits)
    if change is not None:
        change(model)
    made = builder_of(library)
    network = parse(library, made.builder, model, bundle.graph(name), made.said)
    network.keep = made
    return network


def check(library, bundle, name, change=None, model=None):
    network = understood(library, bundle, name, change, model)
    check_network(network, spec_of(bundle, name), bundle.config, 64)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_rewritten_graph_is_what_tensorrt_takes(bundles, precision, name):
    bundle = bundles(precision)
    model = rewritten(bundle, spec_of(bundle, name), Limits.of(bundle.config))
    assert model.graph.opset_imports == {"": 24, "tensorrt": 1}
    kinds = {(node.domain, node.op_type) for node in model.graph}
    assert {domain for domain, _ in kinds} == {"", "tensorrt"}
    assert ("", "Attention") not in kinds
    assert ("", "TensorScatter") in kinds or name == ENCODER
    side = bundle.config.encoder if name == ENCODER else bundle.config.decoder
    attentions = [node for node in model.graph if node.op_type == ATTENTION]
    assert len(attentions) == side.num_layers * (1 if name == ENCODER else 2)
    for node in attentions:
        assert len(node.inputs) == 6
        assert node.inputs[5].producer().op_type == "Cast"
        assert node.inputs[5].producer().attributes["to"].as_int() == ir.DataType.INT32
        assert node.inputs[0].producer().op_type == "Mul"
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert "capacity" not in [getattr(axis, "value", axis) for axis in value.shape]


def set_opset(model):
    model.graph.opset_imports[""] = 25


def add_gelu(model):
    first = next(iter(model.graph))
    Edits(model).before(first)("Gelu", first.outputs[0], domain="com.microsoft")


def add_if(model):
    first = next(iter(model.graph))
    Edits(model).before(first)("If", first.outputs[0])


def make_double(model):
    model.graph.inputs[0].dtype = ir.DataType.DOUBLE


def sort_all(model):
    (node,) = (node for node in model.graph if node.op_type == "TopK")
    node.replace_input_with(1, Edits(model).constant(np.array([3840], np.int64)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (set_opset, "opset 25 is newer than 24"),
        (add_gelu, r"com\.microsoft\.Gelu"),
        (add_if, r"onnx\.If"),
        (make_double, "decoder_token_ids is DOUBLE"),
        (sort_all, "TopK takes a constant below 3840"),
    ],
)
def test_what_tensorrt_does_not_take_is_named(bundles, change, says):
    bundle = bundles("fp32")
    model = rewritten(bundle, spec_of(bundle, DECODER_STEP), Limits.of(bundle.config))
    check_tensorrt_takes(model)
    change(model)
    with pytest.raises(ExportError, match=says):
        check_tensorrt_takes(model)


def test_attention_without_lengths_is_no_master_graph(bundles):
    bundle = bundles("fp32")
    model = ir.load(bundle.graph(ENCODER))
    for node in model.graph:
        if node.op_type == "Attention":
            node.replace_input_with(6, None)
    with pytest.raises(ExportError, match="without lengths attends to padding"):
        use_tensorrt_operators(model, bundle.config, 64)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_parsed_step_has_its_caches_and_lengths(rtx, bundles, precision):
    bundle = bundles(precision)
    spec, limits = spec_of(bundle, DECODER_STEP), Limits.of(bundle.config)
    made = builder_of(rtx)
    network = parsed(bundle, spec, limits, rtx, made.builder, made.said)
    assert list(network.inputs) == [tensor.name for tensor in spec.inputs]
    assert list(network.outputs) == [tensor.name for tensor in spec.outputs]
    expected = {}
    for layer in range(bundle.config.decoder.num_layers):
        names = cache_names(layer)
        expected[names.self_key] = names.updated_self_key
        expected[names.self_value] = names.updated_self_value
    updates = network.of_kind("KV_CACHE_UPDATE")
    assert {each.get_input(0).name: each.get_output(0).name for each in updates} == expected
    layers = network.of_kind("ATTENTION_INPUT")
    lengths = [network.origins(each.attention.key_value_lengths) for each in layers]
    assert lengths == [{"past_lengths"}, {"source_lengths"}] * bundle.config.decoder.num_layers
    kinds = [each.attention.causal_kind.name for each in layers]
    assert kinds == ["LOWER_RIGHT", "NONE"] * bundle.config.decoder.num_layers
    dtypes = {each.get_input(place).dtype.name for each in layers for place in range(3)}
    assert dtypes == {HALVES.get(precision, "FLOAT")}
    assert network.inputs["self_key_0"].shape[2] == limits.capacity


def test_the_parsed_encoder_has_its_lengths(rtx, bundles):
    bundle = bundles("fp32")
    network = understood(rtx, bundle, ENCODER)
    layers = network.of_kind("ATTENTION_INPUT")
    assert len(layers) == bundle.config.encoder.num_layers
    for layer in layers:
        assert network.origins(layer.attention.key_value_lengths) == {SOURCE_LENGTHS}


def test_half_graphs_step_as_the_master_does(bundles):
    """The graph for TensorRT, with the meaning that TensorRT gives its operator, on the CPU."""
    whole, half = bundles("fp32"), bundles("fp16")
    random = np.random.default_rng(0)
    lengths = np.array([20, 7, 1])
    sources = random.integers(3, whole.config.vocabulary_size, (3, 20))
    fed = random.integers(3, whole.config.vocabulary_size, (3, 12))
    found = []
    for runner in (OrtRunner(whole, threads=1), fake_runner(half).runner):
        state = runner.encode(sources, lengths)
        steps = [runner.step(state, piece, (LOGITS,))[LOGITS].copy() for piece in split(fed)]
        found.append(np.concatenate(steps, axis=1))
    error = np.sqrt(np.square(found[1] - found[0]).mean()) / found[0].std()
    assert 0 < error < 0.02


def split(token_ids):
    """A prompt, and then one token after another."""
    return np.split(token_ids, [5, 6, 7, 8, 9, 10, 11], axis=1)


def attentions_of(model):
    return [node for node in model.graph if node.op_type == ATTENTION]


def lengths_elsewhere(model):
    """Where onnx-tensorrt's documentation has them."""
    for node in attentions_of(model):
        lengths = node.inputs[5]
        node.resize_inputs(8)
        node.replace_input_with(5, None)
        node.replace_input_with(7, lengths)


def without_scale(model):
    for node in attentions_of(model):
        node.replace_input_with(0, node.inputs[0].producer().inputs[0])


def without_diagonal(model):
    for node in attentions_of(model):
        node.attributes["causal_kind"] = ir.AttrString("causal_kind", "none")


def with_the_wrong_lengths(model):
    crossed = attentions_of(model)[1]
    for node in attentions_of(model):
        node.replace_input_with(5, crossed.inputs[5])


def with_copied_caches(model):
    edits = Edits(model)
    for node in [node for node in model.graph if node.op_type == "TensorScatter"]:
        edits.replace(node, edits.before(node)("Add", node.inputs[0], node.inputs[0]))


def values_of(model, place, other):
    attentions = attentions_of(model)
    attentions[place].replace_input_with(2, attentions[other].inputs[2])


def with_values_of_the_last_layer(model):
    values_of(model, 2, 0)


def with_values_of_another_source(model):
    values_of(model, 1, 3)


def with_keys_for_values(model):
    attention = attentions_of(model)[0]
    attention.replace_input_with(2, attention.inputs[1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_values_of_the_last_layer, "self_key_1 and values self_value_0 in place of self_val"),
        (with_values_of_another_source, "cross_key_0 and values cross_value_1 in place of cross_"),
        (with_keys_for_values, "self_key_0 and values self_key_0 in place of self_value_0"),
        (lengths_elsewhere, "has lost its lengths"),
        (without_scale, "is multiplied by None"),
        (without_diagonal, "is NONE in place of LOWER_RIGHT"),
        (with_the_wrong_lengths, "from source_lengths"),
        (with_copied_caches, "no layer updates self_key_0 in place"),
    ],
)
def test_the_guard_refuses_a_network_that_would_be_wrong(rtx, bundles, change, says):
    check(rtx, bundles("fp32"), DECODER_STEP)
    with pytest.raises(ExportError, match=says):
        check(rtx, bundles("fp32"), DECODER_STEP, change)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_guard_refuses_the_master_graph(rtx, bundles, name):
    """Its attention imports and builds, with the lengths dropped."""
    bundle = bundles("fp32")
    model = ir.load(bundle.graph(name))
    for value in (*model.graph.inputs, *model.graph.outputs):
        axes = [getattr(axis, "value", axis) for axis in value.shape]
        value.shape = ir.Shape([64 if axis == "capacity" else axis for axis in axes])
    with pytest.raises(ExportError, match="has lost its lengths"):
        check(rtx, bundle, name, model=model)


def test_the_guard_sees_inputs_that_nothing_reads(rtx, bundles):
    bundle = bundles("fp32")

    def forget_positions(model):
        for node in model.graph:
            for place, value in enumerate(node.inputs):
                if value is not None and value.name == "decoder_positions":
                    node.replace_input_with(place, model.graph.inputs[0])

    with pytest.raises(ExportError, match="nothing reads decoder_positions"):
        check(rtx, bundle, DECODER_STEP, forget_positions)


def test_what_the_parser_refuses_is_told(rtx, bundles):
    bundle = bundles("fp32")

    def spoil(model):
        first = next(iter(model.graph))
        Edits(model).before(first)("MatMulInteger", model.graph.inputs[0], model.graph.inputs[0])

    with pytest.raises(ExportError, match="cannot parse the decoder_step graph"):
        understood(rtx, bundle, DECODER_STEP, spoil)

"""Refuses a parsed network that is not what the graph says: TensorRT's parser leaves out what it
does not know, and an engine of what is left runs and is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bart_onnx.config import BartConfig
from bart_onnx.errors import ExportError
from bart_onnx.graphs import ENCODER, PAST_LENGTHS, SOURCE_LENGTHS, GraphSpec, cache_names
from exporters.engines.network import Network, inputs_of
from exporters.rewrite.tensorrt import CAPACITY, query_scale

_DTYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int64": "INT64",
}


def check_network(network: Network, spec: GraphSpec, config: BartConfig, capacity: int) -> None:
    """That a network has the contract's tensors, attention with its lengths, caches in place.

    Raises:
        ExportError: it has not; the message names what is missing.
    """
    found = [*_tensors(network, spec, capacity), *_unread(network)]
    found += _attentions(network, spec, config)
    found += _caches(network, spec, config)
    if spec.name != ENCODER:
        found += _values(network, config)
    if found:
        raise ExportError(
            f"TensorRT's parser has not understood the {spec.name} graph, and an engine of it "
            f"would be wrong: {'; '.join(found[:5])}. Nothing was published. Build with "
            "the TensorRT that docs/tensorrt.md names, or report this with TensorRT's version."
        )


def _tensors(network: Network, spec: GraphSpec, capacity: int) -> Iterator[str]:
    """Inputs and outputs that are not the contract's."""
    for what, tensors, found in (
        ("inputs", spec.inputs, network.inputs),
        ("outputs", spec.outputs, network.outputs),
    ):
        names = [tensor.name for tensor in tensors]
        if list(found) != names:
            yield f"{what} {', '.join(found)} in place of {', '.join(names)}"
            continue
        for tensor in tensors:
            here = found[tensor.name]
            sizes = [capacity if axis == CAPACITY else axis for axis in tensor.shape]
            expected = [size if isinstance(size, int) else -1 for size in sizes]
            given = (here.dtype.name, list(here.shape))
            if given != (_DTYPES[tensor.dtype], expected):
                yield f"{tensor.name} is {given} in place of {tensor.dtype} {expected}"


def _unread(network: Network) -> Iterator[str]:
    """Inputs that no layer reads."""
    read = {tensor.name for layer in network.layers for tensor in inputs_of(layer)}
    yield from (f"nothing reads {name}" for name in network.inputs if name not in read)


def _attentions(network: Network, spec: GraphSpec, config: BartConfig) -> Iterator[str]:
    """Attention layers that are missing, lack their lengths, or see what they must not."""
    side = config.encoder if spec.name == ENCODER else config.decoder
    expected = side.num_layers if spec.name == ENCODER else 2 * side.num_layers
    layers = network.of_kind("ATTENTION_INPUT")
    if len(layers) != expected:
        yield f"{len(layers)} attention layers in place of {expected}"
    for layer in layers:
        query, key = layer.get_input(0), layer.get_input(1)
        maker = network.maker(key)
        cached = maker is not None and maker.type.name == "KV_CACHE_UPDATE"
        yield from _lengths(network, layer, PAST_LENGTHS if cached else SOURCE_LENGTHS)
        kind = "LOWER_RIGHT" if cached else "NONE"
        if layer.attention.causal_kind.name != kind:
            yield f"{layer.name} is {layer.attention.causal_kind.name} in place of {kind}"
        scale = query_scale(config.hidden_dim // side.num_heads)
        factor = network.factor(query)
        if factor is None or abs(factor - scale) > 1e-6 or network.factor(key) is not None:
            yield f"the query of {layer.name} is multiplied by {factor} in place of {scale}"


def _lengths(network: Network, layer: Any, source: str) -> Iterator[str]:
    """What is wrong with how many keys of each row an attention layer sees."""
    lengths = layer.attention.key_value_lengths
    if lengths is None:
        yield f"{layer.name} has lost its lengths"
        return
    origins = network.origins(lengths)
    if lengths.dtype.name != "INT32" or origins != {source}:
        yield f"the lengths of {layer.name} are {lengths.dtype.name}, from {', '.join(origins)}"


def _values(network: Network, config: BartConfig) -> Iterator[str]:
    """Attention layers of the decoder whose values are not those of their keys."""
    expected: dict[str, str] = {}
    for number in range(config.decoder.num_layers):
        names = cache_names(number)
        expected[names.self_key] = names.self_value
        expected[names.cross_key] = names.cross_value
    for layer in network.of_kind("ATTENTION_INPUT"):
        key, value = (_cache(network, layer.get_input(place)) for place in (1, 2))
        wanted = expected.pop(key, None)
        if value != wanted:
            yield f"{layer.name} reads keys {key} and values {value} in place of {wanted}"


def _cache(network: Network, tensor: Any) -> str:
    """The cache that a tensor is, updated or not; its own name if it is none."""
    maker = network.maker(tensor)
    if maker is not None and maker.type.name == "KV_CACHE_UPDATE":
        tensor = maker.get_input(0)
    return str(tensor.name)


def _caches(network: Network, spec: GraphSpec, config: BartConfig) -> Iterator[str]:
    """Self caches that are not updated where they lie."""
    expected: dict[str, str] = {}
    for layer in range(0 if spec.name == ENCODER else config.decoder.num_layers):
        names = cache_names(layer)
        expected[names.self_key] = names.updated_self_key
        expected[names.self_value] = names.updated_self_value
    updates = network.of_kind("KV_CACHE_UPDATE")
    found = {each.get_input(0).name: each.get_output(0).name for each in updates}
    for cache, updated in expected.items():
        if found.get(cache) != updated:
            yield f"no layer updates {cache} in place"
    for each in updates:
        origins = network.origins(each.get_input(2))
        if origins != {PAST_LENGTHS}:
            yield f"{each.name} writes where {', '.join(origins)} says"

"""An ONNX graph as TensorRT's parser understood it, to be walked. It knows no BART.

TensorRT is not imported here: what is handed in brings it along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from bart_onnx.errors import ExportError
from bart_onnx.runners.tensorrt_library import Library, Messages

# What a layer must be taken for before its own fields can be read.
_CLASSES = {
    "ATTENTION_INPUT": "IAttentionInputLayer",
    "CONSTANT": "IConstantLayer",
    "ELEMENTWISE": "IElementWiseLayer",
    "KV_CACHE_UPDATE": "IKVCacheUpdateLayer",
}


class Network:
    """A parsed network.

    Attributes:
        definition: TensorRT's INetworkDefinition.
        layers: its layers.
        inputs, outputs: its tensors by name, in order.
    """

    def __init__(self, library: Library, definition: Any) -> None:
        self.definition = definition
        self.layers = [_known(library, definition.get_layer(i)) for i in range(len_of(definition))]
        inputs = (definition.get_input(i) for i in range(definition.num_inputs))
        outputs = (definition.get_output(i) for i in range(definition.num_outputs))
        self.inputs: Mapping[str, Any] = {tensor.name: tensor for tensor in inputs}
        self.outputs: Mapping[str, Any] = {tensor.name: tensor for tensor in outputs}
        self._makers = {tensor.name: layer for layer in self.layers for tensor in outputs_of(layer)}

    def of_kind(self, kind: str) -> list[Any]:
        """Its layers of a LayerType, in order."""
        return [layer for layer in self.layers if layer.type.name == kind]

    def maker(self, tensor: Any) -> Any | None:
        """The layer that makes a tensor; None for an input."""
        return self._makers.get(tensor.name)

    def origins(self, tensor: Any) -> set[str]:
        """The network inputs whose values, and not only shapes, a tensor depends on."""
        found: set[str] = set()
        seen: set[str] = set()
        waiting = [tensor]
        while waiting:
            here = waiting.pop()
            if here.name in seen:
                continue
            seen.add(here.name)
            layer = self.maker(here)
            if layer is None:
                found.add(here.name)
            elif layer.type.name != "SHAPE":
                waiting += inputs_of(layer)
        return found

    def factor(self, tensor: Any) -> float | None:
        """The constant that a tensor has been multiplied by last; None if it was not."""
        layer = self.maker(tensor)
        if layer is None or layer.type.name != "ELEMENTWISE" or layer.op.name != "PROD":
            return None
        values = (self._constant(operand) for operand in inputs_of(layer))
        return next((value for value in values if value is not None), None)

    def _constant(self, tensor: Any) -> float | None:
        """The one number that a tensor holds, however it is shaped and typed; None if none."""
        layer = self.maker(tensor)
        while layer is not None and layer.type.name in ("SHUFFLE", "CAST"):
            layer = self.maker(layer.get_input(0))
        if layer is None or layer.type.name != "CONSTANT":
            return None
        values = np.asarray(layer.weights)
        return float(values.ravel()[0]) if values.size == 1 else None


def parse(
    library: Library, builder: Any, model: ir.Model, path: Path, messages: Messages
) -> Network:
    """The network of a graph whose weights lie beside `path`.

    Raises:
        ExportError: the parser refuses the graph; its own words are told.
    """
    trt = library.module
    flags = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    definition = builder.create_network(0 if flags is None else 1 << int(flags))
    parser = trt.OnnxParser(definition, builder.logger)
    if not parser.parse(ir.to_proto(model).SerializeToString(), str(path)):
        said = [parser.get_error(i).desc() for i in range(parser.num_errors)] or [str(messages)]
        raise ExportError(f"{library.name} cannot parse the {model.graph.name} graph: {said[0]}")
    return Network(library, definition)


def inputs_of(layer: Any) -> list[Any]:
    """The tensors that a layer reads."""
    tensors = (layer.get_input(i) for i in range(layer.num_inputs))
    return [tensor for tensor in tensors if tensor is not None]


def outputs_of(layer: Any) -> Iterator[Any]:
    """The tensors that a layer makes."""
    for index in range(layer.num_outputs):
        yield layer.get_output(index)


def len_of(definition: Any) -> int:
    """How many layers a network has."""
    return int(definition.num_layers)


def _known(library: Library, layer: Any) -> Any:
    """A layer as an object of its own class: TensorRT hands all out as ILayer."""
    name = _CLASSES.get(layer.type.name)
    if name is not None:
        layer.__class__ = getattr(library.module, name)
    return layer

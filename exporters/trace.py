"""Torch module + GraphSpec -> ONNX graph, traced without a single weight.

Names and axes come from `bart_onnx.graphs`. The graph's tensors refer to a weight file that
`exporters.weight_file` wrote, so that no weight passes through torch or protobuf.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bart_onnx.config import BartConfig
from bart_onnx.graphs import (
    ALIGNMENT,
    DECODER_STEP,
    ENCODER,
    FP32,
    GraphSpec,
    TensorSpec,
    graph_specs,
)
from exporters.alignment import AlignmentGraph
from exporters.bart import Bart, DecoderStepGraph, EncoderGraph
from exporters.operators import OPSET
from exporters.rewrite import REWRITES
from exporters.weight_file import StoredTensor

_MODULES: dict[str, type[nn.Module]] = {
    ENCODER: EncoderGraph,
    DECODER_STEP: DecoderStepGraph,
    ALIGNMENT: AlignmentGraph,
}
_ROOT = "bart."
_TALKATIVE = (
    "torch.onnx._internal.exporter._registration",
    "onnx_ir.passes.common.initializer_deduplication",
)

# Sizes for the trace only: each axis another number, so that none is taken for another.
_EXAMPLE_SIZES = {
    "source": 3,
    "batch": 6,
    "query_length": 5,
    "source_length": 11,
    "capacity": 17,
}


def trace(
    config: BartConfig,
    name: str,
    stored: Mapping[str, StoredTensor],
    path: Path,
    precision: str = "fp32",
) -> None:
    """Write a graph to `path`; its weights are those of `stored`, beside it.

    The master graph is traced and, for another precision than fp32, rewritten.
    """
    model = rewritten_graph(config, name, precision)
    _refer_to_weights(model, stored, path.parent)
    ir.save(model, path)


def rewritten_graph(config: BartConfig, name: str, precision: str) -> ir.Model:
    """A graph in a precision, whose weights have names and types, and no values yet."""
    model = master_graph(config, name)
    spec = _spec(config, name, precision)
    for rewrite in REWRITES[precision]:
        rewrite(model, config)
    _check_names(model, spec)
    _apply_names(model, spec)
    return model


def master_graph(config: BartConfig, name: str) -> ir.Model:
    """The float32 graph that every precision is rewritten from, traced.

    Its weights have names, and no values yet.
    """
    spec = _spec(config, name, FP32)
    model = _traced_model(config, spec)
    _name_weights(model)
    with _quiet():
        onnxscript.optimizer.optimize_ir(model)
    _apply_names(model, spec)
    return model


def _spec(config: BartConfig, name: str, precision: str) -> GraphSpec:
    return next(spec for spec in graph_specs(config, precision) if spec.name == name)


def _traced_model(config: BartConfig, spec: GraphSpec) -> ir.Model:
    with FakeTensorMode(), torch.no_grad(), _quiet():
        module = _MODULES[spec.name](Bart(config)).eval()
        inputs = [_example(tensor) for tensor in spec.inputs]
        axes = [_dynamic_axes(tensor) for tensor in spec.inputs]
        plain = _count_plain_inputs(spec)
        arguments: tuple[Any, ...] = tuple(inputs[:plain])
        dynamic: tuple[Any, ...] = tuple(axes[:plain])
        if inputs[plain:]:
            arguments, dynamic = (*arguments, inputs[plain:]), (*dynamic, axes[plain:])
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=dynamic,
            optimize=False,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise AssertionError("torch.onnx.export returns a program when dynamo=True")
    return program.model


def _count_plain_inputs(spec: GraphSpec) -> int:
    """Inputs before what each layer has of its own, which a module takes as one list."""
    return sum(tensor.dtype == "int64" for tensor in spec.inputs)


def _example(tensor: TensorSpec) -> Tensor:
    sizes = [_EXAMPLE_SIZES[axis] if isinstance(axis, str) else axis for axis in tensor.shape]
    return torch.zeros(sizes, dtype=getattr(torch, tensor.dtype))


def _dynamic_axes(tensor: TensorSpec) -> dict[int, Any]:
    return {
        index: torch.export.Dim.DYNAMIC
        for index, axis in enumerate(tensor.shape)
        if isinstance(axis, str)
    }


def _name_weights(model: ir.Model) -> None:
    """Call weights what they are called here; until they are referred to they have no values."""
    initializers = model.graph.initializers
    for name in list(initializers):
        value = initializers.pop(name)
        value.name = name.removeprefix(_ROOT)
        value.const_value = None
        initializers[value.name] = value


def _refer_to_weights(model: ir.Model, stored: Mapping[str, StoredTensor], directory: Path) -> None:
    for name, value in model.graph.initializers.items():
        tensor = stored.get(name)
        if tensor is None:
            continue
        value.const_value = ir.ExternalTensor(
            tensor.file,
            tensor.offset,
            tensor.size,
            ir.DataType.from_numpy(np.dtype(tensor.dtype)),
            shape=ir.Shape(tensor.shape),
            name=name,
            base_dir=directory,
        )


def _check_names(model: ir.Model, spec: GraphSpec) -> None:
    """That a rewritten graph takes and gives what the contract says, in its order."""
    for values, tensors in ((model.graph.inputs, spec.inputs), (model.graph.outputs, spec.outputs)):
        found = [value.name for value in values]
        expected = [tensor.name for tensor in tensors]
        if found != expected:
            raise AssertionError(f"{spec.name}: {found} in place of {expected}")


def _apply_names(model: ir.Model, spec: GraphSpec) -> None:
    graph = model.graph
    graph.name = spec.name
    for node in graph:
        # What the tracer knew of inner shapes is in its own symbols, which nothing defines here.
        for value in node.outputs:
            value.shape = None
        node.metadata_props.clear()
    for values, tensors in ((graph.inputs, spec.inputs), (graph.outputs, spec.outputs)):
        if len(values) != len(tensors):
            raise AssertionError(f"{spec.name}: {len(values)} traced tensors, {len(tensors)} named")
        for value, tensor in zip(values, tensors, strict=True):
            value.name = tensor.name
            value.shape = ir.Shape(tensor.shape)
            # Another type, and not this one changed: copies of a graph share their types.
            value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(tensor.dtype)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without notes on operators that BART does not have, and on weights not yet referred to."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

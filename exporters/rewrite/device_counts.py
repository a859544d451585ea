"""Decoder step -> one whose lengths are counted where its tokens are.

The master adds the number of tokens fed, which it has from a shape, to the past lengths. A GPU's
provider keeps shapes on the host and would copy one of the two, and a step with a copy between host
and device is none that onnxruntime captures as a CUDA graph.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bart_onnx.config import BartConfig
from bart_onnx.graphs import DECODER_STEP, DECODER_TOKEN_IDS, PAST_LENGTHS
from exporters.rewrite.graph_edits import Edits, named


def count_on_device(model: ir.Model, config: BartConfig) -> None:
    """Let each row's tokens be a sum of ones, made on the device: only its shape is the host's."""
    graph = model.graph
    if graph.name != DECODER_STEP:
        return
    edits = Edits(model)
    add = edits.before(next(iter(graph)))
    shape = add("Shape", named(graph.inputs, DECODER_TOKEN_IDS))
    ones = add("ConstantOfShape", shape, value=ir.tensor(np.array([1], np.int64)))
    last = add.constant(np.array([1], np.int64))
    counts = add("ReduceSum", ones, last, keepdims=0)  # [batch]
    for node, place in named(graph.inputs, PAST_LENGTHS).uses():
        if node.op_type == "Add":
            node.replace_input_with(1 - place, counts)
    edits.drop_unused()

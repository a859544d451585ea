"""The weights of a torch module by their canonical names (`bart_onnx.weights`)."""

from __future__ import annotations

from functools import partial

import numpy as np

from bart_onnx.initializer import Weights
from bart_onnx.weights import weight_shapes
from exporters.bart import Bart
from exporters.packing import packed_tensors


def weights_of(bart: Bart) -> Weights:
    """Each weight of a module, as a copy made now; the packed ones are taken apart."""
    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in bart.named_parameters()}
    weights: Weights = {}
    for packed in packed_tensors(bart.config):
        for part in packed.parts:
            columns = slice(part.first, part.first + part.shape[-1])
            copy = tensors[packed.name][..., columns].astype(np.float32, copy=True)
            weights[part.name] = partial(np.asarray, copy)
    return {name: weights[name] for name in weight_shapes(bart.config)}

"""The shapes that an engine is built for: optimisation profiles of a graph's inputs. It knows no
TensorRT.
"""

from __future__ import annotations

from collections.abc import Mapping

from bart_onnx.engines import Limits
from bart_onnx.graphs import ENCODER, GraphSpec, TensorSpec

Shape = tuple[int, ...]
# Smallest, likeliest and largest.
Shapes = tuple[Shape, Shape, Shape]
Profile = Mapping[str, Shapes]


def profiles(spec: GraphSpec, limits: Limits) -> list[Profile]:
    """The profiles of a graph, those that serve less first: a runner takes the first that fits.

    One token and several are apart: other kernels are best for each. One row is not apart from
    several, since its kernels want weights in an order of their own: bart-large's step in fp16 has
    592 MB without, 971 MB with. The likeliest shape is the largest, since that is where time goes.
    """
    queries = (1,) if spec.name == ENCODER else limits.query_lengths
    return [
        {tensor.name: _shapes(tensor, limits, query) for tensor in spec.inputs} for query in queries
    ]


def _shapes(tensor: TensorSpec, limits: Limits, query: int) -> Shapes:
    """Of a tensor, when so many tokens are the most."""
    ranges = {
        "source": (1, limits.max_batch),
        "batch": (1, limits.max_batch),
        "query_length": (1, query),
        "source_length": (1, limits.max_source),
        "capacity": (limits.capacity, limits.capacity),
    }
    sizes = [ranges[axis] if isinstance(axis, str) else (axis, axis) for axis in tensor.shape]
    smallest, largest = tuple(low for low, _ in sizes), tuple(high for _, high in sizes)
    return smallest, largest, largest

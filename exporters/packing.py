"""How weights lie side by side in the matrices that the graphs multiply with.

Query, key and value of a self-attention are one matrix, and so are key and value of a
cross-attention: one multiplication reads the input once. A packed matrix takes its parts as columns
in the order named. It knows no file and no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig
from bart_onnx.weights import weight_shapes

_PACKS = {
    ".self_attention.": ("query_key_value", ("query", "key", "value")),
    ".cross_attention.": ("key_value", ("key", "value")),
}


@dataclass(frozen=True)
class Part:
    """Columns `first` to `first + shape[-1]` of a packed tensor hold weight `name`."""

    name: str
    shape: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class PackedTensor:
    """One tensor of the graphs: its name, shape and parts. Most have one part, all of it."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    def pack(self, weights: Mapping[str, Callable[[], NDArray[np.float32]]]) -> NDArray[np.float32]:
        """The tensor's values, float32, its parts read one after the other."""
        if len(self.parts) == 1:
            return weights[self.parts[0].name]()
        packed = np.empty(self.shape, np.float32)
        for part in self.parts:
            packed[..., part.first : part.first + part.shape[-1]] = weights[part.name]()
        return packed


def packed_tensors(config: BartConfig) -> tuple[PackedTensor, ...]:
    """Every tensor that the graphs of this config hold, in the order they are written."""
    groups: dict[str, list[Part]] = {}
    for name, shape in weight_shapes(config).items():
        parts = groups.setdefault(packed_name(name), [])
        parts.append(Part(name, shape, first=sum(part.shape[-1] for part in parts)))
    return tuple(_packed(name, tuple(parts)) for name, parts in groups.items())


def packed_name(name: str) -> str:
    """Name of the packed tensor that holds weight `name`."""
    for owner, (packed, projections) in _PACKS.items():
        for projection in projections:
            if f"{owner}{projection}." in name:
                return name.replace(f"{owner}{projection}.", f"{owner}{packed}.")
    return name


def _packed(name: str, parts: tuple[Part, ...]) -> PackedTensor:
    columns = sum(part.shape[-1] for part in parts)
    return PackedTensor(name, (*parts[0].shape[:-1], columns), parts)

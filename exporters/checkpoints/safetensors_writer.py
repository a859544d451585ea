"""Writes safetensors files one tensor at a time, in shards where they are large.

It knows the file format and no tensor's name or meaning.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tensor:
    """A float32 tensor's shape, and what reads it."""

    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.float32]]

    @property
    def size(self) -> int:
        """Its bytes."""
        return 4 * math.prod(self.shape)


def write_tensors(directory: Path, tensors: Mapping[str, Tensor], limit: float) -> None:
    """Write model.safetensors or, over `limit` bytes, shards of it and their index."""
    total = sum(tensor.size for tensor in tensors.values())
    if total <= limit:
        _write(directory / "model.safetensors", tensors)
        return
    shards = list(_shards(tensors, limit))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write(directory / file, {name: tensors[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(tensors: Mapping[str, Tensor], limit: float) -> Iterator[list[str]]:
    shard: list[str] = []
    filled = 0
    for name, tensor in tensors.items():
        if shard and filled + tensor.size > limit:
            yield shard
            shard, filled = [], 0
        shard, filled = [*shard, name], filled + tensor.size
    yield shard


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.size
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data to begin at a multiple of 8
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            array = np.ascontiguousarray(tensor.read(), dtype="<f4").reshape(tensor.shape)
            file.write(array.data)

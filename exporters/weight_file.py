"""Writes the one weight file of a bundle, and the table that says where each weight lies in it.

Every weight is read, packed and written by itself, so that the largest one bounds the memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig
from bart_onnx.errors import ExportError
from bart_onnx.graphs import HALF_PRECISIONS, INT8
from bart_onnx.weights import optional_weight_shapes
from exporters.packing import PackedTensor, Part, packed_tensors
from exporters.rewrite.half_weights import halved, is_half
from exporters.rewrite.quantization import (
    INT8_SUFFIX,
    SCALE_SUFFIX,
    SUMS_SUFFIX,
    column_sums,
    follows_gelu,
    is_quantised,
    quantised,
    scale_axis,
)

WEIGHT_FILE = "weights.bin"

# Large tensors start on a page, so that they can be mapped; small ones on a cache line.
_PAGE, _CACHE_LINE, _LARGE = 4096, 64, 1 << 20

Weights = Mapping[str, Callable[[], NDArray[np.float32]]]


@dataclass(frozen=True)
class StoredTensor:
    """A packed tensor on disk, row-major: file, first byte, bytes, shape, dtype."""

    file: str
    offset: int
    size: int
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class WeightFile:
    """What was written: packed tensors for the graphs, weights for the manifest."""

    stored: Mapping[str, StoredTensor]
    tensors: Mapping[str, Mapping[str, Any]]
    sha256: str
    size: int


def write_weights(
    config: BartConfig,
    weights: Weights,
    directory: Path,
    progress: Callable[[int], None] = lambda _: None,
    precision: str = "fp32",
) -> WeightFile:
    """Write every weight of `config` into `directory`; `progress` is told the bytes of each.

    What a precision stores exactly, in float32, has manifest entries, so that it can be read back.
    They give offset in bytes and strides in elements: weight[i, j] is the float32 at
    offset + 4 (i strides[0] + j strides[1]). So the key kernel [D, D] of a packed
    query-key-value matrix [D, 3D] has strides [3D, 1] and starts 4 D bytes into it.

    Raises:
        ExportError: a weight is not finite, or larger than a half precision can hold.
    """
    stored: dict[str, StoredTensor] = {}
    tensors: dict[str, dict[str, Any]] = {}
    digest = hashlib.sha256()
    with (directory / WEIGHT_FILE).open("wb") as file:
        for tensor in (*packed_tensors(config), *_kept_tensors(config, weights)):
            values = tensor.pack(weights)
            if values.shape != tensor.shape or values.dtype != np.float32:
                raise AssertionError(f"{tensor.name}: {values.dtype} {values.shape}")
            _check_finite(tensor, values)
            parts = _parts(tensor.name, values, precision)
            for name, part in parts.items():
                offset = _append(file, part, digest)
                stored[name] = StoredTensor(
                    WEIGHT_FILE, offset, part.nbytes, part.shape, part.dtype.name
                )
            if parts.get(tensor.name) is values:
                offset = stored[tensor.name].offset
                tensors.update({part.name: _entry(tensor, part, offset) for part in tensor.parts})
            progress(values.nbytes)
        size = file.tell()
    return WeightFile(stored, tensors, digest.hexdigest(), size)


def _check_finite(tensor: PackedTensor, values: NDArray[np.float32]) -> None:
    if np.isfinite(values).all():
        return
    for part in tensor.parts:
        own = values[..., part.first : part.first + part.shape[-1]]
        places = np.argwhere(~np.isfinite(own))
        if len(places):
            raise ExportError(
                f"{len(places)} values of weight {part.name!r} are not finite: the first is "
                f"{own[tuple(places[0])]} at {places[0].tolist()}. The checkpoint is damaged, or "
                "its training failed. Nothing was published; take another checkpoint."
            )


def _parts(name: str, values: NDArray[np.float32], precision: str) -> Mapping[str, NDArray[Any]]:
    """What a precision stores of a packed tensor, by its name in the graphs."""
    if precision in HALF_PRECISIONS and is_half(name):
        return {name: halved(name, values, precision)}
    if precision != INT8 or not is_quantised(name):
        return {name: values}
    small, scales = quantised(values, scale_axis(name))
    parts: dict[str, NDArray[Any]] = {name + INT8_SUFFIX: small, name + SCALE_SUFFIX: scales}
    if follows_gelu(name):
        parts[name + SUMS_SUFFIX] = column_sums(small, scales)
    return parts


def _kept_tensors(config: BartConfig, weights: Weights) -> list[PackedTensor]:
    kept = optional_weight_shapes(config).items()
    return [
        PackedTensor(name, shape, (Part(name, shape, first=0),))
        for name, shape in kept
        if name in weights
    ]


def _append(file: BinaryIO, values: NDArray[Any], digest: Any) -> int:
    alignment = _PAGE if values.nbytes >= _LARGE else _CACHE_LINE
    padding = bytes(-file.tell() % alignment)
    data = np.ascontiguousarray(values).view(np.uint8).data
    for chunk in (padding, data):
        file.write(chunk)
        digest.update(chunk)
    return file.tell() - values.nbytes


def _entry(tensor: PackedTensor, part: Part, offset: int) -> dict[str, Any]:
    columns = tensor.shape[-1]
    strides = [columns, 1] if len(part.shape) == 2 else [1]
    return {
        "file": WEIGHT_FILE,
        "offset": offset + 4 * part.first,
        "dtype": "float32",
        "shape": list(part.shape),
        "strides": strides,
    }

"""Reads safetensors files with numpy: the header is checked whole before any tensor is mapped.

It knows the file format and no tensor's name or meaning. Nothing in a file is executed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import CheckpointError
from exporters.checkpoints.local_files import parse_json_object

# The format allows 100 MB. A BART of 1,000 layers has 3 MB; parsed, 4 MiB stay under 100 MB.
HEADER_LIMIT = 4 << 20

_DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
# What weights may be kept in. F64 is refused: no BART is published so, and float32 would lose bits.
WEIGHT_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_STORED_AS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_COMPARED_ROWS = 1024


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: file, first byte in it, dtype as the format spells it, and shape."""

    name: str
    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Name to place of every tensor of a file.

    Raises:
        CheckpointError: the file is truncated or too long, or its header contradicts itself.
    """
    file_size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise _damaged(path, f"it has {file_size} bytes, and the header's length alone takes 8")
        (header_size,) = struct.unpack("<Q", start)
        if header_size > file_size - 8:
            raise _damaged(
                path,
                f"the header should have {header_size} bytes, and {file_size - 8} follow its "
                "length: the file is truncated or no safetensors file",
            )
        if header_size > HEADER_LIMIT:
            raise _damaged(path, f"the header has {header_size} bytes, at most {HEADER_LIMIT} fit")
        header = parse_json_object(file.read(header_size), f"The header of {path}")
    header.pop("__metadata__", None)
    entries = {}
    spans = []
    for name, description in header.items():
        begin, end, dtype, shape = _check_tensor(path, name, description)
        entries[name] = TensorEntry(name, path, 8 + header_size + begin, dtype, shape)
        spans.append((begin, end, name))
    _check_layout(path, sorted(spans), file_size - 8 - header_size)
    return entries


def read_tensor(
    entry: TensorEntry, rows: slice = slice(None), *, transpose: bool = False
) -> NDArray[np.float32]:
    """Rows of a tensor as a new C-contiguous float32 array, transposed where asked.

    Raises:
        CheckpointError: the file went or shrank since its header was read.
    """
    view = _map(entry)[rows]
    if transpose:
        view = view.T
    if entry.dtype == "BF16":  # the upper half of a float32: 0x3F80 << 16 = 0x3F800000 = 1.0
        wide = np.array(view, dtype=np.uint32, order="C")
        np.left_shift(wide, 16, out=wide)
        return wide.view(np.float32)
    return np.array(view, dtype=np.float32, order="C")


def same_values(first: TensorEntry, second: TensorEntry) -> bool:
    """Whether two tensors hold the same numbers as float32; reads 1,024 rows at a time."""
    if first.shape != second.shape:
        return False
    pieces = (slice(i, i + _COMPARED_ROWS) for i in range(0, first.shape[0], _COMPARED_ROWS))
    return all(
        np.array_equal(read_tensor(first, rows), read_tensor(second, rows)) for rows in pieces
    )


def _map(entry: TensorEntry) -> NDArray[Any]:
    try:
        return np.memmap(
            entry.path,
            dtype=_STORED_AS[entry.dtype],
            mode="r",
            offset=entry.offset,
            shape=entry.shape,
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Tensor {entry.name!r} can no longer be read from {entry.path} ({error}); "
            "the file was changed, or the checkpoint closed, since it was opened."
        ) from error


def _check_tensor(
    path: Path, name: str, description: object
) -> tuple[int, int, str, tuple[int, ...]]:
    if not isinstance(description, Mapping):
        raise _damaged(path, f"tensor {name[:80]!r} is described by {type(description).__name__}")
    dtype: Any = description.get("dtype")
    shape: Any = description.get("shape")
    offsets: Any = description.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _DTYPE_BYTES:
        raise _damaged(path, f"tensor {name[:80]!r} has the unknown dtype {str(dtype)[:40]!r}")
    if not _is_sizes(shape) or len(shape) > 8:
        raise _damaged(path, f"tensor {name[:80]!r} has a shape that is no short list of sizes")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _damaged(path, f"tensor {name[:80]!r} has data_offsets that are no [begin, end]")
    begin, end = offsets
    needed = math.prod(shape) * _DTYPE_BYTES[dtype]
    if end - begin != needed:
        raise _damaged(
            path,
            f"tensor {name[:80]!r} ({dtype}, shape {shape}) needs {needed} bytes, and its "
            f"data_offsets give it {end - begin}",
        )
    return begin, end, dtype, tuple(shape)


def _is_sizes(value: Any) -> bool:
    # `type(...) is int` leaves out bools; 2**63 is more than any file has.
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _check_layout(path: Path, spans: list[tuple[int, int, str]], data_size: int) -> None:
    position = 0
    for begin, end, name in spans:
        if begin != position:
            fault = "overlaps the tensor before it" if begin < position else "leaves a hole"
            raise _damaged(
                path,
                f"tensor {name[:80]!r} begins at byte {begin} of the data and {fault}, which "
                f"ends at byte {position}",
            )
        position = end
    if position != data_size:
        what = "truncated" if data_size < position else "longer than its header says"
        raise _damaged(
            path, f"expected {position} bytes of tensors, found {data_size}: the file is {what}"
        )


def _damaged(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read as safetensors: {found}. Download or write it again."
    )

"""The safetensors reader against the library that defines the format, and against lies."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tiny_checkpoints import write_raw

from bart_onnx.errors import CheckpointError
from exporters.checkpoints.safetensors_file import (
    HEADER_LIMIT,
    read_header,
    read_tensor,
    same_values,
)

FIRST = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
SECOND = {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_are_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    table = torch.randn(37, 5).to(dtype)
    table[0, 0], table[0, 1], table[0, 2] = float("nan"), float("-inf"), 1e-40
    save_file({"b": table, "a": torch.ones(3)}, tmp_path / "t.safetensors", {"format": "pt"})
    entry = read_header(tmp_path / "t.safetensors")["b"]
    wide = table.float().numpy()
    for array, expected in (
        (read_tensor(entry), wide),
        (read_tensor(entry, transpose=True), wide.T),
        (read_tensor(entry, slice(2, None)), wide[2:]),
        (read_tensor(entry, slice(0, 2)), wide[:2]),
    ):
        np.testing.assert_array_equal(array.view(np.uint32), expected.copy().view(np.uint32))
        assert array.flags.c_contiguous
        assert array.flags.owndata or array.base.flags.owndata
        assert array.dtype == np.float32


def test_comparison(tmp_path: Path) -> None:
    table = torch.randn(2500, 3)
    other = table.clone()
    other[2499, 2] += 1
    tensors = {"a": table, "b": table.clone(), "c": other, "d": table[:9].clone()}
    save_file(tensors, tmp_path / "t.safetensors")
    entries = read_header(tmp_path / "t.safetensors")
    assert same_values(entries["a"], entries["b"])
    assert not same_values(entries["a"], entries["c"])
    assert not same_values(entries["a"], entries["d"])


def test_honest_header(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "second": SECOND, "first": FIRST}
    entries = read_header(write_raw(tmp_path / "t.safetensors", header, bytes(32)))
    assert set(entries) == {"first", "second"}
    assert entries["second"].shape == (4,)


LIES: dict[str, tuple[Any, int, str]] = {
    "overlap": ({"a": FIRST, "b": {**SECOND, "data_offsets": [16, 24]}}, 24, "overlaps"),
    "same bytes": ({"a": FIRST, "b": FIRST}, 24, "overlaps"),
    "hole": ({"a": FIRST, "b": {**SECOND, "data_offsets": [28, 36]}}, 36, "leaves a hole"),
    "starts late": ({"a": {**FIRST, "data_offsets": [8, 32]}}, 32, "leaves a hole"),
    "past the end": ({"a": FIRST, "b": SECOND}, 24, "expected 32 bytes.*found 24.*truncated"),
    "unused tail": ({"a": FIRST}, 32, "expected 24 bytes.*found 32.*longer"),
    "wrong size": ({"a": {**FIRST, "shape": [2, 4]}}, 24, "needs 32 bytes.*give it 24"),
    "backwards": ({"a": {**FIRST, "data_offsets": [24, 0]}}, 24, r"no \[begin, end\]"),
    "three offsets": ({"a": {**FIRST, "data_offsets": [0, 12, 24]}}, 24, r"no \[begin, end\]"),
    "negative shape": ({"a": {**FIRST, "shape": [-2, -3]}}, 24, "no short list of sizes"),
    "float shape": ({"a": {**FIRST, "shape": [2.0, 3]}}, 24, "no short list of sizes"),
    "bool shape": ({"a": {**FIRST, "shape": [True, 6]}}, 24, "no short list of sizes"),
    "text shape": ({"a": {**FIRST, "shape": "23"}}, 24, "no short list of sizes"),
    "long shape": ({"a": {**FIRST, "shape": [1] * 9}}, 4, "no short list of sizes"),
    "shape that overflows": ({"a": {**FIRST, "shape": [2**62, 4]}}, 24, "needs 7378"),
    "huge numbers": ({"a": {**FIRST, "shape": [2**64]}}, 24, "no short list of sizes"),
    "unknown dtype": ({"a": {**FIRST, "dtype": "F31"}}, 24, "unknown dtype 'F31'"),
    "dtype that is no text": ({"a": {**FIRST, "dtype": ["F32"]}}, 24, "unknown dtype"),
    "no dtype": ({"a": {"shape": [], "data_offsets": [0, 4]}}, 4, "unknown dtype 'None'"),
    "no description": ({"a": 3}, 0, "described by int"),
    "list": ([1], 0, "must hold a JSON object"),
    "no JSON": (b"{'a': 1}", 0, "not valid JSON"),
    "no text": (b"\xff\xff", 0, "not valid JSON"),
    "deep": (b"[" * 200_000, 0, "not valid JSON"),
    "empty": (b"", 0, "not valid JSON"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies(tmp_path: Path, lie: str) -> None:
    header, size, message = LIES[lie]
    path = write_raw(tmp_path / "t.safetensors", header, bytes(size))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    with pytest.raises(SafetensorError), safe_open(path, "np"):
        pass


@pytest.mark.parametrize("length", [0, 1, 7])
def test_file_without_a_length(tmp_path: Path, length: int) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(bytes(length))
    with pytest.raises(CheckpointError, match=f"it has {length} bytes"):
        read_header(path)


@pytest.mark.parametrize("size", [3, 2**32, 2**63, 2**64 - 1])
def test_header_longer_than_the_file(tmp_path: Path, size: int) -> None:
    path = write_raw(tmp_path / "t.safetensors", b"{}", size=size)
    with pytest.raises(CheckpointError, match=f"should have {size} bytes, and 2 follow"):
        read_header(path)


def test_header_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", HEADER_LIMIT + 1))
        file.truncate(1 << 33)  # a sparse file
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=f"at most {HEADER_LIMIT}"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    whole = write_raw(tmp_path / "t.safetensors", {"a": FIRST, "b": SECOND}, bytes(32)).read_bytes()
    for length in range(len(whole)):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_header(path)


def test_repeated_name_cannot_hide_bytes(tmp_path: Path) -> None:
    one = json.dumps({"a": FIRST})[:-1]
    header = f'{one}, "a": {json.dumps(SECOND)}}}'.encode()
    with pytest.raises(CheckpointError, match="leaves a hole"):
        read_header(write_raw(tmp_path / "t.safetensors", header, bytes(32)))

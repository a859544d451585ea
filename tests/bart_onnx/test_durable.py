"""A file that is replaced is the old one or the new one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bart_onnx.durable import replaced


def test_what_is_written_becomes_the_file_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with replaced(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_failure_leaves_the_old_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError("no space left")

    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr("bart_onnx.durable.os.fsync", full)
    with pytest.raises(OSError, match="no space left"), replaced(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_of_two_the_last_to_end_lies_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with replaced(path) as first:
        first.write(b"first")
        with replaced(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"

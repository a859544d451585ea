"""Pickled checkpoints: refused unasked, converted in a child process, and never executed."""

from __future__ import annotations

import gc
import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoints import golden_config, golden_tensors, transformers_weights, write_checkpoint

from bart_onnx.errors import CheckpointError, MissingFileError, MissingPackageError
from exporters.checkpoints import pickle_file
from exporters.checkpoints.hugging_face import read


class Payload:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories go, so that a test sees whether one is left."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    directory = write_checkpoint(tmp_path / "pickled", golden_config())
    tensors = golden_tensors()
    tensors["lm_head.weight"] = tensors["model.shared.weight"]  # as torch saves tied weights
    torch.save(tensors, directory / "pytorch_model.bin")
    return directory


def test_refused_unasked(pickled: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(pickled, source="hf://someone/tiny")
    for words in ("hf://someone/tiny", "only as a pickle", "can run code", "--allow-pickle"):
        assert words in str(caught.value)


def test_converted_when_asked(pickled: Path, scratch: Path) -> None:
    checkpoint = read(pickled, source="test", allow_pickle=True)
    expected = transformers_weights(pickled)
    assert set(checkpoint.weights) == set(expected)
    for name, read_weight in checkpoint.weights.items():
        np.testing.assert_array_equal(read_weight(), expected[name])
    assert checkpoint.config.tied_embeddings
    reader = checkpoint.weights["token_embedding"]
    del checkpoint, read_weight
    gc.collect()
    assert reader().any()
    assert list(scratch.iterdir())
    del reader
    gc.collect()
    assert not list(scratch.iterdir())
    assert sorted(path.name for path in pickled.iterdir()) == ["config.json", "pytorch_model.bin"]


def test_close_removes_what_was_converted(pickled: Path, scratch: Path) -> None:
    checkpoint = read(pickled, source="test", allow_pickle=True)
    checkpoint.close()
    checkpoint.close()
    assert not list(scratch.iterdir())
    with pytest.raises(CheckpointError, match="can no longer be read"):
        checkpoint.weights["token_embedding"]()


def test_safetensors_are_preferred(pickled: Path) -> None:
    write_checkpoint(pickled, golden_config(), golden_tensors())
    (pickled / "pytorch_model.bin").write_bytes(b"never opened")
    read(pickled, source="test", allow_pickle=True).weights["token_embedding"]()


def test_shards_of_mixed_dtypes(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "shards", golden_config())
    tensors = golden_tensors()
    names = sorted(tensors)
    shards = {"a.bin": names[::2], "b.bin": names[1::2]}
    dtypes = {"a.bin": torch.bfloat16, "b.bin": torch.float16}
    for shard, held in shards.items():
        torch.save({name: tensors[name].to(dtypes[shard]) for name in held}, directory / shard)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    weights = read(directory, source="test", allow_pickle=True).weights
    name = "model.encoder.layernorm_embedding.weight"
    kept = tensors[name].to(dtypes[weight_map[name]]).float().numpy()
    np.testing.assert_array_equal(weights["encoder.embedding_layer_norm.gamma"](), kept)
    (directory / "b.bin").unlink()
    with pytest.raises(MissingFileError, match=r"needs b\.bin"):
        read(directory, source="test", allow_pickle=True)


@pytest.mark.parametrize("how", ["torch.save", "pickle.dumps"])
def test_payload_does_not_run(tmp_path: Path, scratch: Path, how: str) -> None:
    directory = write_checkpoint(tmp_path / "hostile", golden_config())
    witness = tmp_path / "it-ran"
    content = {**golden_tensors(), "extra": Payload(witness)}
    if how == "torch.save":
        torch.save(content, directory / "pytorch_model.bin")
    else:
        (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(witness)))
    with pytest.raises(CheckpointError, match=r"was refused: .*(system|Unpickl)") as caught:
        read(directory, source="test", allow_pickle=True)
    assert not witness.exists()
    assert "weights_only=False" not in str(caught.value).replace(" ", "")
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({"model": {"a": torch.ones(1)}}, "holds a dict under 'model'"),
        ({3: torch.ones(1)}, "holds a Tensor under '3'"),
        ({"a": torch.ones(2).to_sparse()}, "sparse"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "complex64"),
    ],
)
def test_pickles_of_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object, message: str
) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    target = tmp_path / "target"
    assert pickle_file.main([str(tmp_path / "pytorch_model.bin"), str(target)]) == 3
    assert message in capsys.readouterr().out
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04" + bytes(40)])
def test_what_is_no_pickle(tmp_path: Path, scratch: Path, content: bytes) -> None:
    directory = write_checkpoint(tmp_path / "damaged", golden_config())
    (directory / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin was to be read as a pickle"):
        read(directory, source="test", allow_pickle=True)
    assert not list(scratch.iterdir())


def test_wrong_tensors_leave_nothing_behind(tmp_path: Path, scratch: Path) -> None:
    directory = write_checkpoint(tmp_path / "wrong", golden_config())
    torch.save({"a": torch.ones(1)}, directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"missing: .*unexpected: a"):
        read(directory, source="test", allow_pickle=True)
    assert not list(scratch.iterdir())


def test_config_is_checked_before_any_pickle(
    pickled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle_file, "run_child", None)
    write_checkpoint(pickled, golden_config(model_type="mbart"))
    with pytest.raises(CheckpointError, match="mBART"):
        read(pickled, source="test", allow_pickle=True)


def test_files_of_the_working_directory_are_not_imported(
    pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch.py", "numpy.py", "exporters.py"):
        (pickled / name).write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')")
    monkeypatch.chdir(pickled)
    read(pickled, source="test", allow_pickle=True).close()
    assert not (tmp_path / "it-ran").exists()


def test_child_that_cannot_do_it(pickled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def child(script: str) -> None:
        command = pickled / "python"
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(command))

    child("exit 4")
    with pytest.raises(MissingPackageError, match=r'pip install "bart_onnx\[export\]"'):
        read(pickled, source="test", allow_pickle=True)
    child("echo out of memory >&2; exit 137")
    with pytest.raises(CheckpointError, match="status 137: out of memory"):
        read(pickled, source="test", allow_pickle=True)
    monkeypatch.setattr(pickle_file, "_SECONDS", 0.2)
    child("exec sleep 5")
    with pytest.raises(CheckpointError, match=r"took over 0\.2 seconds"):
        read(pickled, source="test", allow_pickle=True)

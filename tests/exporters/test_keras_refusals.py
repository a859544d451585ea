"""Hostile Keras files: each is refused by name, and before memory is taken."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hostile_archives import ARCHIVES
from hostile_hdf5 import WEIGHT_FILES
from hostile_presets import PRESETS
from keras_files import PRESET, copy_preset, write_arrays

from bart_onnx.errors import CheckpointError, MissingFileError
from exporters.checkpoints import keras, keras_h5
from exporters.checkpoints.safetensors_file import TensorEntry

HOSTILE = {**WEIGHT_FILES, **PRESETS, **ARCHIVES}
TESTS = Path(__file__).resolve().parents[1]
MEGABYTES = 50  # measured: 6 at most
CHILD_MEGABYTES = 200  # of the process that opens HDF5, libraries included; measured: 75 at most


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What one process said that opened them all, the honest preset first."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is measured through /proc, which is not there")
    directory = tmp_path_factory.mktemp("hostile")
    paths = {"honest": str(PRESET)}
    for number, (name, (build, _)) in enumerate(HOSTILE.items()):
        paths[name] = str(build(copy_preset(directory / str(number))))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    done = subprocess.run(
        [sys.executable, str(TESTS / "hostile_child.py")],
        input=json.dumps(paths),
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    assert found["honest"]["error"] == "none"
    assert found["control"]["megabytes"] > 0.9 * found["control"]["taken"]
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_by_name_and_without_memory(outcomes: dict[str, Any], name: str) -> None:
    outcome = outcomes[name]
    assert outcome["error"] == "CheckpointError", outcome
    assert re.search(HOSTILE[name][1], outcome["message"]), outcome["message"]
    assert len(outcome["message"]) < 2000
    assert outcome["megabytes"] < MEGABYTES


def test_no_child_takes_much_memory(outcomes: dict[str, Any]) -> None:
    assert 20 < outcomes["children"]["megabytes"] < CHILD_MEGABYTES


def _datasets(path: Path) -> dict[str, TensorEntry]:
    (found,) = keras_h5.read_datasets([keras_h5.Hdf5(path)])
    return found


def test_a_heap_of_which_hdf5_would_find_no_end(tmp_path: Path) -> None:
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.zeros(2, "V2")).attrs["dtype"] = "bfloat16"
    honest, content = _datasets(path), bytearray(path.read_bytes())
    assert honest["a"].dtype == "BF16"
    # The heap's free space, behind its head and the label's object, is said to be empty.
    free = content.index(b"GCOL") + 16 + 24
    content[free + 8 : free + 16] = bytes(8)
    path.write_bytes(content)
    assert _datasets(path) == honest


def test_a_node_of_an_index_that_is_its_own_neighbour(tmp_path: Path) -> None:
    path = copy_preset(tmp_path / "preset") / "model.weights.h5"
    honest, content = _datasets(path), bytearray(path.read_bytes())
    node = content.index(b"TREE")
    content[node + 16 : node + 24] = node.to_bytes(8, "little")
    path.write_bytes(content)
    assert _datasets(path) == honest


@pytest.mark.parametrize(
    ("script", "seconds", "said"),
    [
        ("kill -SEGV $$", 60, f"status -{signal.SIGSEGV:d}"),
        ("exec sleep 9", 0.5, r"took over 0\.5 seconds"),
        ("echo nothing of use", 60, "the child said 'nothing of use"),
        ("exit 0", 60, "the child said ''"),
    ],
)
def test_a_child_without_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, seconds: float, said: str
) -> None:
    command = tmp_path / "python"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command))
    monkeypatch.setattr(keras_h5, "_SECONDS", seconds)
    with pytest.raises(CheckpointError, match=rf"weights\.h5 cannot be read as HDF5 .*{said}"):
        _datasets(PRESET / "model.weights.h5")


def test_what_else_a_child_says_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = _datasets(PRESET / "model.weights.h5")
    command = tmp_path / "python"
    command.write_text(f'#!/bin/sh\necho Welcome.\nexec {sys.executable} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command))
    assert _datasets(PRESET / "model.weights.h5") == honest


def test_the_limit_on_objects_counts_groups_and_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_h5, "OBJECT_LIMIT", 100)
    with pytest.raises(CheckpointError, match="over 100 objects"):
        keras_h5.find_datasets(keras_h5.Hdf5(PRESET / "model.weights.h5"))


def test_the_limit_on_objects_is_for_all_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_arrays(tmp_path / "x.h5", {str(number): np.ones(1) for number in range(10)})
    monkeypatch.setattr(keras_h5, "OBJECT_LIMIT", 25)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps([[str(path), 0, None]] * 3)))
    assert keras_h5.main() == 0
    refused = json.loads(capsys.readouterr().out)["refused"]
    assert "with those before it over 25 objects" in refused


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    directory = copy_preset(tmp_path / "preset")
    (directory / name).unlink()
    with pytest.raises(MissingFileError, match=re.escape(name)):
        keras.read(directory, source="kaggle://someone/bart/keras/tiny")


@pytest.mark.parametrize("name", ["vocabulary.json", "merges.txt"])
def test_half_a_tokenizer(tmp_path: Path, name: str) -> None:
    directory = copy_preset(tmp_path / "preset")
    (directory / "assets" / "tokenizer" / name).unlink()
    with pytest.raises(MissingFileError, match=name):
        keras.read(directory, source="a test")


def test_missing_shard(tmp_path: Path) -> None:
    directory = copy_preset(tmp_path / "preset", "keras_preset_sharded")
    (directory / "model_00001.weights.h5").unlink()
    with pytest.raises(MissingFileError, match=r"needs model_00001\.weights\.h5"):
        keras.read(directory, source="a test")


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="is no directory"):
        keras.read(tmp_path / "nowhere", source="a test")

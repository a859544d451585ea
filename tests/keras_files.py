"""Keras presets for tests: the tiny golden one, rewritten, and archives of it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np

from bart_onnx.weights import weight_shapes
from exporters.checkpoints import hugging_face, keras_h5, keras_weights
from exporters.checkpoints.checkpoint import Checkpoint
from exporters.checkpoints.safetensors_file import TensorEntry

GOLDEN = Path(__file__).resolve().parent / "data" / "keras_golden"
PRESET = GOLDEN / "keras_preset"
FIXTURES = Path(__file__).resolve().parent / "data" / "keras_fixtures"


def copy_preset(directory: Path, name: str = "keras_preset") -> Path:
    """A golden preset that may be written to."""
    return Path(shutil.copytree(GOLDEN / name, directory, copy_function=shutil.copyfile))


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


@contextmanager
def without_child() -> Iterator[None]:
    """HDF5 is opened in this process, for who opens thousands of files that are not strangers'."""

    def here(files: Sequence[keras_h5.Hdf5]) -> list[dict[str, TensorEntry]]:
        return list(map(keras_h5.find_datasets, files))

    with patch.object(keras_weights, "read_datasets", here):
        yield


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """Every dataset of an HDF5 file."""
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, found: (
                arrays.__setitem__(name, found[()]) if isinstance(found, h5py.Dataset) else None
            )
        )
    return arrays


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """An HDF5 file of these datasets."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def write_archive(path: Path, members: Mapping[str, bytes], **options: Any) -> Path:
    """A zip of these members, stored as Keras stores them unless `options` say otherwise."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def archive_members(path: Path = FIXTURES / "task.keras") -> dict[str, bytes]:
    """What an archive holds."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def assert_golden(checkpoint: Checkpoint) -> None:
    """Raise where a checkpoint's weights are not those of the golden ones, bit for bit."""
    expected = hugging_face.read(GOLDEN / "hf_checkpoint", source="a test").weights
    assert set(checkpoint.weights) == set(weight_shapes(checkpoint.config))
    for name, reader in checkpoint.weights.items():
        array = reader()
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, expected[name](), name)

"""Opens the weights of a Keras preset, whole or in shards, and matches them with a config.

It knows file names and the index; HDF5 and Keras' names have their own modules.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bart_onnx.config import BartConfig
from bart_onnx.errors import CheckpointError, MissingFileError
from bart_onnx.weights import weight_shapes
from exporters.checkpoints.keras_h5 import Hdf5, read_datasets
from exporters.checkpoints.keras_names import dataset_name, dataset_shapes, is_weight, plain_name
from exporters.checkpoints.local_files import (
    find_file,
    listing,
    need_file,
    read_json_object,
    some,
)
from exporters.checkpoints.safetensors_file import WEIGHT_DTYPES, TensorEntry

WHOLE, INDEX, SUFFIX = "model.weights.h5", "model.weights.json", ".weights.h5"
_SHARD_LIMIT = 1000


@dataclass(frozen=True)
class KerasWeights:
    """Weights by the plain names of their datasets, and the file to name in a message."""

    entries: Mapping[str, TensorEntry]
    path: Path


def open_weights(directory: Path, source: str) -> KerasWeights:
    """The weights in a preset's directory: whole, or the shards that an index lists.

    Raises:
        MissingFileError: there are none, or a shard is missing.
        CheckpointError: a file is damaged or hostile, or index and shards contradict each other.
    """
    path = find_file(directory, WHOLE)
    if path is not None:
        return open_file(path)
    path = find_file(directory, INDEX)
    if path is None:
        raise MissingFileError(
            f"Preset {source} has no weights: it needs {WHOLE} or {INDEX}, but {directory} has "
            f"only {listing(directory)}. Download it again."
        )
    shards_of = _index(path)
    names = sorted({name for shards in shards_of.values() for name in shards})
    found = read_datasets([Hdf5(need_file(directory, name, source)) for name in names])
    entries = _plain(path, (entry for datasets in found for entry in datasets.values()))
    misplaced = [
        entry.name
        for entry in entries.values()
        if entry.path.name not in shards_of.get(_group(plain_name(entry.name)), ())
    ]
    if misplaced:
        raise CheckpointError(
            f"{path} and its shards contradict each other: {len(misplaced)} datasets are where it "
            f"does not place them: {some(misplaced)}. Download the preset again."
        )
    return KerasWeights(entries, path)


def open_file(path: Path, start: int = 0, size: int | None = None) -> KerasWeights:
    """The weights in one HDF5 file; see `Hdf5`.

    Raises:
        CheckpointError: the file is damaged or hostile.
    """
    (datasets,) = read_datasets([Hdf5(path, start, size)])
    return KerasWeights(_plain(path, datasets.values()), path)


def match_weights(
    config: BartConfig, weights: KerasWeights, config_path: Path
) -> dict[str, TensorEntry]:
    """Name (`bart_onnx.weights`) to dataset, for exactly the weights that a config has.

    Raises:
        CheckpointError: lists what is missing, unexpected, or of a wrong shape or dtype.
    """
    expected = dataset_shapes(config)
    entries = weights.entries
    missing = [name for name in expected if name not in entries]
    unexpected, wrong_shapes, wrong_dtypes = [], [], []
    for name, entry in entries.items():
        if name not in expected:
            unexpected.append(entry.name)
        elif entry.shape != expected[name]:
            wrong_shapes.append(f"{name} {list(entry.shape)}, expected {list(expected[name])}")
        elif entry.dtype not in WEIGHT_DTYPES:
            wrong_dtypes.append(f"{name} {entry.dtype}")
    lists = {
        "missing": missing,
        "unexpected": unexpected,
        "of wrong shape": wrong_shapes,
        f"of a dtype other than {', '.join(WEIGHT_DTYPES.values())}": wrong_dtypes,
    }
    faults = [f"{len(names)} {what}: {some(names)}" for what, names in lists.items() if names]
    if faults:
        raise CheckpointError(
            f"{weights.path} does not fit {config_path}: {'; '.join(faults)}. "
            "Take both from the same preset."
        )
    return {name: entries[dataset_name(name)] for name in weight_shapes(config)}


def _plain(path: Path, found: Iterable[TensorEntry]) -> dict[str, TensorEntry]:
    entries: dict[str, TensorEntry] = {}
    for entry in found:
        if not is_weight(entry.name):
            continue
        other = entries.setdefault(plain_name(entry.name), entry)
        if other is not entry:
            raise CheckpointError(
                f"{path} holds {some([other.name])} and {some([entry.name])}, which are the same "
                "weight; save the preset again."
            )
    return entries


def _group(dataset: str) -> str:
    return dataset.rpartition("/")[0]


def _index(path: Path) -> dict[str, list[str]]:
    """Plain group name ("layers/.../vars") to the shards that hold its datasets."""
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path} must hold a weight_map of groups and file names, found "
            f"{type(weight_map).__name__}; download the preset again."
        )
    shards: dict[str, list[str]] = {}
    for group, value in weight_map.items():
        names = value if isinstance(value, list) else [value]
        for name in names:
            plain = isinstance(name, str) and os.path.basename(name) == name and "\\" not in name
            if not plain or name.startswith(".") or "\0" in name or not name.endswith(SUFFIX):
                raise CheckpointError(
                    f"{path} says that {some([group])} is in {str(name)[:80]!r}; expected the name "
                    f"of a {SUFFIX} file beside it. Download the preset again."
                )
        shards.setdefault(plain_name(group), []).extend(names)
    count = len({name for names in shards.values() for name in names})
    if count > _SHARD_LIMIT:
        raise CheckpointError(
            f"{path} lists {count} shards; expected at most {_SHARD_LIMIT}. "
            "Save the preset in fewer."
        )
    return shards

"""Opens the weight files of a Hugging Face checkpoint: one file, shards, or pickles if allowed.

It knows file names and the index; which tensors a BART has is not its matter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bart_onnx.errors import CheckpointError, MissingFileError
from exporters.checkpoints.local_files import (
    find_file,
    listing,
    need_file,
    read_json_object,
    some,
)
from exporters.checkpoints.pickle_file import ConvertedPickles
from exporters.checkpoints.safetensors_file import TensorEntry, read_header

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


@dataclass(frozen=True)
class OpenWeights:
    """Tensors by their names in the file, the file that names them, and what must outlive them."""

    entries: Mapping[str, TensorEntry]
    path: Path
    converted: ConvertedPickles | None = None

    def close(self) -> None:
        """Remove what was converted; the checkpoint's own files stay."""
        if self.converted is not None:
            self.converted.close()


def open_weights(directory: Path, source: str, allow_pickle: bool) -> OpenWeights:
    """The weights in a directory: safetensors first, then its index, then pickles.

    Raises:
        MissingFileError: there are none, or a shard is missing.
        CheckpointError: a file is damaged, or only pickles are there and they are not allowed.
    """
    path = find_file(directory, SAFETENSORS)
    if path is not None:
        return OpenWeights(read_header(path), path)
    path = find_file(directory, SAFETENSORS_INDEX)
    if path is not None:
        weight_map = _weight_map(path)
        shards = {name: need_file(directory, name, source) for name in set(weight_map.values())}
        return OpenWeights(_join(path, weight_map, shards), path)
    path = find_file(directory, PICKLE) or find_file(directory, PICKLE_INDEX)
    if path is None:
        raise MissingFileError(
            f"Checkpoint {source} has no weights: it needs {SAFETENSORS} or {SAFETENSORS_INDEX}, "
            f"but {directory} has only {listing(directory)}. Download it again, or convert it."
        )
    if not allow_pickle:
        raise CheckpointError(
            f"Checkpoint {source} has its weights only as a pickle ({path.name}), a format that "
            "can run code when it is read, so it is not read unasked. If you trust its author, "
            "pass --allow-pickle (torch then reads it with weights_only=True in a process of its "
            "own), or convert it to safetensors."
        )
    return _from_pickles(directory, source, path)


def _from_pickles(directory: Path, source: str, path: Path) -> OpenWeights:
    weight_map = _weight_map(path) if path.name == PICKLE_INDEX else {}
    names = sorted(set(weight_map.values())) or [path.name]
    pickles = [need_file(directory, name, source) for name in names]
    converted = ConvertedPickles()
    try:
        files = {
            pickle.name: converted.add(pickle, f"{pickle.name}.safetensors") for pickle in pickles
        }
        entries = _join(path, weight_map, files) if weight_map else read_header(files[path.name])
    except BaseException:
        converted.close()
        raise
    return OpenWeights(entries, path, converted)


def _weight_map(path: Path) -> dict[str, str]:
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path} must hold a weight_map of tensor names and file names, found "
            f"{type(weight_map).__name__}; download the checkpoint again."
        )
    suffix = Path(path.name.removesuffix(".index.json")).suffix
    for tensor, name in weight_map.items():
        plain = isinstance(name, str) and os.path.basename(name) == name and "\\" not in name
        if not plain or name.startswith(".") or "\0" in name or not name.endswith(suffix):
            raise CheckpointError(
                f"{path} says that {tensor[:80]!r} is in {str(name)[:80]!r}; expected the name of "
                f"a {suffix} file beside it. Download the checkpoint again."
            )
    return weight_map


def _join(
    path: Path, weight_map: Mapping[str, str], shards: Mapping[str, Path]
) -> dict[str, TensorEntry]:
    headers = {name: read_header(shard) for name, shard in sorted(shards.items())}
    missing = [tensor for tensor, name in weight_map.items() if tensor not in headers[name]]
    unlisted = [
        tensor
        for name, header in headers.items()
        for tensor in header
        if weight_map.get(tensor) != name
    ]
    if missing or unlisted:
        raise CheckpointError(
            f"{path} and its shards contradict each other: tensors that the shards lack: "
            f"{some(missing) or 'none'}; tensors that the index does not place there: "
            f"{some(unlisted) or 'none'}. Download the checkpoint again."
        )
    return {tensor: headers[name][tensor] for tensor, name in weight_map.items()}

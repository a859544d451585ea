"""Bundle: one exported directory, opened for reading. It knows files and hashes, and no session.

    manifest.json           what lies here: files with sizes and sha256, graphs, weights, source
    manifest.sha256         seals the manifest; `sha256sum -c` reads it
    config.json             BartConfig
    generation_config.json  generation defaults under transformers' names
    tokenizer/              the checkpoint's tokenizer files, if it had any
    encoder.onnx  decoder_step.onnx  alignment.onnx  weights.bin
    README.md               the model card

Opening never writes. It checks the seal and the size and sha256 of every file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig
from bart_onnx.errors import (
    BundleDamagedError,
    BundleError,
    BundleFormatError,
    InputError,
    MissingFileError,
)
from bart_onnx.graphs import FP32, graph_specs
from bart_onnx.weights import weight_shapes

FORMAT = "bart_onnx bundle"
FORMAT_VERSION = 2

MANIFEST = "manifest.json"
SEAL = "manifest.sha256"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER = "tokenizer"
CARD = "README.md"

_LARGEST_MANIFEST = 64 << 20
_AGAIN = "Export the checkpoint again, or download the bundle again."


@dataclass(frozen=True)
class Bundle:
    """An exported BART. Make one with `Bundle.open`.

    Attributes:
        path: its directory.
        manifest: the content of manifest.json.
        config: the model's numbers.
        generation_config: generation defaults under transformers' names; empty if none were known.
    """

    path: Path
    manifest: Mapping[str, Any]
    config: BartConfig
    generation_config: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> Bundle:
        """The bundle in the directory `path`.

        Args:
            verify: hash every file; without it only the manifest is, and sizes are compared.

        Raises:
            MissingFileError: the directory, its manifest or a file that it lists is not there.
            BundleDamagedError: a size or hash is not that of the manifest.
            BundleFormatError: another version of bart_onnx wrote it, whose graphs are others.
            BundleError: the manifest is none of ours.
        """
        directory = Path(path)
        manifest = _sealed_manifest(directory)
        _check_format(directory, manifest)
        _check_fields(directory, manifest)
        for name, file in manifest["files"].items():
            _check_file(directory / _plain(name), file, hashed=verify)
        config = _read_json(directory / CONFIG)
        generation_config = _read_json(directory / GENERATION_CONFIG)
        try:
            numbers = BartConfig.from_dict(config)
        except InputError as error:
            raise BundleError(f"{directory / CONFIG}: {error} {_AGAIN}") from error
        bundle = cls(directory, manifest, numbers, generation_config)
        for spec in graph_specs(numbers):
            bundle.graph(spec.name)
        return bundle

    @property
    def precision(self) -> str:
        """The precision that its graphs compute in, for example "fp32"."""
        return str(self.manifest["precision"])

    @property
    def tokenizer_directory(self) -> Path | None:
        """Where its tokenizer files lie, or None if it has none."""
        names = self.manifest["files"]
        has_one = any(PurePosixPath(name).parts[0] == TOKENIZER for name in names)
        return self.path / TOKENIZER if has_one else None

    def graph(self, name: str) -> Path:
        """The ONNX file of a graph that `bart_onnx.graphs` names."""
        file = self.manifest["graphs"].get(name)
        if file not in self.manifest["files"]:
            raise BundleError(f"{self.path} lists no graph {name!r}. {_AGAIN}")
        return self.path / _plain(file)

    def weight(self, name: str) -> NDArray[np.float32]:
        """A weight by its name in `bart_onnx.weights`, mapped from the file, read-only float32.

        Raises:
            BundleError: the bundle has no such weight, or its entry lies outside the file.
        """
        entry = self.manifest["tensors"].get(name)
        if entry is None and self.precision != FP32:
            raise BundleError(
                f"{self.path} holds {name!r} in {self.precision}, from which the weight cannot be "
                "had back. Open the checkpoint, or export it with --precision fp32."
            )
        if entry is None:
            raise BundleError(f"{self.path} has no weight {name!r}.")
        return _view(self.path, name, entry, self.manifest["files"])

    def weight_names(self) -> Iterator[str]:
        """The names of all weights, in the order they were written."""
        return iter(
            self.manifest["tensors"] if self.precision == FP32 else weight_shapes(self.config)
        )


def is_bundle(path: Path) -> bool:
    """Whether a directory holds an exported bundle, damaged or not."""
    return (path / MANIFEST).is_file()


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sealed_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    if not directory.is_dir():
        raise MissingFileError(f"{directory} is no directory. Give the directory of a bundle.")
    if not path.is_file() or not (directory / SEAL).is_file():
        missing = SEAL if path.is_file() else MANIFEST
        raise MissingFileError(f"{directory} is no bundle: it has no {missing}. {_AGAIN}")
    if path.stat().st_size > _LARGEST_MANIFEST:
        raise BundleError(f"{path} has {path.stat().st_size} bytes, more than any manifest.")
    written = (directory / SEAL).read_text(errors="replace").split()
    found = file_sha256(path)
    if not written or written[0] != found:
        raise BundleDamagedError(
            f"{path} has sha256 {found}, but {SEAL} says {' '.join(written) or 'nothing'}. {_AGAIN}"
        )
    return _read_json(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} is missing. {_AGAIN}") from error
    except (ValueError, RecursionError) as error:
        raise BundleDamagedError(f"{path} is not JSON: {error}. {_AGAIN}") from error
    if not isinstance(content, dict):
        raise BundleDamagedError(f"{path} holds no JSON object. {_AGAIN}")
    return content


def _check_format(directory: Path, manifest: Mapping[str, Any]) -> None:
    version = manifest.get("format_version")
    if manifest.get("format") != FORMAT or not isinstance(version, int):
        raise BundleError(f"{directory / MANIFEST} is not the manifest of a {FORMAT}.")
    if version != FORMAT_VERSION:
        remedy = "Remove it, and export the checkpoint again with this version."
        if version > FORMAT_VERSION:
            remedy = "Upgrade bart_onnx, or export the checkpoint with this version."
        raise BundleFormatError(
            f"{directory} has bundle format {version}, written by bart_onnx "
            f"{manifest.get('bart_onnx_version')}; this version reads format {FORMAT_VERSION}. "
            f"{remedy}"
        )


def _check_fields(directory: Path, manifest: Mapping[str, Any]) -> None:
    for field in ("files", "graphs", "tensors", "source"):
        if not isinstance(manifest.get(field), dict):
            raise BundleError(f"{directory / MANIFEST} has no table {field!r}. {_AGAIN}")
    if not isinstance(manifest.get("precision"), str):
        raise BundleError(f"{directory / MANIFEST} names no precision. {_AGAIN}")
    for name, file in manifest["files"].items():
        if not isinstance(file, dict) or not isinstance(file.get("size"), int):
            raise BundleError(f"{directory / MANIFEST}: file {name!r} has no size. {_AGAIN}")
    for name, file in manifest["graphs"].items():
        if not isinstance(file, str):
            raise BundleError(f"{directory / MANIFEST}: graph {name!r} names no file. {_AGAIN}")


def _plain(name: str) -> str:
    """`name`, if it is a plain relative path that stays inside the bundle."""
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts and "\\" not in name
    if not inside or not path.parts or "\0" in name or len(name) > 200:
        raise BundleError(f"The manifest names a file outside the bundle: {name!r}.")
    return name


def _check_file(path: Path, expected: Mapping[str, Any], hashed: bool) -> None:
    if not path.is_file():
        raise MissingFileError(f"{path} is missing, though the manifest lists it. {_AGAIN}")
    size = path.stat().st_size
    if size != expected["size"]:
        raise BundleDamagedError(
            f"{path} has {size} bytes; the manifest says {expected['size']}. {_AGAIN}"
        )
    if not hashed:
        return
    found = file_sha256(path)
    if found != expected.get("sha256"):
        raise BundleDamagedError(
            f"{path} has sha256 {found}; the manifest says {expected.get('sha256')}. {_AGAIN}"
        )


def _view(
    directory: Path, name: str, entry: Mapping[str, Any], files: Mapping[str, Any]
) -> NDArray[np.float32]:
    """The strided float32 view that a manifest entry describes."""
    try:
        file, offset = entry["file"], int(entry["offset"])
        shape = tuple(int(size) for size in entry["shape"])
        strides = tuple(4 * int(stride) for stride in entry["strides"])
        dtype, size = entry["dtype"], int(files[file]["size"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"The manifest's entry of {name!r} is damaged: {error!r}") from None
    sound = dtype == "float32" and 0 < len(shape) == len(strides) and offset >= 0
    sound = sound and min(shape) >= 1 and min(strides) >= 0 and 4 * math.prod(shape) <= size
    steps = zip(shape, strides, strict=False)
    last = offset + sum((count - 1) * stride for count, stride in steps) + 4
    if not sound or last > size:
        raise BundleError(f"The manifest's entry of {name!r} lies outside {file}.")
    mapped = np.memmap(directory / _plain(file), np.uint8, mode="r")
    return np.ndarray(shape, np.float32, mapped, offset, strides)

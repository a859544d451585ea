"""Bundle: one exported directory, opened for reading. It knows files and hashes, and no session.

    manifest.json           what lies here: files with sizes and sha256, graphs, weights, source
    manifest.sha256         seals the manifest; `sha256sum -c` reads it
    config.json             BartConfig
    generation_config.json  generation defaults under transformers' names
    tokenizer/              the checkpoint's tokenizer files, if it had any
    golden.json             requests and what this bundle answered them with; of some bundles
    encoder.onnx  decoder_step.onnx  alignment.onnx  weights.bin
    README.md               the model card

Opening never writes. It checks the seal and the size and sha256 of every file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig
from bart_onnx.errors import BundleError, BundleFormatError, InputError
from bart_onnx.graphs import FP32, graph_specs
from bart_onnx.sealed import (
    MANIFEST,
    check_entries,
    check_file,
    plain,
    read_json,
    readable,
    sealed_manifest,
)
from bart_onnx.weights import weight_shapes

FORMAT = "bart_onnx bundle"
FORMAT_VERSION = 2

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER = "tokenizer"
GOLDEN = "golden.json"
CARD = "README.md"

AGAIN = "Export the checkpoint again, or download the bundle again."


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
        manifest = sealed_manifest(directory, "bundle", AGAIN)
        _check_format(directory, manifest)
        _check_fields(directory, manifest)
        for name, file in manifest["files"].items():
            check_file(directory, name, file, verify, AGAIN)
        config = read_json(directory / CONFIG, AGAIN)
        generation_config = read_json(directory / GENERATION_CONFIG, AGAIN)
        try:
            numbers = BartConfig.from_dict(config)
        except InputError as error:
            raise BundleError(f"{directory / CONFIG}: {error} {AGAIN}") from error
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
            raise BundleError(f"{self.path} lists no graph {name!r}. {AGAIN}")
        return self.path / plain(file)

    def weight(self, name: str) -> NDArray[np.float32]:
        """A weight by its name in `bart_onnx.weights`, mapped from the file, read-only float32.

        Raises:
            BundleError: the bundle has no such weight, or its entry lies outside the file.
        """
        entry = self.manifest["tensors"].get(name)
        if entry is None and self.precision != FP32:
            raise BundleError(
                f"{self.path} holds {name!r:.80} in {self.precision:.80}, from which the weight "
                "cannot be had back. Open the checkpoint, or export it with --precision fp32."
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
    """Whether a directory holds an exported bundle, damaged or not.

    Raises:
        BundleError: nobody may look into it.
    """
    with readable(path):
        return (path / MANIFEST).is_file()


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
            f"{manifest.get('bart_onnx_version')!s:.40}; this version reads format "
            f"{FORMAT_VERSION}. {remedy}"
        )


def _check_fields(directory: Path, manifest: Mapping[str, Any]) -> None:
    for field in ("graphs", "tensors", "source"):
        if not isinstance(manifest.get(field), dict):
            raise BundleError(f"{directory / MANIFEST} has no table {field!r}. {AGAIN}")
    if not isinstance(manifest.get("precision"), str):
        raise BundleError(f"{directory / MANIFEST} names no precision. {AGAIN}")
    check_entries(directory, manifest, AGAIN)
    for name, file in manifest["graphs"].items():
        if not isinstance(file, str):
            raise BundleError(f"{directory / MANIFEST}: graph {name!r:.200} names no file. {AGAIN}")


def _view(
    directory: Path, name: str, entry: Mapping[str, Any], files: Mapping[str, Any]
) -> NDArray[np.float32]:
    """The strided float32 view that a manifest entry describes."""
    try:
        file, offset = entry["file"], _whole(entry["offset"])
        shape = tuple(_whole(size) for size in entry["shape"])
        strides = tuple(4 * _whole(stride) for stride in entry["strides"])
        dtype, size = entry["dtype"], _whole(files[file]["size"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"The manifest's entry of {name!r:.200} is damaged: {error!r:.200}"
        ) from None
    sound = dtype == "float32" and 0 < len(shape) == len(strides) <= 8 and offset >= 0
    sound = sound and min(shape) >= 1 and 4 * math.prod(shape) <= size
    sound = sound and min(strides) >= 0 and max(strides) <= size
    steps = zip(shape, strides, strict=False)
    last = offset + sum((count - 1) * stride for count, stride in steps) + 4
    if not sound or last > size:
        raise BundleError(f"The manifest's entry of {name!r:.200} lies outside {file!s:.200}.")
    mapped = np.memmap(directory / plain(file), np.uint8, mode="r")
    return np.ndarray(shape, np.float32, mapped, offset, strides)


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r:.80} is no whole number")
    return value

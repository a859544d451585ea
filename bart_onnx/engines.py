"""TensorRT engines on disk: which bundle, card and TensorRT each directory is for, and its limits.

    NAME/                   a bundle
    NAME.engines/           beside it, so that the bundle stays what was sealed and may be copied
        KEY/                one card, one TensorRT, one set of limits
            encoder.engine  decoder_step.engine
            manifest.json   manifest.sha256

KEY is the card, TensorRT's flavour and version, and a digest of the bundle's graphs and weights,
the limits and this format: if one of them changes, the engines are others. It knows no TensorRT.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bart_onnx.bundle import Bundle
from bart_onnx.config import BartConfig
from bart_onnx.errors import (
    BundleDamagedError,
    BundleError,
    BundleFormatError,
    DeviceError,
    InputError,
    MissingFileError,
)
from bart_onnx.graphs import DECODER_STEP, ENCODER
from bart_onnx.runners.buckets import QUERY_LENGTHS, length_bucket
from bart_onnx.sealed import MANIFEST, check_entries, check_file, sealed_manifest
from bart_onnx.store import bundle_path, shipped_path

FORMAT = "bart_onnx engines"
# To be raised when the rewrite for TensorRT changes what engines compute, or this file's layout.
FORMAT_VERSION = 1

GRAPHS = (ENCODER, DECODER_STEP)
_WEIGHTS = "weights.bin"
# Tokens that a step may be fed: one, or a piece of a prompt.
_QUERY_LENGTHS = (min(QUERY_LENGTHS), max(QUERY_LENGTHS))
_BATCH = 32
_LARGEST_BATCH = 4096


@dataclass(frozen=True)
class Limits:
    """What engines are built for.

    Attributes:
        max_batch: rows decoded together; more are decoded one part after another.
        max_source: tokens of a source.
        max_tokens: tokens that a row may come to have.
    """

    max_batch: int
    max_source: int
    max_tokens: int

    @classmethod
    def of(
        cls,
        config: BartConfig,
        max_batch: int | None = None,
        max_source: int | None = None,
        max_tokens: int | None = None,
    ) -> Limits:
        """Limits of a model, up to all its positions where none is asked.

        Raises:
            InputError: a limit is below 1 or beyond the model's positions.
        """
        positions = config.max_sequence_length
        source = positions if max_source is None else max_source
        tokens = positions if max_tokens is None else max_tokens
        batch = _BATCH if max_batch is None else max_batch
        for name, value, most in (
            ("--max-batch", batch, _LARGEST_BATCH),
            ("--max-source", source, positions),
            ("--max-tokens", tokens, positions),
        ):
            if not 1 <= value <= most:
                what = "this model's positions" if most == positions else "what is supported"
                raise InputError(f"{name} {value} must be from 1 to {most}, {what}.")
        return cls(batch, source, tokens)

    @property
    def capacity(self) -> int:
        """Tokens that the self caches have room for."""
        return length_bucket(self.max_tokens)

    @property
    def query_lengths(self) -> tuple[int, ...]:
        """The most tokens that a step of each kind is fed."""
        return tuple(sorted({min(length, self.capacity) for length in _QUERY_LENGTHS}))


@dataclass(frozen=True)
class Platform:
    """What an engine runs on and nothing else does: "tensorrt_rtx", its version, and "sm89"."""

    library: str
    version: str
    compute_capability: str

    def __str__(self) -> str:
        return f"{self.compute_capability} with {self.library} {self.version}"


@dataclass(frozen=True)
class Engines:
    """A directory of engines. Make one with `Engines.open`."""

    path: Path
    manifest: Mapping[str, Any]
    limits: Limits
    platform: Platform

    @classmethod
    def open(cls, path: Path, verify: bool = True) -> Engines:
        """The engines in a directory.

        Raises:
            MissingFileError: the directory or one of its files is not there.
            BundleDamagedError: a size or hash is not that of the manifest.
            BundleFormatError: another version of bart_onnx wrote it.
        """
        manifest = sealed_manifest(path, WHAT, AGAIN)
        if manifest.get("format") != FORMAT or manifest.get("format_version") != FORMAT_VERSION:
            raise BundleFormatError(
                f"{path} holds {manifest.get('format')!s:.80} of format "
                f"{manifest.get('format_version')!s:.40}; this version reads {FORMAT} of format "
                f"{FORMAT_VERSION}. {AGAIN}"
            )
        try:
            check_entries(path, manifest, AGAIN)
            limits, platform = Limits(**manifest["limits"]), Platform(**manifest["platform"])
            every = {file_name(graph) for graph in GRAPHS}
            if not every <= set(manifest["files"]):
                raise KeyError("engines")
            if not isinstance(manifest["bundle"]["digest"], str):
                raise TypeError("digest")
        except (BundleError, KeyError, TypeError, ValueError) as error:
            raise BundleDamagedError(
                f"{path / MANIFEST} is no manifest: {error!r:.200}. {AGAIN}"
            ) from None
        for name, file in manifest["files"].items():
            check_file(path, name, file, verify, AGAIN)
        return cls(path, manifest, limits, platform)

    def engine(self, graph: str) -> Path:
        """The serialized engine of a graph that `bart_onnx.graphs` names."""
        return self.path / file_name(graph)

    def check_fits(self, bundle: Bundle, platform: Platform) -> None:
        """That these engines were built from this bundle, for this card and TensorRT.

        Raises:
            DeviceError: they were not; the message says what differs.
        """
        if self.platform != platform:
            raise DeviceError(
                f"{self.path} holds engines for {self.platform}; here is {platform}. Engines run "
                f"only on what they were built for. {_build(bundle)}"
            )
        if self.manifest["bundle"]["digest"] != bundle_digest(bundle):
            raise DeviceError(
                f"{self.path} holds engines of other graphs or weights than {bundle.path}. "
                f"{_build(bundle)}"
            )


WHAT = "directory of engines"
AGAIN = "Remove the directory, and build the engines again."


def file_name(graph: str) -> str:
    """What a graph's engine is called."""
    return f"{graph}.engine"


def engines_directory(bundle: Bundle) -> Path:
    """Where the engines of a bundle lie: beside it.

    Those of a bundle that comes with this package, which may not be writable, lie where it would be
    in the store.
    """
    place, name = bundle.path, str(bundle.manifest["source"].get("name"))
    if shipped_path(name) == place:
        place = bundle_path(name, bundle.precision)
    return place.parent / f"{place.name}.engines"


def bundle_digest(bundle: Bundle) -> str:
    """What tells the graphs and weights of one bundle from those of another, in hexadecimal."""
    files = bundle.manifest["files"]
    names = [bundle.graph(graph).name for graph in GRAPHS]
    hashes = [str(files[name]["sha256"]) for name in (*names, _WEIGHTS) if name in files]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def key(bundle: Bundle, limits: Limits, platform: Platform) -> str:
    """The directory for engines of this bundle, these limits and this platform."""
    what = json.dumps([FORMAT_VERSION, bundle_digest(bundle), asdict(limits), limits.query_lengths])
    digest = hashlib.sha256(what.encode()).hexdigest()[:12]
    return f"{platform.compute_capability}-{platform.library}-{platform.version}-{digest}"


def find_engines(bundle: Bundle, platform: Platform, verify: bool = True) -> Engines:
    """The engines built for a bundle on this platform; those with the largest batch, if several.

    Raises:
        DeviceError: there are none; the message names those that are there, and the command.
        BundleDamagedError, MissingFileError: those that fit are damaged, or none fits and some are
            so damaged that what they are for cannot be told.
    """
    directory = engines_directory(bundle)
    others: list[str] = []
    damage: list[BundleError | MissingFileError] = []
    fitting: list[Engines] = []
    for path in engine_directories(bundle):
        if not (path / MANIFEST).is_file():
            continue
        try:
            found = Engines.open(path, verify=False)
            found.check_fits(bundle, platform)
        except BundleFormatError:
            others.append(f"another version of bart_onnx ({path.name})")
        except (BundleError, MissingFileError) as error:
            damage.append(error)
        except DeviceError:
            others.append(f"{found.platform} ({path.name})")
        else:
            fitting.append(found)
    if damage and not fitting:
        raise damage[0]
    if not fitting:
        there = f"there are engines for {'; '.join(others)}" if others else "there are none"
        raise DeviceError(
            f"No TensorRT engines of {bundle.path} for {platform}: in {directory} {there}. "
            f"{_build(bundle)}"
        )
    best = max(fitting, key=lambda each: tuple(asdict(each.limits).values()))
    return Engines.open(best.path, verify)


def _build(bundle: Bundle) -> str:
    name = str(bundle.manifest["source"].get("name"))
    preset = name if shipped_path(name) == bundle.path else str(bundle.path)
    words = ["python", "-m", "bart_onnx.export", "--preset", preset]
    words += ["--precision", bundle.precision, "--tensorrt"]
    return f"Build them on this machine: {shlex.join(words)}"


def engine_directories(bundle: Bundle) -> Iterator[Path]:
    """The directories beside a bundle that should hold engines, damaged or not."""
    directory = engines_directory(bundle)
    if directory.is_dir():
        # A hidden one is being built, or was when its builder was killed.
        yield from sorted(
            path for path in directory.iterdir() if path.is_dir() and path.name[0] != "."
        )

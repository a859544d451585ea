"""A bundle -> TensorRT engines beside it: rewritten, parsed, checked, built and sealed.

Only the bundle is read; torch has no part in it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from bart_onnx.bundle import Bundle
from bart_onnx.engines import (
    FORMAT,
    FORMAT_VERSION,
    GRAPHS,
    Engines,
    Limits,
    Platform,
    bundle_digest,
    engines_directory,
    file_name,
    key,
)
from bart_onnx.errors import ExportError
from bart_onnx.graph_files import check_graph_file
from bart_onnx.graphs import INT8, GraphSpec, graph_specs
from bart_onnx.publish import claim, publish, seal
from bart_onnx.runners.tensorrt_library import TENSORRT, Library, Messages, logger, tensorrt_library
from bart_onnx.sealed import SEAL, file_sha256
from bart_onnx.store import home
from bart_onnx.version import __version__
from exporters.engines.build import CURRENT, checked_capability, configured, serialized
from exporters.engines.guard import check_network
from exporters.engines.network import Network, parse
from exporters.engines.profiles import Profile, profiles
from exporters.progress import Progress, gigabytes
from exporters.rewrite.tensorrt import use_tensorrt_operators


@dataclass(frozen=True)
class EngineRequest:
    """What engines are asked for; a limit that is None is the model's own.

    Attributes:
        compute_capabilities: "sm89" and the like, or "current" for the GPU that is here.
    """

    compute_capabilities: Sequence[str] = (CURRENT,)
    max_batch: int | None = None
    max_source: int | None = None
    max_tokens: int | None = None


def build_engines(bundle: Bundle, request: EngineRequest, progress: Progress) -> list[Path]:
    """The directories of a bundle's engines, one for each card; those that are there are kept.

    Raises:
        ExportError: the bundle's graphs are none that TensorRT takes, its parser leaves something
            out, it builds no engine, or the place cannot be written to. Nothing was published.
        InputError: a limit or compute capability cannot be had.
        DeviceError: the GPU here is meant, and there is none.
        MissingPackageError: no TensorRT is installed.
    """
    library, names = checked_request(bundle.precision, request)
    limits = Limits.of(bundle.config, request.max_batch, request.max_source, request.max_tokens)
    return [
        _in_place(
            bundle, library, limits, Platform(library.flavour, library.version, name), progress
        )
        for name in names
    ]


def checked_request(precision: str, request: EngineRequest) -> tuple[Library, list[str]]:
    """The TensorRT that builds, and the compute capabilities that are meant.

    Raises:
        ExportError: of this precision no engines are built.
        InputError, DeviceError, MissingPackageError: see `build_engines`.
    """
    if precision == INT8:
        raise ExportError(
            "TensorRT engines are built from fp32, fp16 and bf16 bundles; int8 ones are for CPUs. "
            "Export with --precision fp16 --tensorrt."
        )
    library = tensorrt_library()
    asked = (checked_capability(library, name) for name in request.compute_capabilities)
    return library, list(dict.fromkeys(asked))


def rewritten(bundle: Bundle, spec: GraphSpec, limits: Limits) -> ir.Model:
    """A graph of the bundle as TensorRT takes it."""
    path = bundle.graph(spec.name)
    check_graph_file(path)
    model = ir.load(path)
    use_tensorrt_operators(model, bundle.config, limits.capacity)
    return model


def parsed(
    bundle: Bundle, spec: GraphSpec, limits: Limits, library: Library, builder: Any, said: Messages
) -> Network:
    """A graph of the bundle as TensorRT understood it, checked."""
    model = rewritten(bundle, spec, limits)
    network = parse(library, builder, model, bundle.graph(spec.name), said)
    check_network(network, spec, bundle.config, limits.capacity)
    return network


def _in_place(
    bundle: Bundle, library: Library, limits: Limits, platform: Platform, progress: Progress
) -> Path:
    """The engines for one card, built unless they are there."""
    target = engines_directory(bundle) / key(bundle, limits, platform)
    with claim(target) as staging:
        if (target / SEAL).is_file():
            Engines.open(target).check_fits(bundle, platform)
            progress.say(f"Already built: {target}")
            return target
        started = time.monotonic()
        _fill(staging, bundle, library, limits, platform, progress)
        publish(staging, target)
    progress.say(f"Built in {time.monotonic() - started:.0f} s: {target}")
    return target


def _fill(
    directory: Path,
    bundle: Bundle,
    library: Library,
    limits: Limits,
    platform: Platform,
    progress: Progress,
) -> None:
    """Write sealed engines into an empty directory."""
    said = Messages()
    # The builder borrows the logger for as long as it is there.
    log = logger(library, said)
    builder = library.module.Builder(log)
    shapes: dict[str, list[Profile]] = {}
    for spec in graph_specs(bundle.config, bundle.precision):
        if spec.name not in GRAPHS:
            continue
        progress.say(f"Building the {spec.name} engine for {platform}")
        network = parsed(bundle, spec, limits, library, builder, said)
        shapes[spec.name] = profiles(spec, limits)
        capability = platform.compute_capability
        config = configured(library, builder, network, shapes[spec.name], capability)
        cache = _timing_cache(library, platform)
        engine = serialized(library, builder, network, config, said, cache)
        (directory / file_name(spec.name)).write_bytes(engine)
        progress.say(f"{spec.name}: {gigabytes(engine.nbytes)}")
    seal(directory, _manifest(bundle, limits, platform, shapes), {})


def _manifest(
    bundle: Bundle, limits: Limits, platform: Platform, shapes: dict[str, list[Profile]]
) -> dict[str, Any]:
    source = bundle.manifest["source"]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "bart_onnx_version": __version__,
        "platform": asdict(platform),
        "precision": bundle.precision,
        "limits": asdict(limits),
        "profiles": shapes,
        "bundle": {
            "name": source.get("name"),
            "identity": source.get("identity"),
            "manifest_sha256": file_sha256(bundle.path / "manifest.json"),
            "digest": bundle_digest(bundle),
        },
    }


def _timing_cache(library: Library, platform: Platform) -> Path | None:
    """Where TensorRT remembers how long kernels took; TensorRT-RTX has nothing to remember."""
    if library.flavour != TENSORRT:
        return None
    name = f"{platform.compute_capability}-{platform.library}-{platform.version}.timing"
    return home() / "tensorrt" / name

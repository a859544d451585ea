"""A parsed network and its profiles -> a serialized engine for one card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bart_onnx.durable import replaced
from bart_onnx.errors import DeviceError, ExportError, InputError
from bart_onnx.runners.cuda_driver import compute_capability_here
from bart_onnx.runners.tensorrt_library import TENSORRT_RTX, Library, Messages, listed
from exporters.engines.network import Network
from exporters.engines.profiles import Profile

CURRENT = "current"


def checked_capability(library: Library, asked: str) -> str:
    """The compute capability that is meant, as in "sm89"; "current" is that of the GPU here.

    Raises:
        InputError: this TensorRT builds for no such card.
        DeviceError: the GPU here is meant, and there is none.
    """
    name = asked.lower()
    known = library.compute_capabilities
    if name == CURRENT:
        try:
            name = compute_capability_here()
        except DeviceError as error:
            raise DeviceError(
                f"--compute-capability current is that of the GPU here: {error} Name the card "
                f"instead; {library.name} builds for {listed(known)} without one."
            ) from error
    elif not known and name != compute_capability_here():
        raise InputError(
            f"--compute-capability {asked}: {library.name} builds only for the GPU that is here. "
            "Build on a machine with that card."
        )
    if known and name not in known:
        why = ""
        if name == "sm90" and library.flavour == TENSORRT_RTX:
            why = " An H100 or H200 (sm90) needs full TensorRT there: pip install tensorrt."
        raise InputError(
            f"--compute-capability {asked} is none that {library.name} builds for; it builds for "
            f"{listed(known)}.{why}"
        )
    return name


def configured(
    library: Library,
    builder: Any,
    network: Network,
    profiles: Sequence[Profile],
    capability: str,
) -> Any:
    """A builder configuration for one card, with these profiles."""
    config = builder.create_builder_config()
    # float32 means float32: for speed there are fp16 and bf16.
    config.clear_flag(library.module.BuilderFlag.TF32)
    if library.compute_capabilities:
        config.num_compute_capabilities = 1
        card = library.module.ComputeCapability.__members__[capability.upper()]
        if not config.set_compute_capability(card, 0):
            raise ExportError(f"{library.name} does not take the compute capability {capability}.")
    for shapes in profiles:
        if config.add_optimization_profile(made_profile(builder, network, shapes)) < 0:
            raise ExportError(f"{library.name} does not take the shapes {shapes}.")
    return config


def made_profile(builder: Any, network: Network, shapes: Profile) -> Any:
    """TensorRT's IOptimizationProfile of these shapes."""
    profile = builder.create_optimization_profile()
    for name in network.inputs:
        profile.set_shape(name, *shapes[name])
    return profile


def serialized(
    library: Library,
    builder: Any,
    network: Network,
    config: Any,
    messages: Messages,
    timing_cache: Path | None,
) -> memoryview:
    """The engine.

    Args:
        timing_cache: a file that remembers how long kernels took, made if it is not there; None
            where this TensorRT keeps none.

    Raises:
        ExportError: TensorRT built none; its own words are told.
    """
    if timing_cache is not None:
        known = timing_cache.read_bytes() if timing_cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), False)
    engine = builder.build_serialized_network(network.definition, config)
    if engine is None:
        raise ExportError(
            f"{library.name} built no engine: {messages}. Smaller --max-batch, --max-source or "
            "--max-tokens need less memory. Nothing was published."
        )
    if timing_cache is not None:
        timing_cache.parent.mkdir(parents=True, exist_ok=True)
        with replaced(timing_cache) as file:
            file.write(memoryview(config.get_timing_cache().serialize()))
    return memoryview(engine)

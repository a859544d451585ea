"""Directories of engines that are a few bytes, sealed as the exporter seals them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bart_onnx.bundle import Bundle
from bart_onnx.engines import (
    FORMAT,
    FORMAT_VERSION,
    GRAPHS,
    Limits,
    Platform,
    bundle_digest,
    engines_directory,
    key,
)
from bart_onnx.publish import seal

HERE = Platform("tensorrt_rtx", "1.7.1", "sm89")
LIMITS = Limits(8, 64, 32)


def written(
    bundle: Bundle, platform: Platform = HERE, limits: Limits = LIMITS, **changes: Any
) -> Path:
    """Where they lie, beside the bundle; an engine's bytes are its graph's name.

    Args:
        changes: entries of the manifest that are other than they should be.
    """
    directory = engines_directory(bundle) / key(bundle, limits, platform)
    directory.mkdir(parents=True)
    for graph in GRAPHS:
        (directory / f"{graph}.engine").write_text(graph)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "platform": dataclasses.asdict(platform),
        "limits": dataclasses.asdict(limits),
        "bundle": {"digest": bundle_digest(bundle)},
        **changes,
    }
    seal(directory, manifest, {})
    return directory

"""The plan of an export, in order: checkpoint, weights, graphs, check, publish."""

from __future__ import annotations

import importlib.metadata
import math
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from filelock import FileLock

from bart_onnx.bundle import (
    CARD,
    CONFIG,
    FORMAT,
    FORMAT_VERSION,
    GENERATION_CONFIG,
    TOKENIZER,
    Bundle,
    is_bundle,
)
from bart_onnx.config import BartConfig
from bart_onnx.errors import ExportError
from bart_onnx.graphs import graph_specs
from bart_onnx.publish import seal, staged, write_json
from bart_onnx.store import bundle_path
from bart_onnx.version import __version__
from bart_onnx.weights import weight_shapes
from exporters.card import model_card
from exporters.checkpoints.checkpoint import Checkpoint
from exporters.progress import Progress, cost
from exporters.sources import open_checkpoint
from exporters.trace import trace
from exporters.verify import reference_run, verify
from exporters.weight_file import WEIGHT_FILE, WeightFile, Weights, write_weights

_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime")


def export(
    preset: str,
    output: Path | None = None,
    *,
    precision: str = "fp32",
    allow_pickle: bool = False,
    offline: bool = False,
    show_progress: bool = True,
) -> Path:
    """Export a checkpoint to a bundle and return the bundle's directory.

    Two exports to one place do the work once: the second waits, and takes what the first made.

    Raises:
        ExportError: the output is taken, the disk is full, or the graphs are not what torch
            computes. Nothing was published.
        CheckpointError, MissingFileError, PresetError, DownloadError: see `open_checkpoint`.
    """
    started = time.monotonic()
    progress = Progress(show_progress)
    target = bundle_path(preset, precision) if output is None else output.expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        if is_bundle(target):
            _check_same(Bundle.open(target), preset, precision)
            progress.say(f"Already exported: {target}")
            return target
        checkpoint = open_checkpoint(preset, allow_pickle, offline, progress)
        progress.say(f"Exporting {checkpoint.source}: {cost(checkpoint.weight_bytes)}")
        with closing(checkpoint), staged(target) as staging:
            build(preset, checkpoint, precision, staging, progress)
    seconds = time.monotonic() - started
    progress.say(f"Exported in {seconds:.0f} s: {target}")
    return target


def build(
    preset: str,
    checkpoint: Checkpoint,
    precision: str,
    directory: Path,
    progress: Progress,
    graphs: Bundle | None = None,
) -> None:
    """Fill an empty directory with a sealed bundle that has been checked against torch.

    Args:
        graphs: a bundle of the same config, whose graphs are taken instead of traced again: they
            say where weights lie, and not what they are.

    Raises:
        ExportError: the graphs are not what torch computes.
    """
    config = checkpoint.config
    with progress.bar("Writing weights", checkpoint.weight_bytes) as advance:
        written = write_weights(config, checkpoint.weights, directory, advance)
    for spec in graph_specs(config):
        if graphs is not None and graphs.config == config:
            shutil.copyfile(graphs.graph(spec.name), directory / f"{spec.name}.onnx")
            continue
        progress.say(f"Tracing the {spec.name} graph")
        trace(config, spec, written.stored, directory / f"{spec.name}.onnx")
    write_json(directory / CONFIG, config.to_dict())
    write_json(directory / GENERATION_CONFIG, checkpoint.generation_config)
    for name, path in checkpoint.tokenizer_files.items():
        (directory / TOKENIZER).mkdir(exist_ok=True)
        shutil.copyfile(path, directory / TOKENIZER / name)
    known = {WEIGHT_FILE: written.sha256}
    manifest = _manifest(preset, checkpoint, precision, written)
    seal(directory, manifest, known)
    progress.say("Checking the graphs against the torch module")
    manifest["verification"] = verify(Bundle.open(directory), reference_run(checkpoint))
    (directory / CARD).write_text(model_card(manifest, config), encoding="utf-8")
    seal(directory, manifest, known)


def assemble(
    config: BartConfig, weights: Weights, directory: Path, graphs: Bundle | None = None
) -> None:
    """Fill a new directory with a bundle of weights that are in no file."""
    shapes = weight_shapes(config)
    checkpoint = Checkpoint(
        source="memory",
        format="memory",
        config=config,
        generation_config={},
        weights=weights,
        weight_bytes=sum(4 * math.prod(shape) for shape in shapes.values()),
        source_dtypes=dict.fromkeys(shapes, "float32"),
    )
    with staged(directory) as staging:
        build("memory", checkpoint, "fp32", staging, Progress(shown=False), graphs)


def _manifest(
    preset: str, checkpoint: Checkpoint, precision: str, written: WeightFile
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "bart_onnx_version": __version__,
        "precision": precision,
        "source": {
            "preset": preset,
            "uri": checkpoint.source,
            "format": checkpoint.format,
            "dtypes": dict(checkpoint.source_dtypes),
        },
        "versions": {name: importlib.metadata.version(name) for name in _installed(_TOOLS)},
        "graphs": {spec.name: f"{spec.name}.onnx" for spec in graph_specs(checkpoint.config)},
        "tensors": written.tensors,
    }


def _installed(names: tuple[str, ...]) -> list[str]:
    present = {distribution.name for distribution in importlib.metadata.distributions()}
    return [name for name in names if name in present]


def _check_same(bundle: Bundle, preset: str, precision: str) -> None:
    """Refuse to take another preset's bundle for this one's."""
    source: Mapping[str, Any] = bundle.manifest["source"]
    if source.get("preset") != preset or bundle.precision != precision:
        raise ExportError(
            f"{bundle.path} already holds {source.get('preset')!r} in {bundle.precision}. Remove "
            "it, or choose another output."
        )

"""From a checkpoint to a bundle in an empty directory: weights, graphs, the rest, the check."""

from __future__ import annotations

import importlib.metadata
import math
import shutil
from pathlib import Path
from typing import Any

from bart_onnx.bundle import (
    CARD,
    CONFIG,
    FORMAT,
    FORMAT_VERSION,
    GENERATION_CONFIG,
    TOKENIZER,
    Bundle,
)
from bart_onnx.config import BartConfig
from bart_onnx.graphs import graph_specs
from bart_onnx.publish import seal, staged, write_json
from bart_onnx.tokenizer import BartTokenizer
from bart_onnx.version import __version__
from bart_onnx.weights import weight_shapes
from exporters.card import model_card
from exporters.checkpoints.checkpoint import Checkpoint
from exporters.progress import Progress
from exporters.quality import NOTHING_ASKED, Terms, measure
from exporters.trace import trace
from exporters.verify import reference_run, verify
from exporters.weight_file import WEIGHT_FILE, WeightFile, Weights, write_weights

_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime")


def build(
    name: str,
    identity: str,
    checkpoint: Checkpoint,
    precision: str,
    directory: Path,
    progress: Progress,
    graphs: Bundle | None = None,
    terms: Terms = NOTHING_ASKED,
) -> None:
    """Fill an empty directory with a sealed bundle that has been checked against torch.

    Args:
        name: what the source is called, for people.
        terms: what is allowed of a precision that loses something.
        identity: `store.identity` of the source.
        graphs: a bundle of the same config, whose graphs are taken instead of traced again: they
            say where weights lie, and not what they are.

    Raises:
        ExportError: the graphs are not what torch computes, or lose more than allowed.
        CheckpointError, InputError, MissingFileError: the tokenizer's files cannot be used.
    """
    config = checkpoint.config
    _copy_tokenizer(checkpoint, directory)
    with progress.bar("Writing weights", checkpoint.weight_bytes) as advance:
        written = write_weights(config, checkpoint.weights, directory, advance, precision)
    for spec in graph_specs(config, precision):
        if graphs is not None and graphs.config == config:
            shutil.copyfile(graphs.graph(spec.name), directory / f"{spec.name}.onnx")
            continue
        progress.say(f"Tracing the {spec.name} graph")
        trace(config, spec.name, written.stored, directory / f"{spec.name}.onnx", precision)
    write_json(directory / CONFIG, config.to_dict())
    write_json(directory / GENERATION_CONFIG, checkpoint.generation_config)
    known = {WEIGHT_FILE: written.sha256}
    manifest = _manifest(name, identity, checkpoint, precision, written)
    seal(directory, manifest, known)
    progress.say("Checking the graphs against the torch module")
    bundle = Bundle.open(directory, verify=False)
    if precision == "fp32":
        manifest["verification"] = verify(bundle, reference_run(checkpoint))
    else:
        manifest["quality"] = measure(bundle, checkpoint, terms, progress)
    (directory / CARD).write_text(model_card(manifest, config), encoding="utf-8")
    seal(directory, manifest, known)


def assemble(
    config: BartConfig, weights: Weights, directory: Path, graphs: Bundle | None = None
) -> None:
    """Make a directory that holds a bundle of weights that are in no file.

    Args:
        graphs: see `build`; its generation config is taken too.
    """
    shapes = weight_shapes(config)
    checkpoint = Checkpoint(
        source="memory",
        format="memory",
        config=config,
        generation_config={} if graphs is None else graphs.generation_config,
        weights=weights,
        weight_bytes=sum(4 * math.prod(shape) for shape in shapes.values()),
        source_dtypes=dict.fromkeys(shapes, "float32"),
    )
    with staged(directory) as staging:
        build("memory", "memory", checkpoint, "fp32", staging, Progress(shown=False), graphs)


def _copy_tokenizer(checkpoint: Checkpoint, directory: Path) -> None:
    """Copy the tokenizer's files and read them once: a bundle that cannot generate is none."""
    if not checkpoint.tokenizer_files:
        return
    (directory / TOKENIZER).mkdir()
    for name, path in checkpoint.tokenizer_files.items():
        shutil.copyfile(path, directory / TOKENIZER / name)
    BartTokenizer.from_files(directory / TOKENIZER)


def _manifest(
    name: str, identity: str, checkpoint: Checkpoint, precision: str, written: WeightFile
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "bart_onnx_version": __version__,
        "precision": precision,
        "source": {
            "name": name,
            "identity": identity,
            "uri": checkpoint.source,
            "format": checkpoint.format,
            "dtypes": dict(checkpoint.source_dtypes),
        },
        "versions": {tool: importlib.metadata.version(tool) for tool in _installed(_TOOLS)},
        "graphs": {spec.name: f"{spec.name}.onnx" for spec in graph_specs(checkpoint.config)},
        "tensors": written.tensors,
    }


def _installed(names: tuple[str, ...]) -> list[str]:
    present = {distribution.name for distribution in importlib.metadata.distributions()}
    return [name for name in names if name in present]

"""The one door from the runtime to the exporters. It knows how to ask, and what to say when asked
in vain: where torch is not installed, nothing here can build.
"""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.bundle import Bundle, is_bundle
from bart_onnx.config import BartConfig
from bart_onnx.errors import InputError, MissingPackageError
from bart_onnx.locate import check_preset, find_bundle
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.store import preset_path, shipped_path
from bart_onnx.training_options import OptimizerOptions

_NEEDED = ("torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "h5py", "tqdm")


def export_bundle(
    preset: str,
    output: Path | None = None,
    precision: str = "fp32",
    allow_pickle: bool = False,
    offline: bool = False,
    show_progress: bool = True,
    examples: Path | None = None,
    accept_quality_loss: bool = False,
) -> Bundle:
    """Export a checkpoint and open what came of it.

    Args:
        preset: a built-in name, `hf://org/name[@revision]`, or the directory of a checkpoint.
        output: the bundle's directory; None means its place in the store.
        allow_pickle: read pickled weights where there are no others, in a process of their own.
        offline: take downloads from the hub's cache only.
        show_progress: say on standard error what is done, and how far it is.
        examples: JSONL of texts and summaries to measure on what int8 loses.
        accept_quality_loss: publish it even if that is more than allowed.

    Raises:
        MissingPackageError: what exporting needs is not installed; the message has the command.
        ExportError, CheckpointError, PresetError, DownloadError: nothing was published.
    """
    check_preset(preset)
    missing = missing_packages()
    if missing:
        raise MissingPackageError(
            f"Preset {preset!r} has no {precision} bundle here, and to export one needs "
            f"{', '.join(missing)}. On a machine where they may be installed, run:\n"
            '    pip install "bart_onnx[cpu,export,hub]"\n'
            f"    {export_command(preset, precision, output)}"
        )
    from exporters.export import export

    return Bundle.open(
        export(
            preset,
            output,
            precision=precision,
            allow_pickle=allow_pickle,
            offline=offline,
            show_progress=show_progress,
            examples=examples,
            accept_quality_loss=accept_quality_loss,
        )
    )


def export_engines(
    preset: str,
    output: Path | None = None,
    precision: str = "fp32",
    compute_capabilities: Sequence[str] = (),
    max_batch: int | None = None,
    max_source: int | None = None,
    max_tokens: int | None = None,
    **options: Any,
) -> tuple[Bundle, list[Path]]:
    """The bundle of a preset, exported if there is none, and TensorRT engines of it.

    Args:
        compute_capabilities: the cards, as in "sm89"; none means the GPU that is here.
        max_batch, max_source, max_tokens: see `bart_onnx.engines.Limits`.
        options: what `export_bundle` takes besides.

    Raises:
        MissingPackageError: TensorRT, or what exporting needs, is not installed.
        InputError: a limit or a compute capability that cannot be had.
        DeviceError: the GPU here is meant, and there is none.
        ExportError, CheckpointError, PresetError, DownloadError: see `export_bundle`.
    """
    check_preset(preset)
    missing = missing_packages()
    if missing:
        raise MissingPackageError(
            f"To build engines one needs {', '.join(missing)}. Install them with: "
            'pip install "bart_onnx[cpu,export,tensorrt]"'
        )
    from exporters.progress import Progress
    from exporters.tensorrt import EngineRequest, build_engines, checked_request

    cards = tuple(compute_capabilities) or EngineRequest.compute_capabilities
    request = EngineRequest(cards, max_batch, max_source, max_tokens)
    # What is asked in vain is said before an export of minutes.
    checked_request(precision, request)
    found = None if output is not None else _bundle_at(preset, precision)
    bundle = found or export_bundle(preset, output, precision, **options)
    return bundle, build_engines(bundle, request, Progress(options.get("show_progress", True)))


def export_triton(
    preset: str,
    output: Path,
    name: str,
    precision: str = "fp32",
    offline: bool = False,
    **options: Any,
) -> list[Path]:
    """Models for Triton in the repository `output`, of a preset's bundle; it is exported if needed.

    Args:
        name: what the models are called.
        options: what `export_bundle` takes besides.

    Raises:
        ExportError: a model of that name is there, or the disk is full.
        MissingPackageError, CheckpointError, PresetError, DownloadError: see `export_bundle`.
    """
    bundle = find_bundle(preset, precision, offline)
    if bundle is None:
        bundle = export_bundle(preset, None, precision, offline=offline, **options)
    from exporters.triton_layout import write_models

    return write_models(bundle, name, output)


def _bundle_at(preset: str, precision: str) -> Bundle | None:
    """The bundle that a preset itself is, in this precision; None where it is none."""
    path = shipped_path(preset) or preset_path(preset)
    bundle = Bundle.open(path) if path is not None and is_bundle(path) else None
    return bundle if bundle is not None and bundle.precision == precision else None


def assemble_bundle(
    config: BartConfig,
    weights: Mapping[str, Callable[[], NDArray[np.float32]]],
    directory: Path,
    graphs: Bundle | None = None,
) -> Bundle:
    """A bundle of weights that are in no file, in a directory that does not exist yet.

    Args:
        weights: by their names in `bart_onnx.weights`.
        graphs: what the weights were in before: its graphs need not be traced again, and its
            generation config is taken.

    Raises:
        MissingPackageError: what exporting needs is not installed; the message has the command.
        ExportError: the weights hold a NaN.
    """
    missing = missing_packages()
    if missing:
        raise MissingPackageError(
            "To run a BART that is in no bundle yet, its graphs have to be built, which needs "
            f'{", ".join(missing)}. Install them with: pip install "bart_onnx[cpu,export]"'
        )
    from exporters.assembly import assemble

    assemble(config, weights, directory, graphs)
    return Bundle.open(directory)


def save_preset(
    format: str,
    directory: Path,
    config: BartConfig,
    weights: Mapping[str, Callable[[], NDArray[np.float32]]],
    preprocessor: BartSeq2SeqLMPreprocessor | None,
    generation_config: Mapping[str, Any],
    tokenizer_json: Path | None,
    max_shard_size: float,
) -> None:
    """Write a model in the layout of "keras" or "huggingface".

    Raises:
        InputError: another format, or what a Keras preset cannot hold; it is named.
        ExportError: the directory has something in it, or cannot be written.
        MissingPackageError: h5py is not installed.
    """
    formats = ("keras", "huggingface")
    if format not in formats:
        raise InputError(f"format is {format!r}; formats: {', '.join(formats)}.")
    if importlib.util.find_spec("h5py") is None:
        raise MissingPackageError('To save, h5py is needed: pip install "bart_onnx[export]"')
    from exporters.checkpoints import hugging_face_writer, keras_writer

    tokenizer = preprocessor.tokenizer if preprocessor is not None else None
    if format == "huggingface":
        hugging_face_writer.write(
            directory,
            config,
            weights,
            tokenizer,
            generation_config=generation_config,
            tokenizer_json=tokenizer_json,
            max_shard_size=max_shard_size,
        )
        return
    keras_writer.write(
        directory,
        config,
        weights,
        tokenizer,
        encoder_sequence_length=getattr(preprocessor, "encoder_sequence_length", None),
        decoder_sequence_length=getattr(preprocessor, "decoder_sequence_length", None),
        generation_config=generation_config,
        max_shard_size=max_shard_size,
    )


def open_training(
    config: BartConfig,
    weights: Mapping[str, Callable[[], NDArray[np.float32]]],
    optimizer: OptimizerOptions,
) -> Any:
    """A torch module with these weights and an optimizer: `exporters.training.session.Session`.

    Raises:
        MissingPackageError: torch is not installed; the message has the command.
    """
    missing = missing_packages()
    if missing:
        raise MissingPackageError(
            f"Training needs {', '.join(missing)}. Install them with: "
            'pip install "bart_onnx[cpu,export]"'
        )
    from exporters.training.session import Session

    return Session(config, weights, optimizer)


def training_callbacks(on_batch_end: Callable[..., None], on_epoch_end: Callable[..., None]) -> Any:
    """Functions for the trainer to call; see `exporters.training.trainer.Callbacks`."""
    from exporters.training.trainer import Callbacks

    return Callbacks(on_batch_end, on_epoch_end)


def missing_packages() -> list[str]:
    """What exporting and training need and is not installed."""
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def export_command(preset: str, precision: str, output: Path | None = None) -> str:
    """The shell command that exports this preset."""
    words = ["python", "-m", "bart_onnx.export", "--preset", preset, "--precision", precision]
    return shlex.join(words + (["--output", str(output)] if output else []))

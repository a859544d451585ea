"""From a preset to the Checkpoint it names: downloads it where it must, and picks its reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bart_onnx import hub, kaggle
from bart_onnx.bundle import is_bundle
from bart_onnx.errors import BartOnnxError, CheckpointError, MissingFileError, PresetError
from bart_onnx.presets import PRESETS
from bart_onnx.store import shipped_path, user_path
from exporters.checkpoints import bundle, hugging_face, keras
from exporters.checkpoints.checkpoint import Checkpoint
from exporters.checkpoints.local_files import read_json_object
from exporters.progress import Progress, cost, gigabytes


def open_checkpoint(
    preset: str, allow_pickle: bool, offline: bool, progress: Progress
) -> Checkpoint:
    """The checkpoint of a built-in name, a `hf://` or `kaggle://` URI, a directory or a file.

    Of a built-in name, the first of its sources that can be had and read.

    Raises:
        CheckpointError: the files are damaged, contradict each other or are no BART.
        MissingFileError, PresetError, DownloadError: the files could not be had.
    """
    shipped = shipped_path(preset)
    if shipped is not None:
        return bundle.read(shipped)
    if preset not in PRESETS:
        return _open_source(preset, allow_pickle, offline, progress)
    failures: list[str] = []
    for source in PRESETS[preset].sources:
        if failures:
            progress.say(f"Trying {source} instead of {failures[-1]}")
        try:
            return _open_source(source, allow_pickle, offline, progress)
        except BartOnnxError as error:
            failures.append(f"{source}: {error}")
    raise PresetError(f"No source of preset {preset!r} could be read.\n" + "\n".join(failures))


def _open_source(source: str, allow_pickle: bool, offline: bool, progress: Progress) -> Checkpoint:
    if kaggle.is_kaggle_uri(source):
        if not offline:
            progress.say(f"Downloading {source} through kagglehub")
        found = kaggle.download(source, offline=offline)
        checkpoint = read_directory(found.directory, str(found.uri), allow_pickle)
        return _with_generation_config(checkpoint, found.uri)
    if not hub.is_hub_uri(source):
        path = user_path(source)
        # Its name alone: where it lay is nobody's business who gets the bundle.
        return _read_path(path, path.resolve().name, allow_pickle)
    if not offline:
        size = hub.download_size(source, allow_pickle=allow_pickle)
        progress.say(
            f"Downloading {gigabytes(size.missing)} of {source}. To export it: {cost(size.needed)}"
        )
    snapshot = hub.download_checkpoint(source, allow_pickle=allow_pickle, offline=offline)
    return read_directory(snapshot.directory, f"{source} at {snapshot.revision}", allow_pickle)


def _with_generation_config(checkpoint: Checkpoint, uri: kaggle.KaggleUri) -> Checkpoint:
    """With that of the built-in preset of which this is a version, where it has none itself."""
    variant = f"{replace(uri, version=None)}/"
    for preset in PRESETS.values():
        if any(source.startswith(variant) for source in preset.sources):
            own = checkpoint.generation_config or dict(preset.generation_config)
            return replace(checkpoint, generation_config=own)
    return checkpoint


def _read_path(path: Path, source: str, allow_pickle: bool) -> Checkpoint:
    if path.is_file() and path.name.endswith(".keras"):
        return keras.read_archive(path, source=source)
    if path.is_file() and path.name.endswith(".weights.h5"):
        return keras.read_weights_file(path, source=source)
    return read_directory(path, source, allow_pickle)


def read_directory(directory: Path, source: str, allow_pickle: bool) -> Checkpoint:
    """The checkpoint in a directory; what lies there decides who reads it."""
    if is_bundle(directory):
        return bundle.read(directory)
    config = directory / "config.json"
    if not config.is_file():
        raise MissingFileError(
            f"{directory} holds no checkpoint: it has no config.json. Give the directory that "
            "config.json and the weights are in (model.safetensors or model.weights.h5)."
        )
    if _is_keras(config):
        return keras.read(directory, source=source)
    return hugging_face.read(directory, source=source, allow_pickle=allow_pickle)


def _is_keras(config: Path) -> bool:
    try:
        return keras.is_preset(read_json_object(config))
    except CheckpointError:
        return False  # the reader that is asked next says what is wrong with it

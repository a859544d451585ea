"""From a preset to the Checkpoint it names: downloads it where it must, and picks its reader."""

from __future__ import annotations

import json
from pathlib import Path

from bart_onnx import hub
from bart_onnx.bundle import is_bundle
from bart_onnx.errors import BartOnnxError, CheckpointError, MissingFileError, PresetError
from bart_onnx.presets import PRESETS
from exporters.checkpoints import bundle, hugging_face
from exporters.checkpoints.checkpoint import Checkpoint
from exporters.progress import Progress, cost, gigabytes


def open_checkpoint(
    preset: str, allow_pickle: bool, offline: bool, progress: Progress
) -> Checkpoint:
    """The checkpoint of a built-in name, a `hf://` URI or a directory.

    Raises:
        CheckpointError: the files are damaged, contradict each other or are no BART.
        MissingFileError, PresetError, DownloadError: the files could not be had.
    """
    if preset not in PRESETS:
        return _open_source(preset, allow_pickle, offline, progress)
    failures = []
    for source in PRESETS[preset].sources:
        try:
            return _open_source(source, allow_pickle, offline, progress)
        except BartOnnxError as error:
            failures.append(f"{source}: {error}")
    raise PresetError(f"No source of preset {preset!r} could be read.\n" + "\n".join(failures))


def _open_source(source: str, allow_pickle: bool, offline: bool, progress: Progress) -> Checkpoint:
    if not hub.is_hub_uri(source):
        return read_directory(Path(source).expanduser(), source, allow_pickle)
    if not offline:
        size = hub.download_size(source, allow_pickle=allow_pickle)
        progress.say(f"Downloading {gigabytes(size)} of {source}. To export it: {cost(size)}")
    snapshot = hub.download_checkpoint(source, allow_pickle=allow_pickle, offline=offline)
    return read_directory(snapshot.directory, f"{source} at {snapshot.revision}", allow_pickle)


def read_directory(directory: Path, source: str, allow_pickle: bool) -> Checkpoint:
    """The checkpoint in a directory; what lies there decides who reads it."""
    if is_bundle(directory):
        return bundle.read(directory)
    config = directory / "config.json"
    if not config.is_file():
        raise MissingFileError(
            f"{directory} holds no checkpoint: it has no config.json. Give the directory that "
            "config.json and model.safetensors are in."
        )
    if _is_keras(config):
        raise CheckpointError(
            f"{directory} is a Keras preset, which this version does not read. Give a checkpoint "
            "in Hugging Face's layout."
        )
    return hugging_face.read(directory, source=source, allow_pickle=allow_pickle)


def _is_keras(config: Path) -> bool:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False  # the reader that is asked next says what is wrong with it
    return isinstance(content, dict) and "registered_name" in content

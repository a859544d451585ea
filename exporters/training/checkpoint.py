"""One file that a training run continues from: tensors, with the run's position as JSON beside.

It is replaced whole, so a kill at any moment leaves the old one or the new one. It knows no model.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bart_onnx.durable import make_directory, sync
from bart_onnx.errors import CheckpointError, InputError, TrainingStateError
from bart_onnx.json_objects import parse_object

STATE_FILE = "training_state.safetensors"
_FORMAT = "bart_onnx training state"
_VERSION = 1
_KEY = "run"
# safetensors writes into files of names of its own beside the one that it is asked for.
_UNFINISHED = ".training_state.unfinished"


@dataclass(frozen=True)
class SavedRun:
    """What was saved.

    Attributes:
        tensors: by name.
        position: how far the run is, and its history; JSON.
        terms: what a run that continues must share; JSON.
    """

    tensors: Mapping[str, Tensor]
    position: Mapping[str, Any]
    terms: Mapping[str, Any]


def save_run(directory: Path, run: SavedRun) -> None:
    """Replace the directory's training state by `run`; it is on the disk when this returns.

    Raises:
        TrainingStateError: the disk is full or not writable. The old state is still there; the new
            one, if the disk only did not confirm its name, which the message says.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in run.tensors.items()}
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "position": run.position,
        "terms": run.terms,
    }
    try:
        make_directory(directory)
        _replace(directory, tensors, {_KEY: json.dumps(content)})
    except (OSError, SafetensorError) as error:
        size = sum(tensor.nbytes for tensor in tensors.values())
        raise TrainingStateError(_explain(error, directory, size)) from error
    try:
        sync(directory)
    except OSError as error:
        raise TrainingStateError(
            f"The training state was saved in {directory}, but the disk did not confirm its name: "
            f"{error}. Look after that disk, and call fit again to continue."
        ) from error


def load_run(directory: Path, device: torch.device) -> SavedRun | None:
    """What `save_run` left in the directory; None if nothing. It writes nothing there.

    Raises:
        CheckpointError: the file is damaged, or another version of this package wrote it.
    """
    path = directory / STATE_FILE
    try:
        if not path.exists():
            return None
        with safe_open(path, framework="pt", device=str(device)) as file:
            content = parse_object((file.metadata() or {}).get(_KEY, "{}").encode())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (InputError, OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is no training state that can be read: {error}. Remove it to train from the "
            "start."
        ) from error
    if content.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} is no training state of this package. Choose another directory."
        )
    if content.get("version") != _VERSION:
        raise CheckpointError(
            f"{path} has version {content.get('version')!r:.40}, this package reads {_VERSION}. "
            "Continue with the version that began, or choose another directory."
        )
    position, terms = content.get("position"), content.get("terms")
    if not isinstance(position, dict) or not isinstance(terms, dict):
        raise CheckpointError(
            f"{path} does not say how far its run is, or on what terms. Remove it to train from "
            "the start."
        )
    return SavedRun(tensors, position, terms)


def clean_up(directory: Path) -> None:
    """Remove what a run that was killed left of a state, for the run that goes on from there."""
    shutil.rmtree(directory / _UNFINISHED, ignore_errors=True)


def check_terms(directory: Path, saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to continue a run with other data, another model or other options.

    Raises:
        InputError: they differ; the message says in what.
    """
    # Through JSON, so that a tuple equals the list that it was saved as.
    asked = json.loads(json.dumps(asked))
    differing = [
        f"{name:.40} was {saved.get(name)!r:.200} and is {asked.get(name)!r:.200}"
        for name in sorted({*saved, *asked})
        if saved.get(name) != asked.get(name)
    ]
    if differing:
        raise InputError(
            f"{directory} holds a run that began otherwise: {'; '.join(differing):.2000}. Give "
            "what it began with to continue it, or another directory to begin anew."
        )


def _replace(directory: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Put a new state in the place of the old one, and leave nothing else, nor of one killed."""
    unfinished = directory / _UNFINISHED
    try:
        unfinished.mkdir(exist_ok=True)
        save_file(dict(tensors), unfinished / STATE_FILE, metadata=metadata)
        sync(unfinished / STATE_FILE)
        os.replace(unfinished / STATE_FILE, directory / STATE_FILE)
    finally:
        clean_up(directory)


def _explain(error: Exception, directory: Path, size: int) -> str:
    room = ""
    with suppress(OSError):  # what failed may fail again
        place = next(path for path in (directory, *directory.parents) if path.exists())
        room = f", where {shutil.disk_usage(place).free:,} bytes are free"
    return (
        f"The training state, {size:,} bytes, could not be saved in {directory}{room}: {error}. "
        "What was saved there before is as it was; free some space, and call fit again to "
        "continue from there."
    )

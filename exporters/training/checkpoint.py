"""One file that a training run continues from: tensors, with the run's position as JSON beside.

It is replaced whole, so a kill at any moment leaves the old one or the new one. It knows no model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bart_onnx.errors import CheckpointError, InputError

STATE_FILE = "training_state.safetensors"
_FORMAT = "bart_onnx training state"
_VERSION = 1
_KEY = "run"


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
        OSError: the disk is full or not writable. The old state is still there; the new one, if
            the disk only did not confirm its name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "position": run.position,
        "terms": run.terms,
    }
    target = directory / STATE_FILE
    unfinished = directory / f".{STATE_FILE}.unfinished"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in run.tensors.items()}
    save_file(tensors, unfinished, metadata={_KEY: json.dumps(content)})
    _sync(unfinished)
    os.replace(unfinished, target)
    _sync(directory)


def load_run(directory: Path, device: torch.device) -> SavedRun | None:
    """What `save_run` left in the directory; None if nothing.

    Raises:
        CheckpointError: the file is damaged, or another version of this package wrote it.
    """
    path = directory / STATE_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            content = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no training state that can be read: {error}. Remove it to train from the "
            "start."
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} is no training state of this package. Choose another directory."
        )
    if content.get("version") != _VERSION:
        raise CheckpointError(
            f"{path} has version {content.get('version')!r}, this package reads {_VERSION}. "
            "Continue with the version that began, or choose another directory."
        )
    return SavedRun(tensors, content["position"], content["terms"])


def check_terms(directory: Path, saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to continue a run with other data, another model or other options.

    Raises:
        InputError: they differ; the message says in what.
    """
    # Through JSON, so that a tuple equals the list that it was saved as.
    asked = json.loads(json.dumps(asked))
    differing = [
        f"{name} was {saved.get(name)!r} and is {asked.get(name)!r}"
        for name in sorted({*saved, *asked})
        if saved.get(name) != asked.get(name)
    ]
    if differing:
        raise InputError(
            f"{directory} holds a run that began otherwise: {'; '.join(differing)}. Give what it "
            "began with to continue it, or another directory to begin anew."
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

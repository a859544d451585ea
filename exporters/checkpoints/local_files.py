"""Finds a checkpoint's files without leaving its directory, and reads its small JSON files.

It knows nothing of what a file says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bart_onnx.errors import CheckpointError, InputError, MissingFileError
from bart_onnx.file_places import fault_of
from bart_onnx.json_objects import parse_object, read_object

# A BART's config.json has some kB, a vocabulary of 50,000 tokens 1 MB.
JSON_LIMIT = 4 << 20


def open_directory(directory: Path, source: str) -> Path:
    """The directory's real path.

    Raises:
        MissingFileError: there is none.
    """
    try:
        real = Path(directory).resolve(strict=True)
    except (OSError, RuntimeError):
        real = None
    if real is None or not real.is_dir():
        raise MissingFileError(
            f"Checkpoint {source} was asked for, but {str(directory)!r} is no directory; "
            "name a directory that holds config.json and the weights."
        )
    return real


def find_file(directory: Path, name: str) -> Path | None:
    """The file `name` of a directory (a real path), or None.

    Links are followed inside the directory and, where it is a snapshot in Hugging Face's cache,
    into that repository's folder and the cache's shared blobs.

    Raises:
        CheckpointError: the file is no regular file, or a link leads elsewhere.
    """
    path = directory / name
    if not os.path.lexists(path):
        return None
    fault = fault_of(directory, name)
    if fault is not None:
        raise CheckpointError(
            f"{path} {fault}; download the checkpoint again, or copy the file there if you "
            "trust it."
        )
    return path


def need_file(directory: Path, name: str, source: str) -> Path:
    """The file `name` of a directory.

    Raises:
        MissingFileError: it is not there.
        CheckpointError: as `find_file`.
    """
    path = find_file(directory, name)
    if path is None:
        raise MissingFileError(
            f"Checkpoint {source} needs {name:.80}, but {directory} has only {listing(directory)}; "
            "name a checkpoint's own directory, or download it again."
        )
    return path


def listing(directory: Path) -> str:
    """The names in a directory, for a message."""
    return some(sorted(path.name for path in directory.iterdir())) or "no files"


def some(names: Sequence[str], limit: int = 8) -> str:
    """The first few names, for a message: none of them can fill a screen or control it."""
    shown = [name if name.isprintable() and len(name) <= 120 else repr(name[:80]) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(shown[:limit]) + more


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: it is larger than 4 MiB, no JSON, or no object; or as `parse_object`.
    """
    try:
        return read_object(path, JSON_LIMIT)
    except InputError as error:
        raise CheckpointError(f"{path} {error}; download the checkpoint again.") from None


def parse_json_object(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`, which `what` names for a message.

    Raises:
        CheckpointError: it is no JSON or no object; or as `parse_object`.
    """
    try:
        return parse_object(data, JSON_LIMIT)
    except InputError as error:
        raise CheckpointError(f"{what} {error}; download the checkpoint again.") from None

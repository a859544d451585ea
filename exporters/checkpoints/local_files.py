"""Finds a checkpoint's files without leaving its directory, and reads its small JSON files.

It knows where Hugging Face's cache keeps what its links point to, and nothing of what a file says.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bart_onnx.errors import CheckpointError, MissingFileError

# A BART's config.json has some kB. Python objects take up to 22 times the text ("[],[],..."),
# so 4 MiB keep a hostile file under 100 MB.
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
    try:
        target = path.resolve(strict=True)
        mode = target.stat().st_mode
    except FileNotFoundError:
        if not path.is_symlink():
            return None
        raise CheckpointError(
            f"{path} is a link to a file that is not there; download the checkpoint again."
        ) from None
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be opened: {error}.") from error
    if not any(target.is_relative_to(root) for root in _roots(directory)):
        raise CheckpointError(
            f"{path} is a link to {target}, outside the checkpoint's directory; "
            "copy the file there if you trust it."
        )
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} must be a file, but it is a directory, pipe or device.")
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
            f"Checkpoint {source} needs {name}, but {directory} has only {listing(directory)}; "
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
        CheckpointError: it is larger than 4 MiB, no JSON, or no object.
    """
    with path.open("rb") as file:
        data = file.read(JSON_LIMIT + 1)
    if len(data) > JSON_LIMIT:
        raise CheckpointError(
            f"{path} has {path.stat().st_size} bytes; a checkpoint's JSON file has at most "
            f"{JSON_LIMIT}."
        )
    return parse_json_object(data, str(path))


def parse_json_object(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`, which `what` names for a message.

    Raises:
        CheckpointError: it is no JSON or no object.
    """
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{what} is not valid JSON ({error}); download the checkpoint again."
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{what} must hold a JSON object, found {type(value).__name__}; "
            "download the checkpoint again."
        )
    return value


def _roots(directory: Path) -> list[Path]:
    # <cache>/models--org--name/snapshots/<commit>/FILE -> ../../blobs/<hash>, which may itself be a
    # link to <cache>/blobs/<xx>/<hash>, the store that all repositories of the cache share.
    repository = directory.parent.parent
    if directory.parent.name == "snapshots" and repository.name.startswith("models--"):
        return [directory, repository / "blobs", repository.parent / "blobs"]
    return [directory]

"""Where a file of a directory really lies: inside it, or where a link to elsewhere leads.

It knows where Hugging Face's cache keeps what its links point to, and nothing of what a file says.
"""

from __future__ import annotations

import stat
from pathlib import Path


def fault_of(directory: Path, name: str) -> str | None:
    """What is wrong with the file `name` of a directory, for a message; None where nothing is.

    Links are followed inside the directory and, where it is a snapshot in Hugging Face's cache,
    into that repository's folder and the cache's shared blobs. A hard link is the file itself:
    installers make them, and nothing tells them from other files.
    """
    path = directory / name
    try:
        target = path.resolve(strict=True)
        mode = target.stat().st_mode
        roots = [root := directory.resolve(strict=True), *_stores(root)]
    except FileNotFoundError:
        return "is a link to a file that is not there" if path.is_symlink() else "is not there"
    except (OSError, RuntimeError, ValueError) as error:
        return f"cannot be opened: {error}"
    if not any(target.is_relative_to(root) for root in roots):
        return f"is a link to {target}, outside its directory"
    if not stat.S_ISREG(mode):
        return "must be a file, but it is a directory, pipe or device"
    return None


def is_stored(directory: Path, name: str) -> bool:
    """Whether a file of a snapshot in Hugging Face's cache lies where that keeps its files."""
    try:
        target = (directory / name).resolve(strict=True)
        stores = _stores(directory.resolve(strict=True))
    except (OSError, RuntimeError, ValueError):
        return False
    return any(target.is_relative_to(store) for store in stores)


def _stores(directory: Path) -> list[Path]:
    # <cache>/models--org--name/snapshots/<commit>/FILE -> ../../blobs/<hash>, which may itself be a
    # link to <cache>/blobs/<xx>/<hash>, the store that all repositories of the cache share.
    repository = directory.parent.parent
    if directory.parent.name == "snapshots" and repository.name.startswith("models--"):
        return [repository / "blobs", repository.parent / "blobs"]
    return []

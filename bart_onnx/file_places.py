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
        roots = _roots(directory.resolve(strict=True))
    except FileNotFoundError:
        return "is a link to a file that is not there" if path.is_symlink() else "is not there"
    except (OSError, RuntimeError, ValueError) as error:
        return f"cannot be opened: {error}"
    if not any(target.is_relative_to(root) for root in roots):
        return f"is a link to {target}, outside its directory"
    if not stat.S_ISREG(mode):
        return "must be a file, but it is a directory, pipe or device"
    return None


def _roots(directory: Path) -> list[Path]:
    # <cache>/models--org--name/snapshots/<commit>/FILE -> ../../blobs/<hash>, which may itself be a
    # link to <cache>/blobs/<xx>/<hash>, the store that all repositories of the cache share.
    repository = directory.parent.parent
    if directory.parent.name == "snapshots" and repository.name.startswith("models--"):
        return [directory, repository / "blobs", repository.parent / "blobs"]
    return [directory]

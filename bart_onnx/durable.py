"""What is to outlast a loss of power: contents and names that the disk has confirmed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a directory's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory, and those above it that are missing, and wait for the name of each."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        with suppress(PermissionError):  # a directory that may be written, but not listed
            sync(path.parent)

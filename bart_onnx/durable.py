"""What is to outlast a loss of power: contents and names that the disk has confirmed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


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


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` at the end, when its bytes are on the disk.

    Until then, and where writing fails, what was there stays; a link is replaced, not followed.
    Several may write at a time: the last to end is the one that lies there.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)

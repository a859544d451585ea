"""Locks on files and directories; the system lets them go when their holder ends, however it does.

They know nothing of what they guard.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """The lock of a file or directory for the length of a block; whether it was free, and is had.

    One that is not there, or cannot be locked, is not free.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        yield _locked(descriptor) and leads_to(path, descriptor)
    finally:
        os.close(descriptor)


def leads_to(path: Path, descriptor: int) -> bool:
    """Whether a name still leads to the file or directory that was opened."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    return False


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

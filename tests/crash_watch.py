"""What a run writes and when, seen from outside: its files are looked at before each operation.

So what libraries in other languages write is seen too, of which Python's operations tell nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

# Taken before anything takes their place.
_lstat, _scandir, _stat = os.lstat, os.scandir, os.stat

_CHANGES = ("open for writing", "write", "sendfile", "truncate", "ftruncate")
_SYNCS = ("fsync", "fdatasync")


@dataclass
class Entry:
    """A file or directory.

    Attributes:
        first: the number of the operation before which it was first seen; 0, before them all.
        size: the largest that was seen; -1 of a directory.
        looks: what tells that it changed: size and time, or names.
        changed, synced: the numbers of the operations before which it was last seen to have
            changed, and by which it was last put on the disk.
    """

    path: str
    first: int
    size: int
    looks: Any
    changed: int
    synced: int


class Watch:
    """Follows what lies under a directory.

    Attributes:
        unsynced: what got a name before its content was on the disk, so that who loses power
            may find the name with other bytes.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.unsynced: list[str] = []
        self._entries: dict[int, Entry] = {}
        self._gone: list[Entry] = []
        self._one_at_a_time = Lock()
        self._look(0)

    def __call__(self, number: int, name: str, path: Any) -> None:
        """Told of each operation before it is done, by whichever thread."""
        with self._one_at_a_time, suppress(FileNotFoundError):
            self._look(number)
            entry = self._entries.get(_stat(path).st_ino)
            if entry is not None and name in _SYNCS:
                entry.synced = number
            if entry is not None and name in _CHANGES:
                entry.changed = number + 1

    def written(self, count: int) -> list[Entry]:
        """The files that `count` operations made, also those that are gone by now."""
        self._look(count + 1)
        there = [*self._gone, *self._entries.values()]
        return [entry for entry in there if entry.first and entry.size > 0]

    def unconfirmed(self, count: int) -> list[str]:
        """What changed in the end without being on the disk: it may be as before."""
        self._look(count + 1)
        return [entry.path for entry in self._entries.values() if entry.synced < entry.changed]

    def _look(self, number: int) -> None:
        found: dict[int, tuple[str, int, Any]] = {}
        for inode, path, size, looks in self._tree():
            known = self._entries.get(inode)
            # Of two names of one file, the one that it had.
            if inode not in found or (known is not None and known.path == path):
                found[inode] = path, size, looks
        for inode in self._entries.keys() - found.keys():
            self._gone.append(self._entries.pop(inode))
        for inode, seen in found.items():
            self._meet(number, inode, *seen)

    def _meet(self, number: int, inode: int, path: str, size: int, looks: Any) -> None:
        entry = self._entries.get(inode)
        if entry is None:
            entry = Entry(path, number, size, looks, number, 0)
            self._entries[inode] = entry
        if entry.path != path:
            if entry.synced < entry.changed:
                self.unsynced.append(f"{entry.path} became {path}")
            entry.path = path
        # Of a directory: a name that is gone may come back, and is nobody's loss.
        gained = looks - entry.looks if isinstance(looks, frozenset) else looks != entry.looks
        if gained:
            entry.changed = max(number, entry.changed)
        entry.looks = looks
        entry.size = max(size, entry.size)

    def _tree(self) -> Iterator[tuple[int, str, int, Any]]:
        waiting = [self.root]
        while waiting:
            path = waiting.pop()
            with suppress(FileNotFoundError):  # another thread has just removed it
                status = _lstat(path)
                if not stat.S_ISDIR(status.st_mode):
                    looks = status.st_size, status.st_mtime_ns
                    yield status.st_ino, path, status.st_size, looks
                    continue
                with _scandir(path) as entries:
                    names = frozenset((entry.name, entry.inode()) for entry in entries)
                waiting += sorted(os.path.join(path, name) for name, _ in names)
                yield status.st_ino, path, -1, names

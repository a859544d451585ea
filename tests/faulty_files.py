"""Operations on files, counted, and one of them made to fail: by an error, or by the process's end.

Everything that Python does to files under one directory is counted: opening, reading, writing,
syncing, renaming, linking, listing, removing, making directories, locking. A write in which the
process ends is half done. What libraries in other languages write is met by a limit on the size of
files instead, which the system keeps whoever writes.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BY_OPERATION = ("kill", "ENOSPC", "EIO", "EINTR", "interrupt")

# No file grows beyond a size: an error, as on a full disk, or the end, in the middle of a write.
BY_SIZE = ("EFBIG", "SIGXFSZ")

KINDS = BY_OPERATION + BY_SIZE

# What a full disk refuses; it lets go of files, and reads them.
TAKES_ROOM = ("open for writing", "write", "mkdir", "fsync", "link", "symlink", "sendfile")

_BY_PATH = ("mkdir", "rmdir", "unlink", "remove", "listdir", "scandir", "truncate", "utime")
_BY_TWO_PATHS = ("rename", "replace", "link", "symlink")
_BY_DESCRIPTOR = ("fsync", "fdatasync", "ftruncate")


@dataclass(frozen=True)
class Fault:
    """What fails.

    Attributes:
        kind: one of `KINDS`.
        at: the number of the operation, from 1. A full disk stays full from then on, a limit on
            sizes stays from before it on. 0: none fails; of `BY_SIZE`, the limit is there at once.
        size: bytes beyond which no file grows, of `BY_SIZE`.
    """

    kind: str
    at: int
    size: int = 0


NO_FAULT = Fault("EIO", 0)


class Faults:
    """Counts operations under `root`, and has one fail.

    Args:
        watch: told the number, name and path (or descriptor) of each operation, before it is done.
    """

    def __init__(
        self, root: Path, fault: Fault, watch: Callable[[int, str, Any], None] | None = None
    ) -> None:
        self.root, self.fault, self.watch = os.path.realpath(root), fault, watch
        self.count, self.names = 0, []

    def install(self) -> None:
        """Take the place of what Python works on files with, in this process, for good."""
        for name in _BY_PATH:
            self._replace(os, name, lambda path=".", *rest, **options: (path, options))
        for name in _BY_TWO_PATHS:
            self._replace(os, name, lambda source, path, *rest, **options: (path, options))
        for name in _BY_DESCRIPTOR:
            self._replace(os, name, lambda descriptor, *rest, **options: (descriptor, {}))
        self._replace(fcntl, "flock", lambda descriptor, *rest: (descriptor, {}))
        self._install_opening()
        self._install_writing()
        if self.fault.kind in BY_SIZE and not self.fault.at:
            self._limit_sizes()

    def operation(self, name: str, path: Any, half: Callable[[], Any] | None = None) -> None:
        """Count one, and fail if it is its turn; `half` does a part of it."""
        if not self.concerns(path):
            return
        self.count += 1
        self.names.append(name)
        if self.watch is not None:
            self.watch(self.count, name, path)
        kind, at = self.fault.kind, self.fault.at
        due = self.count == at
        if kind == "ENOSPC":
            due = 0 < at <= self.count and name in TAKES_ROOM
        if not due:
            return
        if kind in BY_SIZE:
            self._limit_sizes()
            return
        if half is not None and kind == "kill":
            half()
        self._fail(path)

    def concerns(self, path: Any) -> bool:
        """Whether a path, or what a descriptor has open, lies under the root."""
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return False
        text = os.path.abspath(os.fsdecode(path))
        return text == self.root or text.startswith(self.root + os.sep)

    def _limit_sizes(self) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Python ignores the signal, and the write fails; else it ends the process there.
        if self.fault.kind == "SIGXFSZ":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.fault.size, resource.RLIM_INFINITY))

    def _fail(self, path: Any) -> None:
        if self.fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault.kind == "interrupt":
            raise KeyboardInterrupt
        number = getattr(errno, self.fault.kind)
        raise OSError(number, os.strerror(number), str(path))

    def _replace(self, module: Any, name: str, where: Callable[..., tuple[Any, Any]]) -> None:
        original = getattr(module, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            path, named = where(*arguments, **options)
            self.operation(name, _absolute(path, named))
            return original(*arguments, **options)

        setattr(module, name, counted)

    def _install_opening(self) -> None:
        original_open, original_os_open = io.open, os.open

        def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if isinstance(file, int) or not self.concerns(file):
                return original_open(file, mode, *arguments, **options)
            writes = bool(set(mode) & set("wax+"))
            self.operation("open for writing" if writes else "open", file)
            return _composed(self, file, mode, *arguments, **options)

        def os_opened(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            where = _absolute(path, options)
            self.operation("open for writing" if writes else "open", where)
            return original_os_open(path, flags, *arguments, **options)

        io.open = builtins.open = opened  # type: ignore[assignment]
        os.open = os_opened

    def _install_writing(self) -> None:
        write, sendfile = os.write, os.sendfile

        def written(descriptor: int, data: Any) -> int:
            half = memoryview(data).cast("B")[: memoryview(data).nbytes // 2]
            self.operation("write", descriptor, lambda: write(descriptor, half))
            return write(descriptor, data)

        def sent(out: int, source: int, offset: Any, count: int) -> int:
            half = min(count, os.fstat(source).st_size) // 2
            self.operation("sendfile", out, lambda: sendfile(out, source, offset, half))
            return sendfile(out, source, offset, count)

        os.write, os.sendfile = written, sent


def _absolute(path: Any, options: Any) -> Any:
    """A path, also one that is relative to an open directory."""
    directory = options.get("dir_fd") if options else None
    if directory is None:
        directory = options.get("dst_dir_fd") if options else None
    if directory is None or isinstance(path, int):
        return path
    return os.path.join(os.readlink(f"/proc/self/fd/{directory}"), os.fsdecode(path))


class _Raw(io.FileIO):
    """A file whose reads and writes are counted."""

    faults: Faults

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        half = view[: len(view) // 2]
        self.faults.operation("write", self.name, lambda: super(_Raw, self).write(half))
        return super().write(view)

    def readinto(self, buffer: Any) -> int:
        self.faults.operation("read", self.name)
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self.faults.operation("read", self.name)
        return super().readall()


def _composed(
    faults: Faults,
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """What `open` gives, over a counted file."""
    raw = _Raw(os.fspath(file), mode.replace("b", "").replace("t", ""), closefd, opener)
    raw.faults = faults
    if buffering == 0:
        return raw
    kind: Any = io.BufferedReader
    if "+" in mode:
        kind = io.BufferedRandom
    elif set(mode) & set("wax"):
        kind = io.BufferedWriter
    buffered = kind(raw)
    if "b" in mode:
        return buffered
    return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

"""One trial of one reader: what it must not do with an input, whatever the input is.

It may refuse with an error of its own, and else must read. A failure is any other exception, more
than a second of the processor's time, memory beyond twice the input and a constant, and a file
written, a process started, a socket opened or a pickle read.
"""

from __future__ import annotations

import faulthandler
import resource
import signal
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bart_onnx.errors import BartOnnxError

SECONDS = 1.0
# Beyond this no input is judged: what is slow or large with 64 kB is so by its own fault.
LARGEST = 1 << 16
# Python's objects of JSON take up to 35 times its text; of 64 kB that is 2.3 MB.
BYTES = 4 << 20
PEAK_KILOBYTES = 200 << 10
_EVERY = 61
_LONGEST_MESSAGE = 4000

_EVENTS = ("os.", "socket.", "subprocess.", "shutil.", "tempfile.", "pickle.", "ctypes.dlopen")
# Reading a directory and asking for a file's place are no writing.
_ALLOWED = ("os.listdir", "os.scandir", "os.walk", "os.fwalk")
_watching = False


class TrialError(BaseException):
    """What a reader did that it must not do; no reader's `except Exception` may hide it."""


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        read: reads bytes; the directory is the reader's own, as `prepare` left it.
        seeds: honest inputs to start from.
        file: where in the directory the bytes are written before; None for nowhere.
        prepare: fills the directory, once.
        put: writes the bytes in another way than as `file`.
        errors: what may be raised.
        words: what a mutation may put in.
        apart: whether its library may not come to an end, or die; see `fuzz_apart`.
    """

    read: Callable[[bytes, Path], object]
    seeds: Callable[[], Sequence[bytes]]
    file: str | None = None
    prepare: Callable[[Path], object] = lambda directory: None
    put: Callable[[bytes, Path], object] | None = None
    errors: tuple[type[Exception], ...] = (BartOnnxError,)
    words: Sequence[bytes] = ()
    apart: bool = False


class Trials:
    """Trials of one reader in one process, in a directory that is its own.

    Attributes:
        count, read: inputs tried, and read.
    """

    def __init__(self, name: str, reader: Reader, directory: Path) -> None:
        self.count = self.read = 0
        self._name, self._reader, self._directory = name, reader, directory
        self._path = directory / reader.file if reader.file is not None else None
        reader.prepare(directory)
        _install()
        self._peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def try_input(self, data: bytes) -> None:
        """Try one input.

        Raises:
            TrialError: the reader failed.
        """
        data = data[:LARGEST]
        self._written(data)
        measured = self.count % _EVERY == 0
        self.count += 1
        with _bounded_time(), _bounded_memory(len(data)) if measured else _nothing(), _watched():
            self.read += self._was_read(data)
        if measured:
            self._check_peak()

    def warm(self, data: bytes) -> None:
        """Read an input, and judge only that it ends: what it imports at first is not its fault."""
        self._written(data)
        with suppress(TrialError), _bounded_time():  # it is tried again, and then told
            self._was_read(data)
        self._peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def _written(self, data: bytes) -> None:
        if self._reader.put is not None:
            self._reader.put(data, self._directory)
        elif self._path is not None:
            self._path.write_bytes(data)

    def _was_read(self, data: bytes) -> bool:
        try:
            self._reader.read(data, self._directory)
        except self._reader.errors as error:
            if len(str(error)) > _LONGEST_MESSAGE:
                raise TrialError(
                    f"{self._name}: a message of {len(str(error))} characters"
                ) from error
            return False
        except TrialError:
            raise
        except Exception as error:
            raise TrialError(f"{self._name}: {type(error).__name__}: {error!s:.300}") from error
        return True

    def _check_peak(self) -> None:
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._peak
        if grown > PEAK_KILOBYTES:
            raise TrialError(f"{self._name}: the process grew by {grown >> 10} MB")


def outcomes_here(trials: Trials, inputs: Iterator[bytes]) -> Iterator[tuple[bytes, str]]:
    """Each input, and what the reader did with it that it must not do, or ""."""
    for data in inputs:
        failure = ""
        try:
            trials.try_input(data)
        except TrialError as error:
            failure = str(error)
        yield data, failure


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _bounded_memory(size: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if peak > 2 * size + BYTES:
        raise TrialError(f"{peak} bytes were taken for an input of {size}")


@contextmanager
def _bounded_time() -> Iterator[None]:
    started = time.process_time()
    # For what never ends; what does is measured, since a second of a busy machine is not one. In a
    # library that does not end no handler of Python's is called: SIGPROF ends the process.
    signal.setitimer(signal.ITIMER_VIRTUAL, 3 * SECONDS)
    signal.setitimer(signal.ITIMER_PROF, 4 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    if time.process_time() - started > SECONDS:
        raise TrialError(f"it took {time.process_time() - started:.1f} s")


@contextmanager
def _watched() -> Iterator[None]:
    global _watching
    _watching = True
    try:
        yield
    finally:
        _watching = False


def _install() -> None:
    if not getattr(_install, "done", False):
        sys.addaudithook(_hook)
        signal.signal(signal.SIGVTALRM, _stop)
        faulthandler.register(signal.SIGPROF, chain=True)
        _install.done = True  # type: ignore[attr-defined]


def _stop(number: int, frame: object) -> None:
    raise TrialError(f"it had not ended after {3 * SECONDS:g} s")


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "open":
        path, mode, flags = arguments
        # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & 0o1103:
            raise TrialError(f"it opened {path!r:.200} to write")
    elif event.startswith(_EVENTS) and event not in _ALLOWED:
        raise TrialError(f"it did {event} {arguments!r:.200}")

"""How far a run is, on standard error: a bar where tqdm and a terminal are there, else counts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(total: int, done: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A function to be told how many more are done.

    A run that is done at once says nothing where nobody watches.

    Args:
        done: how many were done before.
        shown: False for no word at all.
    """
    if not shown:
        yield lambda count: None
    elif sys.stderr.isatty():
        with _on_terminal(total, done) as advance:
            yield advance
    else:
        yield _Counts(total, done).advance


@contextmanager
def _on_terminal(total: int, done: int) -> Iterator[Callable[[int], None]]:
    try:
        from tqdm import tqdm
    except ImportError:
        tqdm = None
    # tqdm draws nothing on a terminal that does not say how large it is.
    if tqdm is None or 0 in os.get_terminal_size(sys.stderr.fileno()):
        yield _Counts(total, done, end="\r").advance
        print(file=sys.stderr)
        return
    with tqdm(total=total, initial=done, unit="text", file=sys.stderr) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        yield advance


class _Counts:
    def __init__(self, total: int, done: int, end: str = "\n") -> None:
        self._total, self._done, self._end = total, done, end

    def advance(self, count: int) -> None:
        self._done += count
        if self._end == "\r" or self._done < self._total:
            said = f"{self._done:,} of {self._total:,} texts"
            print(said, end=self._end, file=sys.stderr, flush=True)

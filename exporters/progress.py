"""What an export says while it runs, on standard error. It knows bytes and words only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Progress:
    """Says the steps of an export and draws a bar for the long ones; silent if not shown."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown

    def say(self, text: str) -> None:
        """One line."""
        if self._shown:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar over `total` bytes; the function yielded is told each number of bytes done."""
        with tqdm(
            total=total,
            desc=text,
            unit="B",
            unit_scale=True,
            file=sys.stderr,
            disable=not self._shown,
        ) as bar:

            def advance(count: int) -> None:
                bar.update(count)

            yield advance


def cost(size: int) -> str:
    """What exporting `size` bytes of float32 weights takes, as measured on two cores."""
    memory, minutes = 0.7e9 + 1.3 * size, 0.5 + size / 1.6e9
    return (
        f"{gigabytes(size)} of weights; takes about {gigabytes(memory)} of memory and "
        f"{max(1, round(minutes))} to {round(2 * minutes + 0.5)} minutes"
    )


def gigabytes(size: float) -> str:
    """1625149440 -> "1.63 GB"; small sizes in MB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"

"""Random numbers of which each has an address: seed, call, row, position.

So a row draws the same numbers alone and beside any others, however a call is cut into batches.
It knows no probability.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Counting a call must not be interrupted by another thread's count.
_COUNTING = threading.Lock()


class Draws:
    """Numbers from one seed; each call takes fresh ones.

    Args:
        seed: an integer of at least 0; None for one that nobody knows.
    """

    def __init__(self, seed: int | None) -> None:
        words = np.random.SeedSequence(seed).generate_state(2, np.uint64)
        self._key = int(words[0]), int(words[1])
        self._calls = 0

    def next_call(self) -> CallDraws:
        """The numbers of one call; no other call has the same."""
        with _COUNTING:
            call = self._calls
            self._calls += 1
        return CallDraws(self._key, call)

    def next_uniforms(self, rows: int) -> NDArray[np.float64]:
        """One number for each of `rows` rows, float64 [rows], as a call of their own."""
        return self.next_call().uniforms(range(rows), 1)[:, 0]


@dataclass(frozen=True)
class CallDraws:
    """The numbers of one call, by row and position."""

    key: tuple[int, int]
    call: int

    def uniforms(self, rows: Iterable[int], width: int) -> NDArray[np.float64]:
        """Numbers in [0, 1), float64 [rows, width]: those of `rows` at positions 0 to width - 1.

        Each row is a stream of Philox4x64-10 (Salmon et al. 2011), whose counter's second and
        third words hold row and call. Raw words are turned into numbers here, because numpy
        promises the same words in every version, and not the same floats.
        """
        streams = []
        for row in rows:
            philox = np.random.Philox(key=self.key, counter=[0, row, self.call, 0])
            streams.append(philox.random_raw(width))
        return _shares(np.array(streams, np.uint64).reshape(-1, width))

    def noise(self, row: int, position: int, width: int) -> NDArray[np.float64]:
        """Gumbel noise for `width` candidates of a row at a position, float64 [width].

        Its stream is another than that of `uniforms`: the counter's last word holds the position.
        """
        philox = np.random.Philox(key=self.key, counter=[0, row, self.call, 1 + position])
        # Never 0, whose logarithm there is none of.
        shares = _shares(np.asarray(philox.random_raw(width), np.uint64)) + 2.0**-54
        return np.asarray(-np.log(-np.log(shares)))


def _shares(raw: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) of 53 bits."""
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53

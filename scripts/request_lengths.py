"""Lengths of requests: mixtures that scripts/measure_batching.py and measure_serving.py share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SHORTEST = 4
# Half of all requests are shorter than a sixth of the longest, and one in forty is cut to that.
_MEDIAN, _SPREAD = 1 / 6, 0.9

Lengths = NDArray[np.int64]


def _uniform(random: np.random.Generator, longest: int, count: int) -> Lengths:
    """All lengths alike likely."""
    return random.integers(SHORTEST, longest + 1, count)


def _skewed(random: np.random.Generator, longest: int, count: int) -> Lengths:
    """Lognormal: most are short and a few long, as where headlines and articles are mixed."""
    drawn = random.lognormal(np.log(longest * _MEDIAN), _SPREAD, count)
    return np.rint(drawn).clip(SHORTEST, longest).astype(np.int64)


MIXTURES: dict[str, Callable[[np.random.Generator, int, int], Lengths]] = {
    "uniform": _uniform,
    "skewed": _skewed,
}

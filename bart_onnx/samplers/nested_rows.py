"""Rows of whatever a caller uses as a cache: arrays in tuples, lists and mappings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def take_rows(cache: Any, rows: NDArray[np.integer]) -> Any:
    """The cache with row i of each array holding what row `rows[i]` held.

    None and numbers stay as they are.
    """
    if isinstance(cache, Mapping):
        return {name: take_rows(value, rows) for name, value in cache.items()}
    if isinstance(cache, tuple | list):
        parts = [take_rows(value, rows) for value in cache]
        return type(cache)(*parts) if hasattr(cache, "_fields") else type(cache)(parts)
    if cache is None or np.ndim(cache) == 0:
        return cache
    return np.asarray(cache)[rows]

"""int8 weights: which matrices are quantised, and how. numpy only.

A weight is int8 times one float32 scale for each column (each row of an embedding): the scale is
the largest absolute value / 127, so that no value is cut off.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LARGEST = 127
# A column of zeros is stored with this scale, and comes back as zeros.
_SMALLEST_SCALE = 1e-12

INT8_SUFFIX, SCALE_SUFFIX, SUMS_SUFFIX = ".int8", ".scale", ".sums"
_KERNEL, _EMBEDDINGS = ".kernel", ("token_embedding", "lm_head")


def is_quantised(name: str) -> bool:
    """Whether a packed tensor of this name is stored in int8: matrices are, the rest is not.

    Position embeddings are added to, and small; biases and norms are vectors.
    """
    return name.endswith(_KERNEL) or name in _EMBEDDINGS


def scale_axis(name: str) -> int:
    """The axis along which one scale serves: a column of a kernel, a row of an embedding."""
    return 1 if name in _EMBEDDINGS else 0


def quantised(
    values: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Values as int8 and their scales; int8 * scale is within half a scale of the value.

    Args:
        values: float32 [rows, columns].
        axis: the axis along which one scale serves.

    Returns:
        int8 [rows, columns] and float32 [columns] (axis 0) or [rows] (axis 1).

    Of a column 1, -2.54 the scale is 0.02, and it becomes 50, -127.
    """
    scales = np.maximum(np.abs(values).max(axis=axis) / _LARGEST, _SMALLEST_SCALE)
    scales = scales.astype(np.float32)
    spread = np.expand_dims(scales, axis)
    rounded = np.clip(np.rint(values / spread), -_LARGEST, _LARGEST)
    return rounded.astype(np.int8), scales


def follows_gelu(name: str) -> bool:
    """Whether a kernel of this name multiplies what GELU gives; its column sums are stored too."""
    return name.endswith("feedforward_output.kernel")


def column_sums(values: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each column of int8 [rows, columns] * scales [columns] adds up to, float32 [columns]."""
    sums: NDArray[np.int64] = values.sum(axis=0, dtype=np.int64)
    return (sums * scales.astype(np.float64)).astype(np.float32)

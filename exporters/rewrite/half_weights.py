"""Half-precision weights: which they are, and how they are rounded. It knows no graph.

In half are the matrices that are multiplied with, and the biases of products that stay in half.
What is added to the residual stream stays float32: norms, position embeddings, and the biases of
the projections back to it. These are vectors, and tables of which a call reads a few rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import ExportError
from bart_onnx.graphs import BF16, FP16, HALF_PRECISIONS

_DTYPES: Mapping[str, np.dtype[Any]] = {
    FP16: np.dtype(np.float16),
    BF16: np.dtype(ml_dtypes.bfloat16),
}
_LARGEST = {FP16: 65504.0, BF16: 3.3895314e38}
_MATRICES = ("token_embedding", "lm_head")
_KERNEL, _BIAS, _RESIDUAL_BIAS = ".kernel", ".bias", "output.bias"


def is_half(name: str) -> bool:
    """Whether a packed tensor of this name is stored in half."""
    if name.endswith(_BIAS):
        return not name.endswith(_RESIDUAL_BIAS)
    return name.endswith(_KERNEL) or name in _MATRICES


def halved(name: str, values: NDArray[np.float32], precision: str) -> NDArray[Any]:
    """Values rounded to the nearest of a half precision; float16 or ml_dtypes' bfloat16.

    Args:
        name: what the values are called, for the message.

    Raises:
        ExportError: one is too large for the precision, or is no number.

    Of float16, 65519 becomes 65504, the largest, and 65520 is refused.
    """
    with np.errstate(over="ignore"):
        rounded = values.astype(_DTYPES[precision])
    if not np.isfinite(rounded).all():
        largest = float(np.abs(values).max())
        limit = _LARGEST[precision]
        raise ExportError(
            f"Weight {name!r} has values of up to {largest:.6g}, and {HALF_PRECISIONS[precision]} "
            f"holds at most {limit:.6g}. Nothing was published; export with --precision fp32"
            + (" or bf16." if precision == FP16 else ".")
        )
    return rounded

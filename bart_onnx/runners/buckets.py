"""Sizes that shapes are rounded up to, so that few differ. It knows no device.

A captured CUDA graph has fixed shapes and addresses, so every shape that may come is one of these.
"""

from __future__ import annotations

# Tokens that a step may feed each row and still be captured: one, BART's two start tokens, and
# one with 4, 8 or 16 drafted.
QUERY_LENGTHS = (1, 2, 5, 9, 17)

_FINE, _COARSE = 64, 128
_LONG = 512
_LARGEST_POWER = 32


def row_bucket(rows: int) -> int:
    """1, 2, 4, 8, 16, 32, and then multiples of 32."""
    if rows > _LARGEST_POWER:
        return -(-rows // _LARGEST_POWER) * _LARGEST_POWER
    return 1 << max(0, rows - 1).bit_length()


def length_bucket(length: int) -> int:
    """Multiples of 64, and above 512 of 128.

    Self caches are kept this small because flash attention divides its work by the room of a cache
    and not by what is in it (onnxruntime #29686).
    """
    size = _FINE if length <= _LONG else _COARSE
    return max(1, -(-length // size)) * size


def query_bucket(query_length: int) -> int | None:
    """The next of `QUERY_LENGTHS`; None where there is none, and a step is not captured."""
    return next((size for size in QUERY_LENGTHS if size >= query_length), None)

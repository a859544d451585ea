"""The signs that byte-level BPE writes bytes with. It knows no model and no package."""

from __future__ import annotations

import itertools


def byte_symbols() -> list[str]:
    """GPT-2's sign for each byte, in their order: itself where it can be seen, else 256 on.

    The n-th that cannot be seen is character 256 + n: the blank is `Ġ`, 256 + 32.
    """
    seen = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(0x100)
    return [chr(byte if byte in seen else next(others)) for byte in range(256)]

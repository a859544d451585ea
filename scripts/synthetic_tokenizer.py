"""A tokenizer of any size whose merges mean nothing, for models that were never trained.

Used by make_random_checkpoint.py.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from byte_symbols import byte_symbols

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]


def write_synthetic_tokenizer(output: Path, size: int) -> None:
    """Writes vocab.json and merges.txt of `size` tokens."""
    alphabet = byte_symbols()
    pairs = list(itertools.islice(_pairs(alphabet), size - len(SPECIAL_TOKENS) - 256 - 1))
    tokens = [*SPECIAL_TOKENS, *alphabet, *(left + right for left, right in pairs), "<mask>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    text = json.dumps(vocabulary, indent=1, ensure_ascii=False)
    (output / "vocab.json").write_text(text + "\n", encoding="utf-8")
    merges = ["#version: 0.2", *(f"{left} {right}" for left, right in pairs)]
    (output / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")


def _pairs(alphabet: list[str]) -> Iterator[tuple[str, str]]:
    # Small letters and the blank first, so that a small vocabulary merges in English text too.
    ordered = sorted(alphabet, key=lambda letter: not ("a" <= letter <= "z" or letter == "Ġ"))
    return itertools.product(ordered, repeat=2)

"""StopStrings: whether a token completes one of some strings. It knows a tokenizer, no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bart_onnx.tokenizer import BartTokenizer


class StopStrings:
    """Strings that end a text.

    As in transformers' `StopStringCriteria`, a string may end anywhere inside the last token, and
    the text goes on to that token's end.
    """

    def __init__(self, strings: Sequence[str], tokenizer: BartTokenizer) -> None:
        self._strings, self._tokenizer = tuple(strings), tokenizer
        self._special = set(tokenizer.special_token_ids)
        # A token holds at least a byte of text, special ones apart, and a character at most four.
        self._reach = 4 * max(len(string) for string in strings) + 4

    def completes(self, before: NDArray[np.int64], token_id: int) -> bool:
        """Whether the text of `before` [length] and this token has a string that ends in it."""
        if token_id in self._special:
            return False
        tail = [each for each in before.tolist() if each not in self._special][-self._reach :]
        shorter, longer = self._tokenizer.decode_batch([tail, [*tail, token_id]])
        # What was half a character may have become a whole one.
        known = len(shorter.rstrip("\ufffd"))
        return any(
            longer.find(string, max(0, known - len(string) + 1)) >= 0 for string in self._strings
        )

"""The vocabulary of bart_tiny_en_g2p: each character one token. It knows no model."""

from __future__ import annotations

from collections.abc import Iterable

from byte_symbols import byte_symbols

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>")


def byte_vocabulary(characters: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """The smallest vocabulary and merges in which each of these characters is one token.

    "ə" is the bytes C9 99, so it takes two symbols, their merge, and the token of both.
    """
    symbols = byte_symbols()
    spelled = [[symbols[byte] for byte in char.encode()] for char in sorted(set(characters))]
    tokens = sorted({symbol for word in spelled for symbol in word})
    merges: list[str] = []
    for word in spelled:
        joined = word[0]
        for symbol in word[1:]:
            if f"{joined} {symbol}" not in merges:
                merges.append(f"{joined} {symbol}")
                tokens.append(joined + symbol)
            joined += symbol
    return {token: index for index, token in enumerate([*SPECIAL_TOKENS, *tokens])}, merges

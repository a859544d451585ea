"""Inputs made of honest ones without a coverage-guided fuzzer: the same from the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from fuzz_json import enlarged, rewritten

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1)
_LONGEST = 1 << 14
_LARGE = 60_000
_SIGNS = (
    b" ",
    b"a",
    b"0",
    b"\0",
    b'"',
    b"\\",
    b"[",
    b"{",
    b"- ",
    b"? ",
    b"a: ",
    b"[],",
    b'{"":0},',
)
_SIGNS += (b"!", b"&a *a ", b"a b\n", b"\xff", "\N{GRINNING FACE}".encode())


def mutants(seeds: Sequence[bytes], words: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Endlessly many inputs: honest ones with one to eight changes, of bytes or of JSON."""
    draw = random.Random(seed)
    while True:
        data = bytearray(draw.choice(seeds))
        if draw.random() < 0.5 and (changed := rewritten(data, draw, words)) is not None:
            yield changed[:_LONGEST]
            continue
        for _ in range(draw.choice((1, 1, 2, 2, 3, 5, 8))):
            _changed(draw, data, seeds, words)
        yield bytes(data[:_LONGEST])


def large(seeds: Sequence[bytes], words: Sequence[bytes]) -> Iterator[bytes]:
    """Each word and sign of a format, over and over, alone and within honest inputs: 60 kB.

    Then each value and each name of honest JSON as a text of 7.5 kB.
    """
    for word in (*_SIGNS, *words):
        body = (word * (_LARGE // len(word) + 1))[:_LARGE]
        yield body
        for seed in seeds:
            middle = len(seed) // 2
            yield seed[:-1] + body
            yield seed[:middle] + body + seed[middle:]
    for seed in seeds:
        yield from enlarged(seed, "a" * (_LARGE // 8))


def _changed(
    draw: random.Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]
) -> None:
    place = draw.randrange(len(data) + 1)
    length = min(draw.choice((1, 1, 2, 4, 8, 32)), len(data) - place)
    match draw.randrange(8):
        case 0 if length:
            data[place] ^= 1 << draw.randrange(8)
        case 1 if length:
            data[place : place + length] = draw.randbytes(length)
        case 2:
            del data[place : place + length]
        case 3:
            data[place:place] = data[place : place + length] * draw.choice((1, 2, 16))
        case 4 if words:
            data[place : place + draw.choice((0, length))] = draw.choice(words)
        case 5:
            other = draw.choice(seeds)
            start = draw.randrange(len(other) + 1)
            data[place:] = other[start:]
        case 6:
            size = draw.choice((1, 2, 4, 8))
            number = draw.choice(_NUMBERS) & ((1 << 8 * size) - 1)
            data[place : place + size] = number.to_bytes(size, draw.choice(("little", "big")))
        case _:
            data[place : place + length] = str(draw.choice((*_NUMBERS, -1))).encode()

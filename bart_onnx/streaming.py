"""Text as it grows: from tokens that are certain to pieces of text that are. It knows no model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Sequence

import numpy as np
from numpy.typing import NDArray

IdArray = NDArray[np.int64]

#: What the bytes of half a character are decoded to.
HALF = "\ufffd"


NO_TEXT = "stream needs a preprocessor; without one there is no text."
ONE_TEXT = "stream takes one text; call it once for each."


class Certain:
    """The text of ids as they grow; what is no part of a character to come is decoded once.

    Args:
        decoded: ids to text.
    """

    def __init__(self, decoded: Callable[[IdArray], str]) -> None:
        self._decoded, self._text, self._read = decoded, "", 0

    def text(self, ids: IdArray, complete: bool) -> str:
        """What is certain of a text that is known to begin with `ids`, and to end if complete."""
        left = self._decoded(ids[self._read :]) if len(ids) > self._read else ""
        if not left.endswith(HALF):
            self._text, self._read, left = self._text + left, max(self._read, len(ids)), ""
        return self._text + (left if complete else left.rstrip(HALF))


class Pieces:
    """Turns growing ids of a text's parts into pieces; put together, they are the whole text.

    A character is given out when all of its bytes are there. Of several parts each is given out
    when those before it are complete, stripped and after a blank, as the whole text joins them.

    Args:
        decoded: ids to text.
        parts: how many parts the text has.
    """

    def __init__(self, decoded: Callable[[IdArray], str], parts: int = 1) -> None:
        self._certain, self._strips = [Certain(decoded) for _ in range(parts)], parts > 1
        self._texts = [""] * parts
        self._complete = [False] * parts
        self._given = ""

    def grow(self, part: int, ids: IdArray, complete: bool) -> None:
        """A part is known to begin with `ids`, and to be no more if it is complete."""
        self._texts[part] = self._certain[part].text(ids, complete)
        self._complete[part] = complete

    def next_piece(self) -> str:
        """What can be added to what was given out before; "" for nothing."""
        whole = self._joined()
        if len(whole) <= len(self._given):
            return ""
        piece, self._given = whole[len(self._given) :], whole
        return piece

    def _joined(self) -> str:
        texts = []
        for text, complete in zip(self._texts, self._complete, strict=True):
            texts.append(text.strip() if self._strips else text)
            if not complete:
                break
        return " ".join(text for text in texts if text) if self._strips else texts[0]


def decoder(
    decode_batch: Callable[[Sequence[Sequence[int]]], list[str]], special: Sequence[int | None]
) -> Callable[[IdArray], str]:
    """Ids to text without special tokens."""
    left_out = set(special)
    return lambda ids: decode_batch([[each for each in ids.tolist() if each not in left_out]])[0]


async def in_threads(pieces: Generator[str, None, None]) -> AsyncIterator[str]:
    """What a generator gives, each step in a thread, so that the event loop goes on meanwhile.

    Where it is cancelled, the step that runs is waited for, and the generator closed.
    """
    step: asyncio.Future[str | None] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, pieces, None))
            piece = await asyncio.shield(step)
            if piece is None:
                return
            yield piece
    finally:
        if step is not None and not step.done():
            await asyncio.wait([step])
        pieces.close()

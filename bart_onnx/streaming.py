"""Text as it grows: from tokens that are certain to pieces of text that are. It knows no model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Sequence

import numpy as np
from numpy.typing import NDArray

IdArray = NDArray[np.int64]

# What the bytes of half a character are decoded to.
_HALF = "\ufffd"


NO_TEXT = "stream needs a preprocessor; without one there is no text."
ONE_TEXT = "stream takes one text; call it once for each."


class Pieces:
    """Turns growing ids of a text's parts into pieces; put together, they are the whole text.

    A character is given out when all of its bytes are there. Of several parts each is given out
    when those before it are complete, stripped and after a blank, as the whole text joins them.

    Args:
        decoded: ids to text.
        parts: how many parts the text has.
    """

    def __init__(self, decoded: Callable[[IdArray], str], parts: int = 1) -> None:
        self._decoded, self._strips = decoded, parts > 1
        self._ids: list[IdArray] = [np.zeros(0, np.int64)] * parts
        self._complete = [False] * parts
        self._given = ""

    def grow(self, part: int, ids: IdArray, complete: bool) -> None:
        """A part is known to begin with `ids`, and to be no more if it is complete."""
        self._ids[part], self._complete[part] = ids, complete

    def next_piece(self) -> str:
        """What can be added to what was given out before; "" for nothing."""
        whole = self._certain()
        if len(whole) <= len(self._given):
            return ""
        piece, self._given = whole[len(self._given) :], whole
        return piece

    def _certain(self) -> str:
        texts = []
        for ids, complete in zip(self._ids, self._complete, strict=True):
            text = self._decoded(ids) if len(ids) else ""
            text = text if complete else text.rstrip(_HALF)
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

"""Repeats: an answer asked for again when who gives it dies in the middle.

Decoding is deterministic: what of the answer was passed on already is skipped when it comes again,
as long as it is the same. It knows no model, no Ray, and nothing of what a request asks.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from starlette.types import Message

from bart_onnx.errors import EngineError

#: How often a request is asked: one that ends whoever reads it must not end them all.
TRIES = 3
#: What a server answers that has too much to do.
FULL = 429

# Seconds between two looks at servers that are full of what the dead one had.
_PAUSE = 0.5
# The one thing in an event that is another when it is asked again.
_CREATED = re.compile(rb'"created": ?\d+')


async def repeated(
    ask: Callable[[], AsyncGenerator[Message]],
    died: type[Exception],
    tries: int = TRIES,
    pause: float = _PAUSE,
) -> AsyncGenerator[Message]:
    """The ASGI messages of an answer, asked for again when who gives it dies.

    What was accepted once is not refused because others are full of what the dead one had: then it
    waits.

    Args:
        died: what `ask` raises then.

    Raises:
        EngineError: they died at every try, or what came again was not what had come before.
    """
    given: list[bytes] = []
    deaths = 0
    while deaths < tries:
        try:
            async with aclosing(ask()) as messages:
                async for message in _new(messages, given, patient=deaths > 0):
                    yield message
            return
        except died:
            deaths += 1
        except _StillFullError:
            await asyncio.sleep(pause)
    raise EngineError(f"{tries} replicas died with this request, one after the other.")


async def _new(
    messages: AsyncIterator[Message], given: list[bytes], patient: bool
) -> AsyncIterator[Message]:
    """Those that were not given before; they are noted."""
    place = 0
    async for message in messages:
        if patient and message.get("status") == FULL:
            raise _StillFullError
        mark = _mark(message)
        if place == len(given):
            given.append(mark)
            yield message
        elif mark != given[place]:
            raise EngineError("A replica died, and its answer came otherwise from another.")
        place += 1


def _mark(message: Message) -> bytes:
    """What tells a message from others that might come in its place."""
    content = b"%d %s" % (message.get("status", 0), message.get("body", b""))
    return hashlib.sha256(_CREATED.sub(b"", content)).digest()


class _StillFullError(Exception):
    """Who was asked again is full."""

"""Lifetime: whether a server is ready, closing, and how many requests it has accepted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bart_onnx.errors import SchedulerClosedError


class Lifetime:
    """Of one server; used in its event loop only.

    Attributes:
        closing: whether new requests are refused.
        accepted: requests that have come whole and are not answered.
    """

    def __init__(self) -> None:
        self.closing = False
        self.accepted = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._coming: set[asyncio.Timeout] = set()
        self._ended = False

    def begin(self) -> None:
        """A request was accepted."""
        self.accepted += 1
        self._idle.clear()

    def end(self) -> None:
        """One was answered, or its client left."""
        self.accepted -= 1
        if not self.accepted:
            self._idle.set()

    @asynccontextmanager
    async def reading(self, seconds: float) -> AsyncIterator[None]:
        """While the rest of a request comes: so long it is not accepted.

        Raises:
            TimeoutError: it takes longer.
            SchedulerClosedError: the server ends before.
        """
        self.end()
        try:
            async with asyncio.timeout(0 if self._ended else seconds) as limit:
                self._coming.add(limit)
                yield
        except TimeoutError:
            if self._ended:
                raise SchedulerClosedError(
                    "The request had not come when the server ended."
                ) from None
            raise
        finally:
            self._coming.discard(limit)
            self.begin()

    def end_reading(self) -> None:
        """Wait no longer for what has not come."""
        self._ended = True
        for limit in self._coming:
            if not limit.expired():
                limit.reschedule(0)

    async def idle(self, timeout: float) -> bool:
        """Wait until nothing is under way; whether that is so in time."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

"""Lifetime: whether a server is ready, closing, and how many requests it has accepted."""

from __future__ import annotations

import asyncio


class Lifetime:
    """Of one server; used in its event loop only.

    Attributes:
        closing: whether new requests are refused.
        accepted: requests that were accepted and are not answered.
    """

    def __init__(self) -> None:
        self.closing = False
        self.accepted = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        """A request was accepted."""
        self.accepted += 1
        self._idle.clear()

    def end(self) -> None:
        """One was answered, or its client left."""
        self.accepted -= 1
        if not self.accepted:
            self._idle.set()

    async def idle(self, timeout: float) -> bool:
        """Wait until nothing is under way; whether that is so in time."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

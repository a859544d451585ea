"""Stage: threads beside the event loop, and no more waits for them than is worth waiting.

It knows neither what they do nor for whom.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from bart_onnx.errors import DeadlineError, QueueFullError, SchedulerClosedError

_LONGEST_RETRY = 30  # seconds

T = TypeVar("T")


class Stage:
    """Some threads; whoever asks for them holds a place. They are asked in one event loop.

    Args:
        what: they make; for messages.
        advice: what to do where they cannot.
        threads: how many.

    Attributes:
        waiting: places that are held.
        size: characters that their holders brought.
        closed: whether no other work is begun.
    """

    def __init__(self, what: str, advice: str, threads: int = 1) -> None:
        self._what, self._advice, self._count = what, advice, threads
        self._threads = ThreadPoolExecutor(threads, what)
        self.waiting, self.size, self.closed = 0, 0, False
        self._took = 0.0  # seconds, the last work

    @asynccontextmanager
    async def place(
        self, deadline: float, most: int, size: int = 0, largest: float = math.inf
    ) -> AsyncIterator[None]:
        """Hold a place.

        Args:
            deadline: seconds that it may be held, waiting included.
            most: how many may be held.
            size: characters that its holder brings.
            largest: how many may be there; a single holder's are taken in any case.

        Raises:
            QueueFullError: more would be.
            DeadlineError: it takes longer.
        """
        if self.waiting >= most or (self.waiting and self.size + size > largest):
            seconds = math.ceil(self._took * self.waiting / self._count)
            raise QueueFullError(
                f"{self.waiting} wait for {self._what} already; {self._advice}, or ask again.",
                min(max(seconds, 1), _LONGEST_RETRY),
            )
        self.waiting, self.size = self.waiting + 1, self.size + size
        try:
            async with asyncio.timeout(deadline):
                yield
        except TimeoutError:
            raise DeadlineError(
                f"{self._what.capitalize()} took more than {deadline:g} seconds; {self._advice}."
            ) from None
        finally:
            self.waiting, self.size = self.waiting - 1, self.size - size

    async def turn(self, work: Callable[[], T]) -> T:
        """What some work gives, done by a thread; who is cancelled waits for no end of it.

        Raises:
            SchedulerClosedError: it was closed before its turn.
        """
        left = [work]

        def done() -> T:
            if self.closed:
                raise self._ended()
            began = time.monotonic()
            try:
                return left.pop()()
            finally:
                self._took = time.monotonic() - began

        try:
            doing = self._threads.submit(done)
        except RuntimeError:  # the threads have ended
            raise self._ended() from None
        try:
            return await asyncio.wrap_future(doing)
        finally:
            # What nobody waits for stays in the threads' queue for a while; its texts do not.
            left.clear()

    def close(self) -> None:
        """Finish the work under way, and end the threads."""
        self.closed = True
        self._threads.shutdown()

    def _ended(self) -> SchedulerClosedError:
        return SchedulerClosedError(f"No more {self._what} are made; ask again elsewhere.")

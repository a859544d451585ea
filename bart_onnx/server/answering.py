"""Answering: rows of a plan, decoded by a scheduler's thread, awaited in an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from bart_onnx.configured import Plan
from bart_onnx.errors import DeadlineError
from bart_onnx.server.requests import Hypotheses, Request, Ticket, Update
from bart_onnx.server.scheduler import Scheduler

# Requests of several sequences have no listener, so their tickets are looked at so often.
_LOOK = 0.005

# Seconds that an engine has, after a request's time is over, to say that it is.
_GRACE = 10.0

T = TypeVar("T")


class Answers:
    """All rows of a plan, submitted; to be made, and awaited, in one event loop.

    Args:
        deadline: seconds that each may take.

    Raises:
        InputError, QueueFullError, SchedulerClosedError: one of them is not taken; then none is.
    """

    def __init__(self, scheduler: Scheduler, plan: Plan, deadline: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + deadline + _GRACE
        self._told: deque[tuple[int, Update]] = deque()
        self._changed, self._waking, self._over = asyncio.Event(), False, False
        self._listens = plan.task.options.num_return_sequences == 1
        self.tickets: list[Ticket] = []
        try:
            for row in range(len(plan.limits)):
                listener = partial(self._tell, row) if self._listens else None
                request = Request(plan, row, deadline, listener=listener)
                self.tickets.append(scheduler.submit(request))
        except Exception:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Want nothing more of it; what is finished stays so."""
        self._over = True
        for ticket in self.tickets:
            ticket.cancel()

    async def all(self) -> list[Hypotheses]:
        """What was found for each row.

        Raises:
            DecodingError, ServingError: of the first row that failed.
        """
        found: dict[int, Hypotheses] = {}
        async for row, update in self.updates():
            if update.hypotheses is not None:
                found[row] = update.hypotheses
        return [found[row] for row in range(len(self.tickets))]

    async def updates(self) -> AsyncIterator[tuple[int, Update]]:
        """A row and what is new of it, until all are finished.

        Raises:
            DecodingError, ServingError: of the first row that failed.
        """
        left = len(self.tickets)
        async for row, update in self._listened() if self._listens else self._looked():
            if update.error is not None:
                raise update.error
            yield row, update
            left -= update.hypotheses is not None
            if not left:
                return

    async def _listened(self) -> AsyncIterator[tuple[int, Update]]:
        while True:
            try:
                async with asyncio.timeout_at(self._end):
                    await self._changed.wait()
            except TimeoutError:
                raise self._silence() from None
            self._changed.clear()
            while self._told:
                yield self._told.popleft()

    async def _looked(self) -> AsyncIterator[tuple[int, Update]]:
        left = dict(enumerate(self.tickets))
        while left:
            for row, ticket in list(left.items()):
                if ticket.done:
                    del left[row]
                    yield row, Update(np.zeros(0, np.int64), ticket.result(0))
            if left and self._loop.time() > self._end:
                raise self._silence()
            await asyncio.sleep(_LOOK)

    def _silence(self) -> DeadlineError:
        return DeadlineError("The engine has not answered in time, nor said so; ask again.")

    def _tell(self, row: int, update: Update) -> None:
        """Called in the engine's thread; wakes the loop once for all that is told till it runs."""
        if self._over:  # the loop may have ended too
            return
        self._told.append((row, update))
        if not self._waking:
            self._waking = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._waking = False
        self._changed.set()


async def unless_gone(request: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """What some work gives, while the client stays; its body must have been read.

    Raises:
        ClientDisconnect: the client left; the work was cancelled.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

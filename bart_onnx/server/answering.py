"""Answering: rows of a plan, decoded by a scheduler's thread, awaited in an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from bart_onnx.configured import Plan
from bart_onnx.decoding.tasks import Hypothesis
from bart_onnx.errors import DeadlineError
from bart_onnx.server.requests import Hypotheses, Request, Ticket, Update
from bart_onnx.server.scheduler import Scheduler

# Seconds that an engine has, after a request's time is over, to say that it is.
_GRACE = 10.0

#: Characters or tokens that the loop may as well work on itself: 2 ms.
SHORT = 2_000

T = TypeVar("T")


class Answers:
    """All rows of a plan, submitted; to be made, and awaited, in one event loop.

    Args:
        deadline: seconds that each may take.
        priority: the smaller goes first.
        follows: whether tokens are told as they become certain, and not the end alone; of one
            sequence a row they can be.

    Raises:
        InputError, QueueFullError, SchedulerClosedError: one of them is not taken; then none is.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        plan: Plan,
        deadline: float,
        priority: int = 0,
        follows: bool = True,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + deadline + _GRACE
        self._told: deque[tuple[int, Update]] = deque()
        self._changed, self._waking, self._over = asyncio.Event(), False, False
        follows = follows and plan.task.options.num_return_sequences == 1
        self.tickets: list[Ticket] = []
        try:
            for row in range(len(plan.limits)):
                listener = partial(self._tell, row)
                request = Request(plan, row, deadline, priority, listener, follows)
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
        while left:
            for row, update in await self._news():
                if update.error is not None:
                    raise update.error
                yield row, update
                left -= update.hypotheses is not None

    async def _news(self) -> list[tuple[int, Update]]:
        """What has been told since the last time, when there is something."""
        try:
            async with asyncio.timeout_at(self._end):
                await self._changed.wait()
        except TimeoutError:
            raise DeadlineError(
                "The engine has not answered in time, nor said so; ask again."
            ) from None
        self._changed.clear()
        return [self._told.popleft() for _ in range(len(self._told))]

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


async def aside(found: Iterable[Hypotheses], work: Callable[[], T]) -> T:
    """What some work on what was found gives, in a thread where it is not short.

    A thread takes 0.2 ms to be asked.
    """
    size = sum(_size(each) for hypotheses in found for each in hypotheses)
    return work() if size <= SHORT else await asyncio.to_thread(work)


def _size(found: Hypothesis) -> int:
    """Tokens to be told; with log-probabilities each by itself and with others, which takes seven
    times as long.
    """
    if found.log_probs is None:
        return len(found.token_ids)
    others = 0 if found.top_ids is None else found.top_ids.shape[1]
    return 7 * (1 + others) * len(found.token_ids)


async def unless_gone(request: HttpRequest, work: Awaitable[T]) -> T:
    """What some work gives, while the client stays; its body must have been read.

    Raises:
        ClientDisconnect: the client left; the work was cancelled.
    """
    working, left = asyncio.current_task(), False
    assert working is not None
    before = working.cancelling()

    async def leaving() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        working.cancel()

    watch = asyncio.ensure_future(leaving())
    try:
        return await work
    except asyncio.CancelledError:
        # Another's wish to cancel goes before.
        if left and working.uncancel() <= before:
            raise ClientDisconnect from None
        raise
    finally:
        watch.cancel()

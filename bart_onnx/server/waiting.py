"""Waiting: requests that are not under way yet, in the order in which they will be.

It is bounded by their number and by the tokens of their sources; any thread may use it.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from bart_onnx.errors import QueueFullError, SchedulerClosedError
from bart_onnx.server.requests import Request, Ticket

# A request that does not fit may be passed by so many that do.
_MOST_PASSED = 16
# Seconds that are looked back on to say how fast requests are finished.
_PACE = 30.0
_LONGEST_RETRY = 30


@dataclass(frozen=True)
class Held:
    """What the caches of some requests may come to hold.

    Attributes:
        sources, widest: how many, and tokens of the longest; all are given its width.
        rows, longest: how many are decoded, and the longest output; likewise.
    """

    sources: int = 0
    widest: int = 0
    rows: int = 0
    longest: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of cache."""
        return self.sources * self.widest + self.rows * self.longest

    def and_of(self, *requests: Request) -> Held:
        """With those of more."""
        sources, widest, rows, longest = self.sources, self.widest, self.rows, self.longest
        for request in requests:
            sources, rows = sources + 1, rows + request.copies
            widest = max(widest, request.source_tokens)
            longest = max(longest, request.output_tokens)
        return Held(sources, widest, rows, longest)


class Waiting:
    """The queue.

    Args:
        most: requests that may wait.
        most_tokens: tokens of their sources.
    """

    def __init__(self, most: int, most_tokens: int) -> None:
        self._most, self._most_tokens = most, most_tokens
        self._tickets: list[Ticket] = []
        self._tokens = 0
        # Before this time none of them is late.
        self._soonest = math.inf
        self._closed = False
        self._paces: deque[tuple[float, int]] = deque()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def closed(self) -> bool:
        """Whether no more are taken."""
        return self._closed

    def add(self, ticket: Ticket, now: float) -> None:
        """Put a ticket behind those of its priority.

        Raises:
            QueueFullError, SchedulerClosedError: as they say.
        """
        with self._changed:
            if self._closed:
                raise SchedulerClosedError(
                    "The scheduler is closing and takes no more requests; ask another."
                )
            tokens = self._tokens + ticket.request.source_tokens
            if len(self._tickets) >= self._most or (self._tickets and tokens > self._most_tokens):
                raise self._full(now)
            bisect.insort(self._tickets, ticket, key=_order)
            self._tokens = tokens
            self._soonest = min(self._soonest, ticket.deadline)
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> list[Ticket]:
        """All that wait; they wait no longer."""
        with self._changed:
            tickets = self._tickets
            self._leave(set(tickets))
        return tickets

    def wait(self) -> None:
        """Until there is something to take, or nothing will come any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._tickets or self._closed)

    def drop(self, now: float, unwanted: bool) -> list[Ticket]:
        """Those that are cancelled or whose time is over; they wait no longer.

        Args:
            unwanted: whether any may have been cancelled; else they are looked at only when one of
                them may be late.
        """
        if not unwanted and now < self._soonest:
            return []
        with self._changed:
            going = [each for each in self._tickets if each.cancelled or now >= each.deadline]
            self._leave(set(going))
            self._soonest = soonest(self._tickets)
        return going

    def take(
        self,
        held: Held,
        tokens: int,
        rows: int,
        encoder_tokens: int,
        of_others: int | None = None,
    ) -> list[Ticket]:
        """The next ones that fit beside what is held, and are to be encoded now.

        Args:
            tokens, rows: what may be held in all.
            encoder_tokens: of sources to encode; what was saved up is for the first alone.
            of_others: of those, where the first is not encoded; None for as many.
        """
        taken: list[Ticket] = []
        passed: list[Ticket] = []
        with self._changed:
            for place, ticket in enumerate(self._tickets):
                if place and of_others is not None:
                    encoder_tokens = min(encoder_tokens, of_others)
                source_tokens = ticket.request.source_tokens
                if source_tokens > encoder_tokens or held.rows >= rows:
                    break
                grown = held.and_of(ticket.request)
                # A request of more rows than are meant to run together runs alone.
                if held.sources and (grown.tokens > tokens or grown.rows > rows):
                    passed.append(ticket)
                    if ticket.passed >= _MOST_PASSED:
                        break
                    continue
                held, encoder_tokens = grown, encoder_tokens - source_tokens
                taken.append(ticket)
                for each in passed:
                    each.passed += 1
            self._leave(set(taken))
        return taken

    def first(self) -> Ticket | None:
        """The one whose turn is next."""
        with self._changed:
            return self._tickets[0] if self._tickets else None

    def note_finished(self, tokens: int, now: float) -> None:
        """A request of so many tokens is over."""
        with self._changed:
            self._paces.append((now, tokens))
            while now - self._paces[0][0] > _PACE:
                self._paces.popleft()

    def _leave(self, tickets: set[Ticket]) -> None:
        if tickets:
            self._tickets = [each for each in self._tickets if each not in tickets]
            self._tokens -= sum(each.request.source_tokens for each in tickets)

    def _full(self, now: float) -> QueueFullError:
        waiting = sum(each.request.tokens for each in self._tickets)
        seconds = 1
        if self._paces:
            spent = max(now - self._paces[0][0], 1.0)
            pace = sum(tokens for _, tokens in self._paces) / spent
            seconds = min(max(math.ceil(waiting / pace), 1), _LONGEST_RETRY)
        return QueueFullError(
            f"{len(self._tickets)} requests with {self._tokens} source tokens wait already; the "
            f"queue holds {self._most} and {self._most_tokens}. Ask again in {seconds} s.",
            seconds,
        )


def soonest(tickets: Iterable[Ticket]) -> float:
    """When the first of these is late; infinity where none ever is."""
    return min((each.deadline for each in tickets), default=math.inf)


def _order(ticket: Ticket) -> tuple[int, int]:
    return ticket.request.priority, ticket.number

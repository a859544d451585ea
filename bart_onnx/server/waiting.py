"""Waiting: requests that are not under way yet, in the order in which they will be.

It is bounded by their number and by the tokens of their sources; any thread may use it.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections import deque
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

    def and_of(self, request: Request) -> Held:
        """With those of one more."""
        return Held(
            self.sources + 1,
            max(self.widest, request.source_tokens),
            self.rows + request.copies,
            max(self.longest, request.output_tokens),
        )


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

    def drop(self, now: float) -> tuple[list[Ticket], list[Ticket]]:
        """Those that are cancelled, and those whose time is over; they wait no longer."""
        with self._changed:
            going = [each for each in self._tickets if each.cancelled or is_late(each, now)]
            self._leave(set(going))
        cancelled = [each for each in going if each.cancelled]
        late = [each for each in going if not each.cancelled]
        return cancelled, late

    def take(
        self, held: Held, tokens: int, rows: int, encoder_tokens: int, of_others: int
    ) -> list[Ticket]:
        """The next ones that fit beside what is held, and are to be encoded now.

        Args:
            tokens, rows: what may be held in all.
            encoder_tokens: of sources to encode; what was saved up is for the first alone.
            of_others: of those, where the first is not encoded.
        """
        taken: list[Ticket] = []
        passed: list[Ticket] = []
        with self._changed:
            for place, ticket in enumerate(self._tickets):
                if place:
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


def is_late(ticket: Ticket, now: float) -> bool:
    """Whether a ticket's time is over."""
    return ticket.deadline is not None and now >= ticket.deadline


def _order(ticket: Ticket) -> tuple[int, int]:
    return ticket.request.priority, ticket.number

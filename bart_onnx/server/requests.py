"""Requests and tickets: what one row is asked for, and what becomes of it. It knows no thread."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bart_onnx.configured import Plan
from bart_onnx.decoding.company import company
from bart_onnx.decoding.decode import kind_of
from bart_onnx.decoding.search import Search
from bart_onnx.decoding.tasks import Hypothesis
from bart_onnx.errors import (
    DeadlineError,
    DecodingError,
    EngineError,
    InputError,
    RequestCancelledError,
)

IdArray = NDArray[np.int64]
Hypotheses: TypeAlias = tuple[Hypothesis, ...]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Update:
    """What a listener is told.

    Attributes:
        token_ids: what the best hypothesis is known to begin with, its prompt included.
        hypotheses: all that was asked for, best first, when the request is finished.
        error: why it is not, when it has failed.
        log_probs: of those tokens that follow the prompt; None if nobody asked.
    """

    token_ids: IdArray
    hypotheses: Hypotheses | None = None
    error: Exception | None = None
    log_probs: NDArray[np.float32] | None = None


Listener = Callable[[Update], None]


@dataclass(frozen=True)
class Request:
    """One row of a call, as `ConfiguredCall.plan` made it: the same tokens come as from that.

    Attributes:
        row: which of the plan's.
        deadline: seconds from its submission on; None for as long as it takes.
        priority: the smaller goes first.
        listener: called in the engine's thread after each step that made tokens certain, and at
            the end; what it raises fails the request. It should not take long.
        follows: whether the listener is told of tokens, and not of the end alone.

    Raises:
        InputError: the plan has no such row or refuses it, a deadline or priority is no number, or
            a listener follows several sequences of one row.
    """

    plan: Plan
    row: int = 0
    deadline: float | None = None
    priority: int = 0
    listener: Listener | None = None
    follows: bool = True

    def __post_init__(self) -> None:
        rows = len(self.plan.prompts.prompt_lengths)
        if not _is_int(self.row) or not 0 <= self.row < rows:
            raise InputError(f"row must be one of the plan's {rows}, from 0; found {self.row!r}.")
        if not _is_int(self.priority):
            raise InputError(f"priority must be a whole number, found {self.priority!r}.")
        if self.deadline is not None and not _is_finite(self.deadline):
            raise InputError(f"deadline must be seconds, found {self.deadline!r}.")
        if (why := self.plan.refused.get(self.row)) is not None:
            raise InputError(f"Row {self.row} cannot be decoded: {why}.")
        options = self.plan.task.options
        if self.is_followed and options.num_return_sequences > 1:
            raise InputError("A listener follows one sequence; leave num_return_sequences at 1.")

    @property
    def is_followed(self) -> bool:
        """Whether anyone is told of its tokens before the end."""
        return self.listener is not None and self.follows

    # What admission asks for at each turn is read from arrays once.

    @cached_property
    def copies(self) -> int:
        """Rows that are decoded for it."""
        return self.plan.task.options.copies

    @cached_property
    def source_tokens(self) -> int:
        """Tokens of its source."""
        return int(self.plan.prompts.encoder_lengths[self.row])

    @property
    def tokens(self) -> int:
        """Tokens that its caches may come to hold: its source and the longest of each copy."""
        return self.source_tokens + self.copies * self.output_tokens

    @cached_property
    def output_tokens(self) -> int:
        """Tokens of the longest output of one of its rows."""
        return int(self.plan.limits[self.row])

    def search(self) -> Search:
        """A search for it alone."""
        task = self.plan.task
        return kind_of(task)(task, self.plan.prompts, np.array([self.row]), self.plan.limits)


@dataclass
class Statistics:
    """When what happened to a request, by the scheduler's clock; None for what has not.

    Attributes:
        started: when it left the queue.
        encoded: when its source had been read.
        first_token: when its first token had been chosen.
        finished: when it was finished, or failed.
        steps, drafted_tokens, accepted_tokens: see `Hypothesis`.
    """

    submitted: float
    started: float | None = None
    encoded: float | None = None
    first_token: float | None = None
    finished: float | None = None
    steps: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class Ticket:
    """One submitted request. Any thread may wait for it or cancel it.

    Args:
        unwanted: called, in any thread, when it is cancelled.

    Attributes:
        number: no other request of a scheduler has it.
        deadline: by the scheduler's clock; infinity where there is none.
        company: see `decoding.company`.
        passed: how many smaller requests went before it because it did not fit.
    """

    def __init__(
        self, request: Request, number: int, now: float, unwanted: Callable[[], None]
    ) -> None:
        self.request, self.number, self._unwanted = request, number, unwanted
        self.statistics = Statistics(now)
        self.deadline = math.inf if request.deadline is None else now + request.deadline
        self.company: Hashable | None = company(request.plan.task)
        self.search = request.search()
        if self.company is not None:
            self.search.rename(number)
        self.passed = 0
        self._cancelled, self._done = False, threading.Event()
        self._fault: BaseException | None = None
        self._hypotheses: Hypotheses = ()
        self._error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether it is finished or has failed."""
        return self._done.is_set()

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants it any more."""
        return self._cancelled

    @property
    def cancellation(self) -> Exception:
        """What it ends with because nobody wants it."""
        if self._fault is None:
            return cancelled()
        error = EngineError(
            f"The request's listener raised {type(self._fault).__name__}: {self._fault}. Mend it, "
            "and send the request again."
        )
        error.__cause__ = self._fault
        return error

    @property
    def number_in_search(self) -> int:
        """What its search calls it."""
        return self.request.row if self.company is None else self.number

    def cancel(self) -> None:
        """Want it no more; its rows leave before the next step."""
        self._cancelled = True
        if not self.done:
            self._unwanted()

    def result(self, timeout: float | None = None) -> Hypotheses:
        """Its hypotheses, best first, when they are there.

        Raises:
            TimeoutError: they are not after `timeout` seconds; the request goes on.
            DecodingError, ServingError: it failed.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"The request is not finished after {timeout:g} seconds.")
        if self._error is not None:
            raise self._error
        return self._hypotheses

    def tell(self, token_ids: IdArray, log_probs: NDArray[np.float32] | None) -> None:
        """Tell a listener that follows what is certain."""
        self._tell(Update(token_ids, log_probs=log_probs))

    def finish(self, hypotheses: Hypotheses, now: float) -> None:
        """Settle it with what was found."""
        if self.done:
            return
        best, statistics = hypotheses[0], self.statistics
        statistics.steps, statistics.drafted_tokens = best.steps, best.drafted_tokens
        statistics.accepted_tokens = best.accepted_tokens
        self._hypotheses = hypotheses
        self._settle(Update(best.token_ids, hypotheses, log_probs=best.log_probs), now)

    def fail(self, error: Exception, now: float) -> None:
        """Settle it with why nothing was found."""
        if self.done:
            return
        self._error = error
        self._settle(Update(np.zeros(0, np.int64), error=error), now)

    def _settle(self, update: Update, now: float) -> None:
        self.statistics.finished = now
        self._done.set()
        self._tell(update)

    def _tell(self, update: Update) -> None:
        if self.request.listener is None or self._fault is not None:
            return
        try:
            self.request.listener(update)
        except BaseException as error:  # whatever it is, it is that caller's affair alone
            _log.exception("The listener of request %d raised; it is cancelled.", self.number)
            self._fault = error
            self.cancel()


def _is_int(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    real = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return real and bool(np.isfinite(value))


def as_error(message: str) -> DecodingError:
    """What a search says of a row that failed."""
    return DecodingError(
        f"The request could not be decoded: {message.rstrip('.')}.", {0: message}, []
    )


def cancelled() -> RequestCancelledError:
    """What a cancelled request ends with."""
    return RequestCancelledError("The request was cancelled.")


def why_dropped(ticket: Ticket, doing: str) -> Exception:
    """What a ticket ends with that is cancelled, or else late.

    Args:
        doing: what became of it meanwhile.
    """
    if ticket.cancelled:
        return ticket.cancellation
    return DeadlineError(
        f"The request was to be finished within {ticket.request.deadline:g} s, which passed while "
        f"{doing}; give it more time, or ask when there is less to do."
    )

"""Requests and tickets: what one row is asked for, and what becomes of it. It knows no thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bart_onnx.configured import Plan
from bart_onnx.decoding.company import company
from bart_onnx.decoding.decode import kind_of
from bart_onnx.decoding.search import Hypothesis, Search
from bart_onnx.errors import DecodingError, EngineError, InputError, RequestCancelledError

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
    """

    token_ids: IdArray
    hypotheses: Hypotheses | None = None
    error: Exception | None = None


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

    Raises:
        InputError: the plan has no such row or refuses it, a deadline or priority is no number, or
            there is a listener for several sequences of one row.
    """

    plan: Plan
    row: int = 0
    deadline: float | None = None
    priority: int = 0
    listener: Listener | None = None

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
        if self.listener is not None and options.num_return_sequences > 1:
            raise InputError("A listener is told one sequence; leave num_return_sequences at 1.")

    @property
    def copies(self) -> int:
        """Rows that are decoded for it."""
        return self.plan.task.options.copies

    @property
    def source_tokens(self) -> int:
        """Tokens of its source."""
        return int(self.plan.prompts.encoder_lengths[self.row])

    @property
    def tokens(self) -> int:
        """Tokens that its caches may come to hold: its source and the longest of each copy."""
        return self.source_tokens + self.copies * self.output_tokens

    @property
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

    Attributes:
        number: no other request of a scheduler has it.
        company: see `decoding.company`.
        passed: how many smaller requests went before it because it did not fit.
    """

    def __init__(self, request: Request, number: int, now: float) -> None:
        self.request, self.number = request, number
        self.statistics = Statistics(now)
        self.deadline = None if request.deadline is None else now + request.deadline
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

    def tell(self, token_ids: IdArray) -> None:
        """Tell the listener what is certain."""
        self._tell(Update(token_ids))

    def finish(self, hypotheses: Hypotheses, now: float) -> None:
        """Settle it with what was found."""
        if self.done:
            return
        best, statistics = hypotheses[0], self.statistics
        statistics.steps, statistics.drafted_tokens = best.steps, best.drafted_tokens
        statistics.accepted_tokens = best.accepted_tokens
        self._hypotheses = hypotheses
        self._settle(Update(best.token_ids, hypotheses), now)

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
            self._fault, self._cancelled = error, True


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

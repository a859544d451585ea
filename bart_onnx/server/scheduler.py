"""Scheduler: requests of many threads, decoded together by one thread of its own.

Each gives the tokens that it gives alone: on a CPU and without drafts bit-equal log-probabilities
too. It knows no text and no wire; `ConfiguredCall.plan` makes of a call what it takes.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from types import TracebackType
from typing import Any, Self

from bart_onnx.decoding.protocols import SlotRunner
from bart_onnx.errors import EngineError, InputError, SchedulerClosedError
from bart_onnx.server.engine import Clock, Engine
from bart_onnx.server.limits import Limits, Load
from bart_onnx.server.requests import Request, Ticket, cancelled
from bart_onnx.server.waiting import Waiting

_log = logging.getLogger(__name__)

_NO_LIMITS = Limits()


class Scheduler:
    """A queue, an engine and its thread.

    Args:
        clock: seconds; what deadlines are counted by.
        threaded: whether a thread takes the turns; else whoever calls `turn` does.

    Raises:
        InputError: rows cannot join others on this runner.
    """

    def __init__(
        self,
        runner: SlotRunner[Any],
        limits: Limits = _NO_LIMITS,
        *,
        clock: Clock = time.monotonic,
        threaded: bool = True,
    ) -> None:
        self._clock = clock
        self._waiting = Waiting(limits.waiting, limits.waiting_tokens)
        self._engine = Engine(runner, self._waiting, limits, clock)
        self._numbers = itertools.count()
        # When a turn ended, or there was something to do again.
        self._turned = clock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._run, name="bart_onnx engine", daemon=True)
            self._thread.start()

    # What looks after a scheduler reads these; no lock is taken, since who holds it may hang.

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return self._engine.busy

    @property
    def quiet(self) -> float:
        """Seconds since a turn ended, or since there was something to do again."""
        return self._clock() - self._turned

    @property
    def faults(self) -> int:
        """How many of the last things that the engine did have failed, none in between."""
        return self._engine.faults

    @property
    def closed(self) -> bool:
        """Whether no more requests are taken."""
        return self._waiting.closed

    @property
    def load(self) -> Load:
        """What it has to do."""
        return self._engine.load

    def submit(self, request: Request) -> Ticket:
        """Queue a request.

        Raises:
            InputError: it asks for more cache than there is for all.
            QueueFullError: too many wait; it says when to ask again.
            SchedulerClosedError: it takes no more, or its thread is not in this process.
        """
        most = self._engine.cache_tokens
        if request.tokens > most:
            raise InputError(
                f"The request may come to {request.tokens} tokens of cache ({request.source_tokens}"
                f" of its source, and its longest output for each of {request.copies} rows); there "
                f"are {most} in all. Ask for fewer beams or sequences, or a shorter output."
            )
        if self._thread is not None and not self._thread.is_alive():
            raise SchedulerClosedError(
                "The scheduler's thread has ended, or is another process's; open a scheduler here."
            )
        now = self._clock()
        if not self._engine.busy:
            self._turned = now
        ticket = Ticket(request, next(self._numbers), now, self._engine.note_unwanted)
        self._waiting.add(ticket, now)
        return ticket

    def turn(self) -> bool:
        """Take one turn where no thread does; whether there is more to do."""
        return self._turn()

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests, and finish those that were taken; whether that is done in time.

        In the engine's own thread, where listeners are called, it cannot wait, and says no.
        """
        self._waiting.close()
        if self._thread is threading.current_thread():
            return False
        if self._thread is None:
            while self._turn():
                pass
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Take no more requests, cancel those that were taken, and end the thread.

        In that thread it does not wait: the thread ends when its turn is over.
        """
        self._stopped.set()
        self._waiting.close()
        if self._thread is None:
            self._end()
        elif self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                if not self._turn():
                    # Once it is closed, nothing comes that is not there now.
                    if self._waiting.closed and not len(self._waiting):
                        break
                    self._waiting.wait()
        finally:
            # However it ends, nobody is left waiting.
            self._waiting.close()
            self._end()

    def _turn(self) -> bool:
        try:
            return self._engine.turn()
        except Exception as error:  # a fault of the engine must not end it
            _log.exception("A turn of the engine failed; what was under way fails with it.")
            told = EngineError(f"The engine failed at {type(error).__name__}: {error}. Ask again.")
            told.__cause__ = error
            self._engine.faults += 1
            self._engine.fail_all(told)
            return True
        finally:
            self._turned = self._clock()

    def _end(self) -> None:
        """Cancel what is left."""
        self._engine.fail_all(cancelled())
        for ticket in self._waiting.clear():
            ticket.fail(cancelled(), self._clock())

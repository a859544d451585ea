"""Engine: turns in which requests leave, join and take a step. One thread uses it; it starts none.

A turn is: who is cancelled, late or finished leaves; who waits is encoded, as far as there is room;
then every lane takes one step. A request fails alone where the fault is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bart_onnx.decoding.protocols import SlotRunner
from bart_onnx.errors import BartOnnxError, DeadlineError, EngineError, InputError
from bart_onnx.server.encoding import encoded
from bart_onnx.server.lane import Lane, Member
from bart_onnx.server.requests import Ticket, as_error
from bart_onnx.server.waiting import Held, Waiting, is_late

# As for batches of one call, see `decoding.prompts`.
_CACHE_TOKENS = 32_768

# Turns between two that encode, so that sources are encoded several at a time: alone, those of a
# small model take three times as long.
_PAUSE = 4

Clock = Callable[[], float]


@dataclass(frozen=True)
class Limits:
    """How much is taken on at a time.

    Attributes:
        cache_tokens: tokens that the caches of all requests under way may come to hold: of each
            its source and each of its rows, all as long as the longest of them. Memory has room for
            up to twice as many, so that it need not grow with each.
            None for what the runner says.
        rows: rows decoded together.
        encoder_tokens: source tokens that are encoded in one go while rows run, which is every
            fourth step at most; a longer source waits for so many gos as it is worth.
        waiting, waiting_tokens: requests that may wait, and tokens of their sources.

    Raises:
        InputError: one of them is no whole number, or less than 1.
    """

    cache_tokens: int | None = None
    rows: int = 64
    encoder_tokens: int = 1024
    waiting: int = 256
    waiting_tokens: int = 262_144

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and value >= 1) and not (name == "cache_tokens" and value is None):
                raise InputError(f"{name} must be a whole number, at least 1; found {value!r}.")


@dataclass(frozen=True)
class Load:
    """What a scheduler has to do.

    Attributes:
        waiting: requests not under way.
        running: requests under way, and `rows`, `cache_tokens` what they take.
    """

    waiting: int
    running: int
    rows: int
    cache_tokens: int


class Engine:
    """Requests under way on one runner.

    Raises:
        InputError: rows cannot join others on this runner.
    """

    def __init__(
        self, runner: SlotRunner[Any], waiting: Waiting, limits: Limits, clock: Clock
    ) -> None:
        if not hasattr(runner, "slots"):
            raise InputError(
                f"{type(runner).__name__} decodes batches only: rows cannot join its states. Use "
                "a bundle on a CPU."
            )
        self._runner, self._waiting, self._limits = runner, waiting, limits
        self._clock = clock
        self.cache_tokens = limits.cache_tokens or runner.batch_tokens or _CACHE_TOKENS
        self._lanes: dict[int, Lane[Any]] = {}
        self._running: dict[int, Ticket] = {}
        # Source tokens that may be encoded now, and turns since any were.
        self._allowance = self._turns = 0

    @property
    def load(self) -> Load:
        """What there is to do."""
        held = self._held()
        return Load(len(self._waiting), held.sources, held.rows, held.tokens)

    def turn(self) -> bool:
        """Take one turn; whether anything is under way or waits."""
        self._let_go()
        self._admit()
        for copies in list(self._lanes):
            self._step(copies)
        return bool(self._running or len(self._waiting))

    def fail_all(self, error: Exception) -> None:
        """End all that is under way."""
        for ticket in list(self._running.values()):
            self._fail(ticket, error)
        self._lanes.clear()

    def _held(self) -> Held:
        held = Held()
        for ticket in list(self._running.values()):
            held = held.and_of(ticket.request)
        return held

    def _let_go(self) -> None:
        """What nobody wants, or not any more, leaves; so does what is finished."""
        now = self._clock()
        dropped, late = self._waiting.drop(now)
        for ticket in dropped:
            ticket.fail(ticket.cancellation, now)
        for ticket in late:
            ticket.fail(_too_late(ticket, "it waited"), now)
        for copies, lane in list(self._lanes.items()):
            for member in lane.members:
                for line, ticket in member.in_flight():
                    if ticket.cancelled:
                        self._fail(ticket, ticket.cancellation)
                    elif is_late(ticket, now):
                        self._fail(ticket, _too_late(ticket, "it was being decoded"))
                    member.search.alive[line] = not ticket.done
            try:
                lane.compact()
            except Exception as error:  # of whatever kind, the caches are not to be trusted
                self._drop_lane(copies, error)
            if not lane.members and len(self._lanes) > 1:
                # The last one's memory is kept for those to come.
                self._lanes.pop(copies, None)

    def _admit(self) -> None:
        """Encode who waits, as far as there is room, and let them join."""
        first = self._waiting.first()
        self._turns += 1
        if first is None or (self._running and self._turns < _PAUSE):
            return
        gained = self._limits.encoder_tokens
        self._turns = 0
        longest = max(gained, first.request.source_tokens)
        self._allowance = min(self._allowance + gained, longest) if self._running else longest
        tickets = self._waiting.take(
            self._held(), self.cache_tokens, self._limits.rows, self._allowance, gained
        )
        self._allowance -= sum(ticket.request.source_tokens for ticket in tickets)
        self._running |= {ticket.number: ticket for ticket in tickets}
        now = self._clock()
        for ticket in tickets:
            ticket.statistics.started = now
        for member, states, error in encoded(self._runner, tickets):
            if error is not None:
                self._fail_member(member, error)
                continue
            now = self._clock()
            for ticket in member.tickets.values():
                ticket.statistics.encoded = now
            self._report(member, list(member.tickets.values()))
            self._join(member, states)

    def _join(self, member: Member, states: Callable[[], list[Any]]) -> None:
        """What goes on after its first token joins the others of its kind."""
        stay = np.flatnonzero(member.search.alive)
        if not len(stay):
            return
        copies = member.search.copies
        try:
            if copies not in self._lanes:
                self._lanes[copies] = Lane(self._runner, copies)
            lane = self._lanes[copies]
            caches = states()
            member.search.take(stay)
            lane.join(member, caches)
        except Exception as error:  # memory may be short, and how far it came is not known
            self._fail_member(member, error)
            self._drop_lane(copies, error)

    def _step(self, copies: int) -> None:
        lane = self._lanes[copies]
        if not lane.members:
            return
        before = [[ticket for _, ticket in member.in_flight()] for member in lane.members]
        try:
            failed = lane.step()
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            self._drop_lane(copies, error)
            return
        for member, fault in failed:
            self._fail_member(member, fault)
        for member, tickets in zip(lane.members, before, strict=True):
            self._report(member, tickets)

    def _report(self, member: Member, tickets: Iterable[Ticket]) -> None:
        """Tell what has become of these tickets in the last step."""
        now, search = self._clock(), member.search
        for number, message in search.failed.items():
            self._fail(member.tickets[number], as_error(message))
        for ticket in tickets:
            if ticket.statistics.first_token is None and search.rows.steps.any():
                ticket.statistics.first_token = now
            found = search.finished.get(ticket.number_in_search)
            if found is not None and not ticket.done:
                self._leave(ticket)
                self._waiting.note_finished(ticket.request.tokens, now)
                ticket.finish(found, now)
        for line, ticket in member.in_flight():
            if ticket.request.listener is not None:
                ticket.tell(search.stable(line).copy())

    def _fail_member(self, member: Member, error: Exception) -> None:
        for ticket in member.tickets.values():
            self._fail(ticket, _of_engine(error))
        member.search.alive[:] = False

    def _drop_lane(self, copies: int, error: Exception) -> None:
        """End what is under way there, and begin anew with the next request."""
        lane = self._lanes.pop(copies, None)
        for member in lane.members if lane is not None else ():
            self._fail_member(member, error)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        if not ticket.done:
            self._leave(ticket)
            ticket.fail(error, self._clock())

    def _leave(self, ticket: Ticket) -> None:
        self._running.pop(ticket.number, None)


def _of_engine(error: Exception) -> Exception:
    """The error that a request ends with when something raised."""
    if isinstance(error, BartOnnxError):
        return error
    told = EngineError(
        f"Decoding this request stopped at {type(error).__name__}: {error}. Send it again; if it "
        "fails each time, look at the functions among its options."
    )
    told.__cause__ = error
    return told


def _too_late(ticket: Ticket, doing: str) -> DeadlineError:
    return DeadlineError(
        f"The request was to be finished within {ticket.request.deadline:g} s, which passed while "
        f"{doing}; give it more time, or ask when there is less to do."
    )

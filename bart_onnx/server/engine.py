"""Engine: turns in which requests leave, join and take a step. One thread uses it; it starts none.

A turn is: who is cancelled, late or finished leaves; who waits is encoded, as far as there is room;
then every lane takes one step. A request fails alone where the fault is its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bart_onnx.decoding.protocols import SlotRunner
from bart_onnx.errors import BartOnnxError, EngineError, InputError
from bart_onnx.server.encoding import encoded
from bart_onnx.server.lane import Lane, Member
from bart_onnx.server.limits import Limits, Load
from bart_onnx.server.requests import Hypotheses, Ticket, as_error, why_dropped
from bart_onnx.server.waiting import Held, Waiting, soonest

# As for batches of one call, see `decoding.prompts`.
_CACHE_TOKENS = 32_768

# Turns between two that encode, so that sources are encoded several at a time: alone, those of a
# small model take three times as long. But where so many would join for each that runs, they do not
# wait for more.
_PAUSE = 4
_MANY = 0.3

Clock = Callable[[], float]


class Engine:
    """Requests under way on one runner.

    Attributes:
        faults: how many sources and steps in a row have failed.

    Raises:
        InputError: rows cannot join others on this runner.
    """

    def __init__(
        self, runner: SlotRunner[Any], waiting: Waiting, limits: Limits, clock: Clock
    ) -> None:
        if not hasattr(runner, "slots"):
            raise InputError(
                f"{type(runner).__name__} decodes batches only: rows cannot join its states. Open "
                "the model on the device cpu or cuda."
            )
        self._runner, self._waiting, self._limits = runner, waiting, limits
        self._clock = clock
        self.cache_tokens = limits.cache_tokens or runner.batch_tokens or _CACHE_TOKENS
        self._lanes: dict[int, Lane[Any]] = {}
        self._running: dict[int, Ticket] = {}
        # Source tokens that may be encoded now, and turns since any were.
        self._allowance = self._turns = self.faults = 0
        # What has ended of a static batch, and is not answered.
        self._held_back: list[tuple[Ticket, Hypotheses]] = []
        # Whether any ticket was cancelled, and the time before which none under way is late.
        self._unwanted, self._soonest = False, math.inf

    @property
    def busy(self) -> bool:
        """Whether anything is under way or waits."""
        return bool(self._running or len(self._waiting))

    @property
    def load(self) -> Load:
        """What there is to do."""
        held = self._held()
        return Load(len(self._waiting), held.sources, held.rows, held.tokens)

    def note_unwanted(self) -> None:
        """Some ticket was cancelled; any thread may say so."""
        self._unwanted = True

    def turn(self) -> bool:
        """Take one turn; whether anything is under way or waits."""
        self._drop()
        self._let_go()
        self._answer_ended()
        self._admit()
        for copies in list(self._lanes):
            self._step(copies)
        self._answer_ended()
        return self.busy

    def fail_all(self, error: Exception) -> None:
        """End all that is under way."""
        for ticket in list(self._running.values()):
            self._fail(ticket, error)
        self._lanes.clear()
        self._answer_all()

    def _held(self) -> Held:
        return Held().and_of(*(ticket.request for ticket in list(self._running.values())))

    def _drop(self) -> None:
        """End what nobody wants, or not any more; nothing is looked through while there is none."""
        now, unwanted = self._clock(), self._unwanted
        if unwanted:
            # Before they are looked through, so that one who leaves meanwhile is seen next time.
            self._unwanted = False
        for ticket in self._waiting.drop(now, unwanted):
            ticket.fail(why_dropped(ticket, "it waited"), now)
        if not unwanted and now < self._soonest:
            return
        for ticket in list(self._running.values()):
            if ticket.cancelled or now >= ticket.deadline:
                self._fail(ticket, why_dropped(ticket, "it was being decoded"))
        self._soonest = soonest(self._running.values())
        for lane in self._lanes.values():
            for member in lane.members:
                for line, ticket in member.in_flight():
                    member.search.alive[line] = not ticket.done

    def _let_go(self) -> None:
        """What has ended leaves its lane."""
        for copies, lane in list(self._lanes.items()):
            try:
                lane.compact()
            except Exception as error:  # of whatever kind, the caches are not to be trusted
                self._drop_lane(copies, error)
            if not lane.members and len(self._lanes) > 1:
                # The last one's memory is kept for those to come.
                self._lanes.pop(copies, None)

    def _admit(self) -> None:
        """Encode who waits, as far as there is room, and let them join."""
        tickets = self._taken()
        self._running |= {ticket.number: ticket for ticket in tickets}
        self._soonest = min(self._soonest, soonest(tickets))
        now = self._clock()
        for ticket in tickets:
            ticket.statistics.started = now
        for member, states, error in encoded(self._runner, tickets):
            if error is not None:
                self.faults += 1
                self._fail_member(member, error)
                continue
            now = self._clock()
            for ticket in member.tickets.values():
                ticket.statistics.encoded = now
            self._report(member)
            self._join(member, states)

    def _taken(self) -> list[Ticket]:
        """Who is to be encoded now; they wait no longer."""
        first, limits, tokens = self._waiting.first(), self._limits, self.cache_tokens
        self._turns += 1
        if first is None:
            return []
        if limits.batching != "continuous":
            return [] if self._running else self._waiting.take(Held(), tokens, limits.rows, tokens)
        gained, running = limits.encoder_tokens, len(self._running)
        longest = max(gained, first.request.source_tokens)
        share = -(-gained // _PAUSE)
        self._allowance = min(self._allowance + share, longest) if running else longest
        joining = min(len(self._waiting), limits.rows - running)
        if self._turns < _PAUSE and joining < _MANY * running:
            return []
        self._turns = 0
        tickets = self._waiting.take(self._held(), tokens, limits.rows, self._allowance, gained)
        self._allowance -= sum(ticket.request.source_tokens for ticket in tickets)
        return tickets

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
        try:
            failed = lane.step()
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            self.faults += 1
            self._drop_lane(copies, error)
            return
        self.faults = 0
        for member in lane.members:
            fault = failed.get(id(member))
            if fault is None:
                self._report(member)
            else:
                self._fail_member(member, fault)

    def _report(self, member: Member) -> None:
        """Tell what the last step has made of a search's requests."""
        now, search = self._clock(), member.search
        for number, message in search.failed.items():
            self._fail(member.tickets[number], as_error(message))
        if member.fresh and search.rows.steps.any():
            for ticket in member.fresh:
                if not ticket.done:
                    ticket.statistics.first_token = now
            member.fresh = []
        for number, found in search.finished.items():
            ticket = member.tickets[number]
            self._leave(ticket)
            self._waiting.note_finished(ticket.request.tokens, now)
            self._held_back.append((ticket, found))
        if self._limits.batching != "static":
            self._answer_all()
        if member.followed:
            for line, ticket in member.in_flight():
                if ticket.request.is_followed:
                    ticket.tell(*search.told(line))

    def _answer_ended(self) -> None:
        """Answer a static batch whose last row has ended, or was dropped."""
        if not self._running:
            self._answer_all()

    def _answer_all(self) -> None:
        now = self._clock()
        for ticket, found in self._held_back:
            ticket.finish(found, now)
        self._held_back.clear()

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
        # What has been found of a static batch is answered, whatever becomes of the rest.
        if ticket.number in self._running:
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

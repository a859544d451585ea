"""Lane: rows that step together, whatever is asked of each. It knows no queue and no clock.

All sources of a lane have as many rows each: on a CPU the rows of a source are folded into the
query axis of its cross-attention, and the length of that axis decides the last bits of a row. So
requests of different `copies` cannot share a step and give what they give alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.company import Lines, wanted_by
from bart_onnx.decoding.greedy import GreedySearch
from bart_onnx.decoding.prompts import fewest_moves
from bart_onnx.decoding.protocols import AnyState, SlotRunner
from bart_onnx.decoding.search import Search
from bart_onnx.server.requests import Ticket

PlaceArray = NDArray[np.intp]


@dataclass
class Member:
    """One search of a lane.

    Attributes:
        tickets: whose its sources are, by the search's numbers.
        company: what requests must have in common to share it.
        places: where its sources lie among the lane's, [sources].
    """

    search: Search
    tickets: dict[int, Ticket]
    company: Hashable | None
    places: PlaceArray

    def in_flight(self) -> Iterator[tuple[int, Ticket]]:
        """The line and ticket of each source that goes on."""
        numbers = self.search.rows.numbers.tolist()
        for line in np.flatnonzero(self.search.alive).tolist():
            yield line, self.tickets[numbers[line]]

    def absorb(self, other: Member) -> None:
        """Take over the sources of another of the same company."""
        self.search.join(other.search)
        self.tickets |= other.tickets
        self.places = np.concatenate([self.places, other.places])


class Lane(Generic[AnyState]):
    """The rows of all requests with so many copies.

    Attributes:
        members: the searches under way.
    """

    def __init__(self, runner: SlotRunner[AnyState], copies: int) -> None:
        self._runner, self._copies = runner, copies
        self._slots = runner.slots(copies)
        self._sources = 0
        self.members: list[Member] = []

    def join(self, member: Member, states: Sequence[AnyState]) -> None:
        """Take on a search whose sources were just read; its places are set here.

        Args:
            states: their caches, one row each, in their order.
        """
        for state in states:
            self._slots.join(state)
        count = len(member.search.alive)
        member.places = np.arange(self._sources, self._sources + count)
        self._sources += count
        # As yet nothing tells the copies of a source apart.
        member.search.moves = np.arange(count * self._copies)
        for other in self.members:
            if member.company is not None and other.company == member.company:
                other.absorb(member)
                return
        self.members.append(member)

    def compact(self) -> None:
        """Let go what does not go on, and move caches as the searches ask for."""
        kept = np.zeros(self._sources, bool)
        for member in self.members:
            kept[member.places[member.search.alive]] = True
        if self._copies == 1 and kept.all():
            return
        order = fewest_moves(kept)
        came = np.empty(self._sources, np.intp)
        came[order] = np.arange(len(order))
        taken = self._rows(order)
        since: list[int] = []
        self.members = [member for member in self.members if member.search.alive.any()]
        for member in self.members:
            stay = np.flatnonzero(member.search.alive)
            sources, copies = np.divmod(member.search.take(stay), self._copies)
            moved_from = member.places[sources] * self._copies + copies
            if (moved_from != self._rows(member.places[stay])).any():
                since.append(member.search.since)
            member.places = came[member.places[stay]]
            member.tickets = {
                number: member.tickets[number] for number in member.search.rows.numbers.tolist()
            }
            taken[self._rows(member.places)] = moved_from
        if len(order) < self._sources:
            self._slots.select(taken)
        elif since:
            self._slots.select(taken, min(since))
        self._sources = len(order)

    def step(self) -> list[tuple[Member, Exception]]:
        """Give every row a token more; the searches that could not choose one, and why.

        Raises:
            Exception: the step itself failed; the lane is of no more use.
        """
        state, members = self._slots.rows, self.members
        room = self._drafting_room(state)
        feeds = [member.search.feed(room) for member in members]
        places = max(feed.shape[1] for feed in feeds)
        token_ids = np.empty((self._sources * self._copies, places), np.int64)
        for member, feed in zip(members, feeds, strict=True):
            rows, width = self._rows(member.places), feed.shape[1]
            token_ids[rows, :width] = feed
            # What is fed after a draft is forgotten.
            token_ids[rows, width:] = feed[:, -1:]
        wanted = wanted_by([member.search.task for member in members])
        outputs = self._runner.step(state, token_ids, wanted)
        failed = []
        for member, feed in zip(members, feeds, strict=True):
            lines = Lines(outputs, self._rows(member.places), feed.shape[1])
            try:
                member.search.choose(lines)
            except Exception as error:  # a function of the request's options may raise anything
                failed.append((member, error))
        if places > 1:
            state.truncate(self._lengths())
        return failed

    def _rows(self, places: PlaceArray) -> PlaceArray:
        """The rows of the sources at these places."""
        rows: PlaceArray = (places[:, None] * self._copies + np.arange(self._copies)).ravel()
        return rows

    def _drafting_room(self, state: AnyState) -> int:
        """How many tokens may be drafted for each row; 0 unless every row has asked for it.

        A row that has not is promised what it gives alone, to the last bit.
        """
        searches: Any = [member.search for member in self.members]
        for search in searches:
            if not isinstance(search, GreedySearch) or not search.task.speculate:
                return 0
        if not self._runner.drafts_pay(self._sources):
            return 0
        return self._runner.config.max_sequence_length - int(state.lengths.max()) - 1

    def _lengths(self) -> NDArray[np.int64]:
        """Of each row that goes on, all but its last token; the others keep what they were fed."""
        lengths = self._slots.rows.lengths.copy()
        for member in self.members:
            rows = self._rows(member.places)
            fed = np.repeat(member.search.rows.lengths - 1, self._copies)
            lengths[rows] = np.minimum(lengths[rows], fed)
        return lengths

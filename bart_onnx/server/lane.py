"""Lane: rows that step together, whatever is asked of each. It knows no queue and no clock.

All sources of a lane have as many rows each: on a CPU the rows of a source are folded into the
query axis of its cross-attention, and the length of that axis decides the last bits of a row. So
requests of different `copies` cannot share a step and give what they give alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.company import Lines, Places, neighbours, wanted_by
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
        places: where its sources lie among the lane's, ascending, [sources].
        rows: the lane's rows that are theirs.
        fresh: tickets that have no token yet.
        followed: whether any is told of its tokens before the end.
    """

    search: Search
    tickets: dict[int, Ticket]
    company: Hashable | None
    fresh: list[Ticket]
    followed: bool
    places: PlaceArray = field(default_factory=lambda: np.arange(0))
    rows: Places = field(default_factory=lambda: slice(0))

    def in_flight(self) -> Iterator[tuple[int, Ticket]]:
        """The line and ticket of each source that goes on."""
        numbers = self.search.rows.numbers.tolist()
        for line in np.flatnonzero(self.search.alive).tolist():
            yield line, self.tickets[numbers[line]]

    def absorb(self, other: Member) -> None:
        """Take over the sources of another of the same company."""
        self.search.join(other.search)
        self.tickets |= other.tickets
        self.fresh += other.fresh
        self.followed |= other.followed


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
        # The outputs that they read; none where that is to be asked again.
        self._wanted: tuple[str, ...] = ()

    def join(self, member: Member, states: Sequence[AnyState]) -> None:
        """Take on a search whose sources were just read; its places are set here.

        Args:
            states: their caches, one row each, in their order.
        """
        for state in states:
            self._slots.join(state)
        count = len(member.search.alive)
        places = np.arange(self._sources, self._sources + count)
        self._sources += count
        self._place(member, places)
        # As yet nothing tells the copies of a source apart.
        member.search.moves = np.arange(count * self._copies)
        for other in self.members:
            if member.company is not None and other.company == member.company:
                other.absorb(member)
                self._place(other, np.concatenate([other.places, places]))
                return
        self.members.append(member)
        self._wanted = ()

    def compact(self) -> None:
        """Let go what does not go on, and move caches as the searches ask for."""
        if self._copies == 1 and all(member.search.alive.all() for member in self.members):
            return
        kept = np.zeros(self._sources, bool)
        for member in self.members:
            kept[member.places[member.search.alive]] = True
        left = [member for member in self.members if member.search.alive.any()]
        if len(left) < len(self.members):
            self.members, self._wanted = left, ()
        order = fewest_moves(kept)
        came = np.empty(self._sources, np.intp)
        came[order] = np.arange(len(order))
        taken = self._rows(order)
        since = [self._compact_member(member, came, taken) for member in left]
        if len(order) < self._sources:
            self._slots.select(taken)
        elif moved := [each for each in since if each is not None]:
            self._slots.select(taken, min(moved))
        self._sources = len(order)

    def _compact_member(self, member: Member, came: PlaceArray, taken: PlaceArray) -> int | None:
        """Keep what goes on of a search, and say whose caches its rows continue.

        Args:
            came: where each source will lie, [sources].
            taken: the row whose cache each row of the lane will continue, written for its rows.

        Returns:
            A position before which no move changes anything; None where nothing moves within it.
        """
        search, stay = member.search, np.flatnonzero(member.search.alive)
        # In the order of their places, so that they are neighbours where they can be.
        stay = stay[np.argsort(came[member.places[stay]])]
        stood = member.places[stay]
        sources, copies = np.divmod(search.take(stay), self._copies)
        moved_from = member.places[sources] * self._copies + copies
        if len(stay) < len(member.places):
            numbers = search.rows.numbers.tolist()
            member.tickets = {number: member.tickets[number] for number in numbers}
        self._place(member, came[stood])
        taken[member.rows] = moved_from
        return search.since if (moved_from != self._rows(stood)).any() else None

    def step(self) -> dict[int, Exception]:
        """Give every row a token more; why members could not choose one, by their `id`.

        Raises:
            Exception: the step itself failed; the lane is of no more use.
        """
        state, members = self._slots.rows, self.members
        room = self._drafting_room(state)
        feeds = [member.search.feed(room) for member in members]
        token_ids = feeds[0] if len(feeds) == 1 else self._side_by_side(feeds)
        self._wanted = self._wanted or wanted_by([member.search.task for member in members])
        outputs = self._runner.step(state, token_ids, self._wanted)
        failed = {}
        for member, feed in zip(members, feeds, strict=True):
            try:
                member.search.choose(Lines(outputs, member.rows, feed.shape[1]))
            except Exception as error:  # a function of the request's options may raise anything
                failed[id(member)] = error
        if token_ids.shape[1] > 1:
            state.truncate(self._lengths())
        return failed

    def _side_by_side(self, feeds: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """What each member feeds, at its rows; the lane's [rows, longest]."""
        places = max(feed.shape[1] for feed in feeds)
        token_ids = np.empty((self._sources * self._copies, places), np.int64)
        for member, feed in zip(self.members, feeds, strict=True):
            width = feed.shape[1]
            token_ids[member.rows, :width] = feed
            # What is fed after a draft is forgotten.
            token_ids[member.rows, width:] = feed[:, -1:]
        return token_ids

    def _place(self, member: Member, places: PlaceArray) -> None:
        member.places = places
        member.rows = neighbours(self._rows(places)) if len(places) else slice(0)

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
            rows = member.rows
            fed = np.repeat(member.search.rows.lengths - 1, self._copies)
            lengths[rows] = np.minimum(lengths[rows], fed)
        return lengths

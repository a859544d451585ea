"""Encoding: sources of requests are read together, prompts with them, up to the first token.

It knows no lane; what goes on is the engine's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.company import Lines, neighbours, wanted_by
from bart_onnx.decoding.decode import read
from bart_onnx.decoding.protocols import Runner
from bart_onnx.server.lane import Member
from bart_onnx.server.requests import Ticket

# Padding is cut by encoding shorter sources apart where that saves so many tokens: as many as one
# more call is worth, of the shipped preset (0.7 ms) and of bart-base in int8 (13 ms) alike.
_CALL = 48

# A search whose sources are read, the caches of its sources that go on, or what went wrong.
Encoded = tuple[Member, Callable[[], list[Any]], Exception | None]


def encoded(runner: Runner[Any], tickets: Sequence[Ticket]) -> Iterator[Encoded]:
    """Encode these requests' sources; read prompts that cannot be read in a step among others.

    Where that fails for several, each is tried alone, so that it fails for the one at fault.
    """

    for _, group in groupby(sorted(tickets, key=_in_one_step), key=_in_one_step):
        for alike in _of_like_length(list(group)):
            yield from _together(runner, alike)


def _of_like_length(tickets: list[Ticket]) -> Iterator[list[Ticket]]:
    """Those to encode together, the longest first."""

    def length(ticket: Ticket) -> int:
        return ticket.request.source_tokens

    tickets, first = sorted(tickets, key=length, reverse=True), 0
    for place, ticket in enumerate(tickets):
        saved = (len(tickets) - place) * (length(tickets[first]) - length(ticket))
        if saved >= _CALL:
            yield tickets[first:place]
            first = place
    yield tickets[first:]


def _together(runner: Runner[Any], tickets: list[Ticket]) -> Iterator[Encoded]:
    tickets = _in_order(tickets)
    try:
        state, outputs = _read(runner, tickets)
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        if len(tickets) == 1:
            yield _member(tickets), list, error
            return
        for ticket in tickets:
            yield from _together(runner, [ticket])
        return
    first = 0
    for _, group in groupby(tickets, key=_kin):
        own = list(group)
        member = _member(own)
        lines = np.arange(first, first + len(own))
        first += len(own)
        try:
            if outputs is None:
                member.search.begin()
            else:
                member.search.choose(Lines(outputs, neighbours(lines)), shared=True)
        except Exception as error:  # a function of the request's options may raise anything
            yield member, list, error
            continue
        yield member, partial(_caches, state, lines, member), None


def _read(runner: Runner[Any], tickets: list[Ticket]) -> tuple[Any, dict[str, NDArray[Any]] | None]:
    """The caches of these requests' sources, and the outputs after their prompts.

    None where nothing is read: a prompt of one token can be fed in the same step as other rows'
    last tokens, by a row that is a source's only one.
    """
    prompts = [ticket.request.plan.prompts for ticket in tickets]
    rows = [ticket.request.row for ticket in tickets]
    pairs = list(zip(prompts, rows, strict=True))
    lengths = np.array([each.encoder_lengths[row] for each, row in pairs])
    sources = _stacked([each.encoder_token_ids[row] for each, row in pairs], lengths)
    prompt_lengths = np.array([each.prompt_lengths[row] for each, row in pairs])
    token_ids = _stacked([each.decoder_token_ids[row] for each, row in pairs], prompt_lengths)
    state = runner.encode(sources, lengths)
    if _in_one_step(tickets[0]):
        return state, None
    wanted = wanted_by([ticket.request.plan.task for ticket in tickets])
    return state, read(runner, state, token_ids, prompt_lengths, wanted)


def _in_one_step(ticket: Ticket) -> bool:
    """Whether its prompt is fed in a step of the lane that it joins."""
    request = ticket.request
    return request.copies == 1 and int(request.plan.prompts.prompt_lengths[request.row]) == 1


def _in_order(tickets: list[Ticket]) -> list[Ticket]:
    """Prompts of one length side by side, and within them the requests of one company."""
    seen: dict[Any, int] = {}

    def key(ticket: Ticket) -> tuple[int, int]:
        prompt_length = int(ticket.request.plan.prompts.prompt_lengths[ticket.request.row])
        return prompt_length, seen.setdefault(_kin(ticket), len(seen))

    return sorted(tickets, key=key)


def _kin(ticket: Ticket) -> Any:
    """What requests that share a search from the start have in common."""
    return ticket.number if ticket.company is None else ticket.company


def _member(tickets: list[Ticket]) -> Member:
    """One search of these requests; they are of one company, or one."""
    search = tickets[0].search
    if len(tickets) > 1:
        search.join(*(ticket.search for ticket in tickets[1:]))
    by_number = {ticket.number_in_search: ticket for ticket in tickets}
    followed = any(ticket.request.is_followed for ticket in tickets)
    return Member(search, by_number, tickets[0].company, list(tickets), followed)


def _caches(state: Any, lines: NDArray[np.intp], member: Member) -> list[Any]:
    """States of the member's sources that go on, neighbours together."""
    stay = lines[member.search.alive]
    runs = np.split(stay, np.flatnonzero(np.diff(stay) != 1) + 1)
    return [state.between(int(run[0]), int(run[-1]) + 1) for run in runs]


def _stacked(rows: list[NDArray[np.int64]], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of which `lengths` count, below each other; zeros after that."""
    stacked = np.zeros((len(rows), int(lengths.max())), np.int64)
    for line, row, length in zip(stacked, rows, lengths.tolist(), strict=True):
        line[:length] = row[:length]
    return stacked

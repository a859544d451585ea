"""Drafts: tokens that may come next, read off a row's source. What does come, the model decides.

Summaries copy. So what follows in the source where the last tokens stand is fed together with the
last token, and the one step says of every place what comes there; tokens are kept as far as the
model agrees. It knows no runner, no search and no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IdArray = NDArray[np.int64]
RowArray = NDArray[np.intp]

# So many of a row's last tokens are looked for in its source.
_LONGEST = 4
# How likely what follows a match of so many tokens is to come, before a row has shown it: measured
# on bart-large-cnn's summaries, but of one token less, so that a row that copies nothing pays
# nothing.
_LIKELY = {1: 0.2, 2: 0.6, 3: 0.6, 4: 0.8}
# How much each match counts against those before it.
_WEIGHT = 0.1
# How likely a draft goes on to be right after a token that was.
_GOES_ON = 0.8
# A drafted token must be likelier than this. One more in a step costs 5 to 18 % of it (one core),
# and drafts that fail cost a step's other work too.
_PRICE = 0.25


class SourceDrafts:
    """Drafts of one row.

    It learns from every match, drafted or not, how much the row copies. So it goes silent where
    drafts do not pay, and speaks again where they would have.

    Args:
        source_ids: int64 [length].
    """

    def __init__(self, source_ids: IdArray) -> None:
        self._source: list[int] = source_ids.tolist()
        self._places: dict[tuple[int, ...], int] | None = None
        self._likely = dict(_LIKELY)
        # What was expected at which position, after a match of how many tokens.
        self._expected: tuple[int, int, int] | None = None

    def after(self, token_ids: IdArray, room: int) -> list[int]:
        """What may follow `token_ids` [length], at most `room` tokens."""
        if self._places is None:
            self._places = _places(self._source)
        if self._expected is not None:
            position, token, matched = self._expected
            hit = bool(token_ids[position] == token)
            self._likely[matched] += _WEIGHT * (hit - self._likely[matched])
            self._expected = None
        tail = token_ids[-_LONGEST:].tolist()
        for size in range(len(tail), 0, -1):
            place = self._places.get(tuple(tail[-size:]))
            if place is not None:
                self._expected = len(token_ids), self._source[place], size
                return self._source[place : place + min(self._worth(size), room)]
        return []

    def _worth(self, matched: int) -> int:
        """How many tokens to draft after such a match."""
        likely, count = self._likely[matched], 0
        while likely > _PRICE:
            likely *= _GOES_ON
            count += 1
        return count


@dataclass(frozen=True)
class Feed:
    """What a step is fed.

    Attributes:
        token_ids: int64 [rows, 1 + longest draft]: each row's last token and its draft; what is
            fed after that is forgotten.
        counts: int64 [rows], how many of them are drafts.
    """

    token_ids: IdArray
    counts: IdArray

    def verify(self, choose: Callable[[int, RowArray], tuple[IdArray, NDArray[np.bool_]]]) -> None:
        """Choose tokens place by place, for the rows whose tokens up to there are the drafted ones.

        Args:
            choose: (place, rows) to what follows these rows there and which of them go on, both
                [rows].
        """
        rows = np.arange(len(self.counts))
        for place in range(self.token_ids.shape[1]):
            chosen, goes_on = choose(place, rows)
            goes_on &= self.counts[rows] > place
            rows, chosen = rows[goes_on], chosen[goes_on]
            if not len(rows):
                return
            rows = rows[chosen == self.token_ids[rows, place + 1]]


class Drafts:
    """Drafts of the rows of a batch; each row's are the same in any batch.

    Args:
        source_ids: int64 [rows, source_length], padded on the right.
        source_lengths: int64 [rows].
    """

    def __init__(self, source_ids: IdArray, source_lengths: IdArray) -> None:
        pairs = zip(source_ids, source_lengths.tolist(), strict=True)
        self._rows = [SourceDrafts(ids[:length]) for ids, length in pairs]

    def take(self, order: RowArray) -> None:
        """Keep those rows, in that order."""
        self._rows = [self._rows[row] for row in order.tolist()]

    def join(self, other: Drafts) -> None:
        """Put another's rows behind these."""
        self._rows += other._rows

    def feed(self, token_ids: IdArray, lengths: IdArray, rooms: IdArray) -> Feed:
        """Every row's last token and its draft.

        Args:
            token_ids: int64 [rows, width], of which `lengths` [rows] count, at least 1.
            rooms: [rows], how many tokens each may be drafted.
        """
        drafts = [
            each.after(token_ids[row, : lengths[row]], rooms[row])
            for row, each in enumerate(self._rows)
        ]
        counts = np.array(list(map(len, drafts)), np.int64)
        last = token_ids[np.arange(len(counts)), lengths - 1]
        fed = np.repeat(last[:, None], 1 + counts.max(), axis=1)
        for line, draft in zip(fed, drafts, strict=True):
            line[1 : 1 + len(draft)] = draft
        return Feed(fed, counts)


class AtPlace(Mapping[str, NDArray[Any]]):
    """Outputs of a step [rows, q, ...] as if it had been fed up to one place only.

    They are read when they are asked for, so that none is brought from a device in vain.
    """

    def __init__(self, outputs: Mapping[str, NDArray[Any]], place: int) -> None:
        self._outputs, self._stop = outputs, place + 1

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._outputs[name][:, : self._stop]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)


def _places(source: list[int]) -> dict[tuple[int, ...], int]:
    """Where the first of each run of tokens in a source ends, if something follows it."""
    places: dict[tuple[int, ...], int] = {}
    for size in range(1, _LONGEST + 1):
        for end in range(size, len(source)):
            places.setdefault(tuple(source[end - size : end]), end)
    return places

"""BeamHypotheses: beam search with the semantics of transformers 5 (`_beam_search`).

Of each source some beams run and some finished hypotheses are kept. Running beams stand in the
order of their scores, as there. Their caches do not: a beam whose parent runs on keeps its slot,
so that rows of cache are copied only where one beam replaces another.

Scores are float32, and what has no beam behind it scores about -1e9, as there. Of equal scores the
earlier beam and the likelier token come first; transformers leaves that open.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.candidates import Outputs, ScoreArray
from bart_onnx.decoding.histories import IdArray
from bart_onnx.decoding.prompts import Prompts
from bart_onnx.decoding.rows import widened
from bart_onnx.decoding.scoring import NO_TOKEN_LEFT, NOT_FINITE, beams_looked_at, forbidding
from bart_onnx.decoding.search import Search
from bart_onnx.decoding.tasks import Task

_NONE = np.float32(-1e9)
# A score below this has no beam behind it: sums of log-probabilities do not come near.
_NOWHERE = -5e8


class BeamHypotheses(Search):
    """Beams and hypotheses of some sources."""

    def __init__(
        self, task: Task, prompts: Prompts, numbers: NDArray[np.intp], limits: IdArray
    ) -> None:
        super().__init__(task, prompts, numbers, limits)
        shape = (len(numbers), self.copies)
        self._scores = np.full(shape, _NONE, np.float32)
        self._scores[:, 0] = 0
        # Where each beam's cache is, by rank.
        self._slots = np.broadcast_to(np.arange(self.copies), shape).copy()
        self._kept = {name: track.copy() for name, track in self.rows.tracks.items()}
        self._kept_scores = np.full(shape, _NONE, np.float32)
        self._kept_lengths = np.zeros(shape, np.int64)
        self._kept_done = np.zeros(shape, bool)
        self._improvable = np.ones(len(numbers), bool)

    def choose(self, outputs: Outputs, shared: bool = False) -> None:
        """See `Search.choose`."""
        self.finished, self.failed = {}, {}
        self.rows.steps += 1
        sources, beams = self._scores.shape
        lines = self._lines(self._slots, shared)
        scores, token_ids, complaints = self.task.scoring.score(outputs, lines, self._histories())
        columns = scores.shape[1]
        totals = scores.reshape(sources, beams, columns) + self._scores[:, :, None]
        # A beam that something is wrong with has no future; others go on.
        totals.reshape(-1, columns)[list(complaints)] = -np.inf
        flat = totals.reshape(sources, -1)
        order = self._looked_at(flat)
        best = np.take_along_axis(flat, order, axis=1)
        chosen = np.take_along_axis(token_ids.reshape(sources, -1), order, axis=1)
        parents = order // columns
        notes = self._notes(outputs, _lines_of(lines, parents), chosen.ravel())
        written = {
            name: each.reshape(*chosen.shape, *each.shape[1:]) for name, each in notes.items()
        }
        dead = best.max(axis=1) < _NOWHERE
        ends = self._which_end(parents, chosen)
        self._keep(best, parents, written, ends)
        self._run_on(best, parents, written, ends)
        self.rows.lengths += 1
        self._settle(ends, dead, complaints)
        for row in np.flatnonzero(self.task.scoring.broken(outputs, lines)).tolist():
            self._fail(row // beams, NOT_FINITE)

    def stable(self, source: int) -> IdArray:
        """See `Search.stable`."""
        length = int(self.rows.lengths[source])
        running = self._token_ids[source][self._scores[source] > _NOWHERE, :length]
        kept_ids: IdArray = self._kept["token_ids"][source]
        kept = [
            kept_ids[place, : self._kept_lengths[source, place]]
            for place in np.flatnonzero(self._kept_done[source])
        ]
        every = list(running) + kept
        agreed: IdArray = every[0]
        for other in every[1:]:
            agreed = _common(agreed, other)
        return agreed

    def _looked_at(self, totals: ScoreArray) -> NDArray[np.intp]:
        """Continuations to look at, best first or as they were drawn: columns [sources, count]."""
        count = beams_looked_at(self.task.options)
        if self.task.draws is None:
            return np.argsort(-totals, axis=1, kind="stable")[:, :count]
        # The largest of scores with Gumbel noise are a draw without replacement, in its order
        # (Kool et al. 2019).
        noise = np.empty(totals.shape)
        for line, (number, length) in enumerate(
            zip(self.rows.numbers, self.rows.lengths, strict=True)
        ):
            stream = int(number) + self.task.first_row
            noise[line] = self.task.draws.noise(stream, int(length), totals.shape[1])
        return np.argsort(-(totals + noise), axis=1, kind="stable")[:, :count]

    def _which_end(self, parents: NDArray[np.intp], chosen: IdArray) -> NDArray[np.bool_]:
        """Which continuations are complete, [sources, count]."""
        ends = np.isin(chosen, self.task.options.eos_token_id)
        ends |= (self.rows.lengths + 1 >= self.rows.limits)[:, None]
        if (completes := self.task.completes) is not None:
            for source, place in np.argwhere(~ends):
                length = self.rows.lengths[source]
                before = self._token_ids[source, parents[source, place], :length]
                ends[source, place] = completes(before, int(chosen[source, place]))
        return ends

    def _run_on(
        self,
        best: ScoreArray,
        parents: NDArray[np.intp],
        written: dict[str, NDArray[Any]],
        ends: NDArray[np.bool_],
    ) -> None:
        """The best continuations that have not ended become the running beams."""
        beams = self.copies
        running = best + np.where(ends, _NONE, np.float32(0))
        order = np.argsort(-running, axis=1, kind="stable")[:, :beams]
        parents = np.take_along_axis(parents, order, axis=1)
        before = self._token_ids
        self._scores = np.take_along_axis(running, order, axis=1)
        every = np.arange(len(order))
        for name, track in self.rows.tracks.items():
            gathered = track[every[:, None], parents]
            values = written[name][every[:, None], order]
            gathered[every, :, self.rows.lengths] = values
            self.rows.tracks[name] = gathered
        self._move(before, parents)

    def _move(self, before: IdArray, parents: NDArray[np.intp]) -> None:
        """Choose slots for the beams, so that as few caches as possible are copied."""
        sources, beams = parents.shape
        every = np.arange(sources)
        of_parents = np.take_along_axis(self._slots, parents, axis=1)
        slots, taken = np.full(parents.shape, -1), np.zeros(parents.shape, bool)
        for rank in range(beams):
            stays = ~taken[every, of_parents[:, rank]]
            slots[stays, rank] = of_parents[stays, rank]
            taken[every, of_parents[:, rank]] = True
        for rank in range(beams):
            moves = np.flatnonzero(slots[:, rank] < 0)
            free = taken[moves].argmin(axis=1)
            slots[moves, rank] = free
            taken[moves, free] = True
        rows = every[:, None] * beams
        was = np.empty(sources * beams, np.intp)
        was[(rows + slots).ravel()] = (rows + of_parents).ravel()
        moved = np.flatnonzero((slots != of_parents).ravel())
        self.since = self._agreement(before, slots, moved)
        last = self._token_ids[every, :, self.rows.lengths]
        self.next_ids = np.empty(sources * beams, np.int64)
        self.next_ids[(rows + slots).ravel()] = last.ravel()
        self.moves, self._slots = was, slots

    def _agreement(self, before: IdArray, slots: NDArray[np.intp], moved: NDArray[np.intp]) -> int:
        """Up to where every moved beam has the tokens of the beam that it replaces."""
        if not len(moved):
            return 0
        ranks = np.argsort(self._slots, axis=1)
        sources, places = np.divmod(moved, self.copies)
        replaced = before[sources, ranks[sources, slots[sources, places]]]
        differ = replaced != self._token_ids[sources, places]
        return int(np.where(differ.any(axis=1), differ.argmax(axis=1), differ.shape[1]).min())

    def _keep(
        self,
        best: ScoreArray,
        parents: NDArray[np.intp],
        written: dict[str, NDArray[Any]],
        ends: NDArray[np.bool_],
    ) -> None:
        """Ended continuations among the best become hypotheses where they score better."""
        options, beams = self.task.options, self.copies
        done = ends & (np.arange(ends.shape[1]) < beams)
        if not done.any():
            return
        generated = (self.rows.lengths + 1 - self.rows.prompt_lengths).tolist()
        penalties = np.array([each**options.length_penalty for each in generated], np.float32)
        closed = ~self._improvable
        if options.early_stopping is True:
            closed = closed | self._kept_done.all(axis=1)
        scores = best / penalties[:, None]
        scores = scores + np.where(closed, _NONE, np.float32(0))[:, None]
        scores = scores + np.where(done, np.float32(0), _NONE)
        merged = np.concatenate([self._kept_scores, scores], axis=1)
        order = np.argsort(-merged, axis=1, kind="stable")[:, :beams]
        every = np.arange(len(order))[:, None]
        self._kept_scores = merged[every, order]
        self._kept_done = np.concatenate([self._kept_done, done], axis=1)[every, order]
        lengths = np.broadcast_to(self.rows.lengths[:, None] + 1, ends.shape)
        self._kept_lengths = np.concatenate([self._kept_lengths, lengths], axis=1)[every, order]
        new = order >= beams
        sources = np.nonzero(new)[0]
        columns = order[new] - beams
        for name, track in self._kept.items():
            stayed = track[every, np.minimum(order, beams - 1)]
            gathered = self.rows.tracks[name][sources, parents[sources, columns]]
            gathered[np.arange(len(sources)), self.rows.lengths[sources]] = written[name][
                sources, columns
            ]
            stayed[new] = gathered
            self._kept[name] = stayed

    def _settle(
        self, ends: NDArray[np.bool_], dead: NDArray[np.bool_], complaints: dict[int, str]
    ) -> None:
        """Say which sources have come to their end: none can gain by going on."""
        options = self.task.options
        generated = self.rows.lengths - self.rows.prompt_lengths
        if options.early_stopping == "never" and options.length_penalty > 0:
            generated = self.rows.limits - self.rows.prompt_lengths
        penalties = [each**options.length_penalty for each in generated.tolist()]
        hoped = self._scores[:, 0] / np.array(penalties, np.float32)
        full = self._kept_done.all(axis=1)
        # While a place among the kept is free, any running beam may fill it.
        worst = np.where(full, self._kept_scores.min(axis=1), _NONE)
        self._improvable &= hoped > worst
        over = ~self._improvable | ends.all(axis=1) | dead
        if options.early_stopping is True:
            over |= full
        for source in np.flatnonzero(over):
            self._finish(int(source), complaints)

    def _finish(self, source: int, complaints: dict[int, str]) -> None:
        places = np.flatnonzero(self._kept_done[source] & (self._kept_scores[source] > _NOWHERE))
        # A length penalty may have lifted what has no beam behind it: copies of a better one.
        generated = self._kept_lengths[source, places] - self.rows.prompt_lengths[source]
        penalties = generated.astype(np.float64) ** self.task.options.length_penalty
        places = places[self._kept_scores[source, places] * penalties > _NOWHERE]
        if not len(places):
            rows = range(source * self.copies, (source + 1) * self.copies)
            found = [complaints[row] for row in rows if row in complaints]
            none_left = NO_TOKEN_LEFT.format(forbidding(self.task.options))
            self._fail(source, found[0] if found else none_left)
            return
        wanted = places[: self.task.options.num_return_sequences]
        self.finished[int(self.rows.numbers[source])] = tuple(
            self._hypothesis(
                source,
                {name: track[source, place] for name, track in self._kept.items()},
                int(self._kept_lengths[source, place]),
                float(self._kept_scores[source, place]),
            )
            for place in wanted
        )
        self.alive[source] = False

    def _take(self, order: NDArray[np.intp]) -> None:
        self._scores, self._slots = self._scores[order], self._slots[order]
        self._kept = {name: track[order] for name, track in self._kept.items()}
        self._kept_scores = self._kept_scores[order]
        self._kept_lengths, self._kept_done = self._kept_lengths[order], self._kept_done[order]
        self._improvable = self._improvable[order]

    def _join(self, *others: Self) -> None:
        every, width = (self, *others), self._token_ids.shape[-1]
        names = ("_scores", "_slots", "_kept_scores", "_kept_lengths", "_kept_done", "_improvable")
        for name in names:
            setattr(self, name, np.concatenate([getattr(each, name) for each in every]))
        self._kept = {
            name: np.concatenate([widened(each._kept[name], 2, width) for each in every])
            for name in self._kept
        }


def _lines_of(lines: NDArray[np.intp], parents: NDArray[np.intp]) -> NDArray[np.intp]:
    """The line of the outputs behind each continuation, [sources * count]."""
    by_rank = lines.reshape(len(parents), -1)
    return np.take_along_axis(by_rank, parents, axis=1).ravel()


def _common(tokens: IdArray, other: IdArray) -> IdArray:
    """What both begin with."""
    shorter = min(len(tokens), len(other))
    differ = tokens[:shorter] != other[:shorter]
    return tokens[: int(differ.argmax()) if differ.any() else shorter]

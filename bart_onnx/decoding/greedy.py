"""GreedySearch: the best token everywhere, several a step where the model agrees with a draft."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.candidates import Outputs
from bart_onnx.decoding.drafts import AtPlace, Drafts, Feed
from bart_onnx.decoding.histories import IdArray
from bart_onnx.decoding.prompts import Prompts
from bart_onnx.decoding.single import SingleSearch
from bart_onnx.decoding.tasks import Task
from bart_onnx.graphs import LOG_SUM_EXP, TOP_TOKEN_IDS


class GreedySearch(SingleSearch):
    """Rows of one copy each, nothing of which is drawn.

    Where anything depends on what came before, tokens of a step are chosen one after another, as
    those of several steps would be: the rules see the same rows, the user's functions get the same
    calls. Where nothing does, they are taken together.
    """

    def __init__(
        self, task: Task, prompts: Prompts, numbers: NDArray[np.intp], limits: IdArray
    ) -> None:
        super().__init__(task, prompts, numbers, limits)
        # A draft that is not finite spoils a step, which nobody would notice if it were accepted.
        speculates = task.speculate and not task.options.remove_invalid_values
        sources = (self._source_ids, self._source_lengths)
        self._drafts = Drafts(*sources) if speculates else None
        self._feed: Feed | None = None
        self._spoiled = False
        notes = len(self.rows.tracks) > 1
        self._is_plain = task.scoring.takes_the_best and task.completes is None and not notes

    def feed(self, room: int) -> IdArray:
        """See `Search.feed`."""
        self._feed = None
        if self._drafts is None or room < 1 or self._spoiled:
            self._spoiled = False
            return super().feed(room)
        rooms = np.minimum(self.rows.limits - self.rows.lengths - 1, room)
        self._feed = self._drafts.feed(self._token_ids[:, 0], self.rows.lengths, rooms)
        self.rows.drafted += self._feed.counts
        return self._feed.token_ids

    def choose(self, outputs: Outputs, shared: bool = False) -> None:
        """See `Search.choose`."""
        feed = self._feed
        if self._is_plain and np.isfinite(outputs[LOG_SUM_EXP]).all():
            self._take_best(outputs[TOP_TOKEN_IDS][:, :, 0])
            return
        if feed is None:
            super().choose(outputs, shared)
            return
        self.finished, self.failed = {}, {}
        has_drafts = feed.token_ids.shape[1] > 1

        def follow(place: int, rows: NDArray[np.intp]) -> tuple[IdArray, NDArray[np.bool_]]:
            here, spoiled = AtPlace(outputs, place), np.zeros(len(rows), bool)
            if has_drafts:
                # A draft that is not finite spoils the places before it: once more without.
                spoiled = self.task.scoring.broken(here, rows)
                self._spoiled |= bool(spoiled.any())
            sound = rows[~spoiled]
            if place == 0:
                self.rows.steps[sound] += 1
            if len(sound):
                self.next_ids[sound] = self._go_on(sound, here, sound)
            return self.next_ids[rows], self.alive[rows] & ~spoiled

        feed.verify(follow)

    def _take_best(self, best: IdArray) -> None:
        """Take what is best at every place, [rows, q], as far as drafts are that and none ends."""
        self.finished, self.failed = {}, {}
        rows, (count, width) = self.rows, best.shape
        before = rows.lengths[:, None] + np.arange(width)
        best = self.task.scoring.taken(best, before, rows.limits[:, None])
        if width > 1:
            self._take_drafted(best)
        else:
            self.next_ids = best[:, 0].copy()
            self._token_ids[np.arange(count), 0, rows.lengths] = self.next_ids
            rows.lengths += 1
        rows.steps += 1
        ends = self._is_end(self.next_ids) | (rows.lengths >= rows.limits)
        if len(ended := np.flatnonzero(ends)):
            self._ended[ended, 0] = rows.lengths[ended]
            self._finish(ended)

    def _take_drafted(self, best: IdArray) -> None:
        """Take each row's best tokens, [rows, q], as far as its draft agrees and none ends."""
        assert self._feed is not None
        rows, (count, width) = self.rows, best.shape
        places = np.arange(width)
        goes_on = best[:, :-1] == self._feed.token_ids[:, 1:]
        goes_on &= places[:-1] < self._feed.counts[:, None]
        goes_on &= ~self._is_end(best[:, :-1])
        taken = 1 + np.logical_and.accumulate(goes_on, axis=1).sum(axis=1)
        row, place = np.nonzero(places < taken[:, None])
        self._token_ids[row, 0, rows.lengths[row] + place] = best[row, place]
        self.next_ids = best[np.arange(count), taken - 1]
        rows.lengths += taken

    def _take(self, order: NDArray[np.intp]) -> None:
        super()._take(order)
        if self._drafts is not None:
            self._drafts.take(order)

    def _join(self, *others: Self) -> None:
        super()._join(*others)
        for other in others:
            self._spoiled |= other._spoiled
            if self._drafts is not None and other._drafts is not None:
                self._drafts.join(other._drafts)

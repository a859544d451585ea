"""GreedySearch: the best token everywhere, several a step where the model agrees with a draft."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.candidates import Outputs
from bart_onnx.decoding.drafts import AtPlace, Drafts, Feed
from bart_onnx.decoding.histories import IdArray
from bart_onnx.decoding.prompts import Prompts
from bart_onnx.decoding.search import Task
from bart_onnx.decoding.single import SingleSearch


class GreedySearch(SingleSearch):
    """Rows of one copy each, nothing of which is drawn.

    Tokens of a step are chosen one after another, as those of several steps would be: the rules
    see the same rows, the user's functions get the same calls.
    """

    def __init__(
        self, task: Task, prompts: Prompts, numbers: NDArray[np.intp], limits: IdArray
    ) -> None:
        super().__init__(task, prompts, numbers, limits)
        self._drafts = Drafts(self._source_ids, self._source_lengths)
        self._feed: Feed | None = None
        self._spoiled = False

    def feed(self, room: int) -> IdArray:
        """See `Search.feed`."""
        self._feed = None
        if room < 1 or self._spoiled:
            self._spoiled = False
            return super().feed(room)
        rooms = np.minimum(self.rows.limits - self.rows.lengths - 1, room)
        self._feed = self._drafts.feed(self._token_ids[:, 0], self.rows.lengths, rooms)
        self.rows.drafted += self._feed.counts
        return self._feed.token_ids

    def choose(self, outputs: Outputs, shared: bool = False) -> None:
        """See `Search.choose`."""
        feed = self._feed
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

    def _take(self, order: NDArray[np.intp]) -> None:
        super()._take(order)
        self._drafts.take(order)

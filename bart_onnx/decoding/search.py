"""What beam search and single rows have in common: rows in flight, and what they were found to be.

A search holds the tokens of some sources, several copies of each. It is given the outputs of each
step and says what to feed next; the driver moves the caches. So it knows no runner and no state,
and other drivers may mix searches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.candidates import Outputs
from bart_onnx.decoding.histories import Histories, IdArray
from bart_onnx.decoding.prompts import Prompts
from bart_onnx.decoding.rows import Rows, joined
from bart_onnx.decoding.scoring import chosen_log_probs
from bart_onnx.decoding.tasks import FinishReason, Hypothesis, Task
from bart_onnx.graphs import LOG_SUM_EXP, TOP_LOGITS, TOP_TOKEN_IDS


class Search(ABC):
    """Rows of one batch on their way.

    Args:
        task: what is asked of them.
        prompts: all inputs of the call.
        numbers: those of this batch, [sources].
        limits: the longest that each input of the call may become, [inputs].

    Attributes:
        finished: what has come to its end in the last step: number -> hypotheses, best first.
        failed: number -> what went wrong.
        alive: which sources go on, bool [sources].
        next_ids: what to feed every row, int64 [sources * copies].
        moves: which row each row's cache is taken from, [sources * copies].
        since: a position before which no move changes anything.
    """

    def __init__(
        self, task: Task, prompts: Prompts, numbers: NDArray[np.intp], limits: IdArray
    ) -> None:
        self.task, self.copies, self._inputs = task, task.options.copies, task.inputs
        lengths = prompts.prompt_lengths[numbers].copy()
        self.rows = Rows(
            numbers,
            lengths,
            lengths.copy(),
            limits[numbers],
            sources=np.arange(len(numbers)),
            steps=np.zeros(len(numbers), np.int64),
            drafted=np.zeros(len(numbers), np.int64),
        )
        self._source_ids = prompts.encoder_token_ids[numbers]
        self._source_lengths = prompts.encoder_lengths[numbers]
        width = int(self.rows.limits.max())
        token_ids = prompts.decoder_token_ids[numbers, :width]
        self.rows.tracks["token_ids"] = np.repeat(token_ids[:, None], self.copies, axis=1)
        self._add_notes(len(numbers), width)
        self.finished: dict[int, tuple[Hypothesis, ...]] = {}
        self.failed: dict[int, str] = {}
        self.alive = np.ones(len(numbers), bool)
        self.next_ids = np.zeros(len(numbers) * self.copies, np.int64)
        self.moves = np.arange(len(numbers) * self.copies)
        self.since = 0

    def feed(self, room: int) -> IdArray:
        """What to feed every row in the next step, int64 [sources * copies, 1 + drafts].

        Args:
            room: how many tokens may be drafted for each.
        """
        return self.next_ids[:, None]

    @abstractmethod
    def choose(self, outputs: Outputs, shared: bool = False) -> None:
        """Give every row in flight one token more, from the outputs of the step before.

        Of a row that was fed drafts, as many more as the model agrees with.

        Args:
            outputs: [rows, query_length, ...].
            shared: the outputs have one line for each source, which all its copies share.
        """

    @abstractmethod
    def stable(self, source: int) -> IdArray:
        """Tokens of a source that its best hypothesis will begin with, int64 [length]."""

    def told(self, source: int) -> tuple[IdArray, NDArray[np.float32] | None]:
        """What is stable of a source, and the log-probabilities of what follows its prompt.

        Returns:
            int64 [length], and float32 [length - prompt length]; None if nobody asked.
        """
        ids = self.stable(source).copy()
        noted = self.rows.tracks.get("log_probs")
        if noted is None:
            return ids, None
        # Copies that have come the same way have noted the same on it.
        agrees = (self._token_ids[source, :, : len(ids)] == ids).all(axis=1)
        own = slice(int(self.rows.prompt_lengths[source]), len(ids))
        return ids, noted[source, int(agrees.argmax()), own].copy()

    def take(self, order: NDArray[np.intp]) -> NDArray[np.intp]:
        """Let all but these sources go; the rows whose caches the rest continue."""
        before = self.moves.reshape(-1, self.copies)[order].ravel()
        if len(order) < len(self.rows.numbers) or (order != np.arange(len(order))).any():
            self.next_ids = self.next_ids.reshape(-1, self.copies)[order].ravel()
            self.rows.take(order)
            self._take(order)
            self.since = 0
        self.alive = np.ones(len(order), bool)
        return before

    def begin(self) -> None:
        """Choose first from a step that is fed each prompt's last token, among those of others."""
        last = self._token_ids[np.arange(len(self.alive)), :, self.rows.lengths - 1]
        self.next_ids = last.ravel()

    def rename(self, number: int) -> None:
        """Call its one source so, where nothing that is asked looks at numbers."""
        self.rows.numbers, self._inputs = np.array([number]), None

    def join(self, *others: Self) -> None:
        """The sources of other searches of the same kind follow this one's.

        All have been told what their rows' caches are, by `take` or because nothing was chosen
        yet. What one task asks must be what the others do, but for limits and seeds; and no
        number may be in two.
        """
        every = (self, *others)
        ids = [each._source_ids[each.rows.sources] for each in every]
        lengths = [each._source_lengths[each.rows.sources] for each in every]
        self._source_ids = joined(*ids)
        self._source_lengths = np.concatenate(lengths)
        self.rows.join(*(each.rows for each in others))
        self._join(*others)
        self.alive = np.concatenate([each.alive for each in every])
        self.next_ids = np.concatenate([each.next_ids for each in every])
        self.moves, self.since = np.arange(len(self.next_ids)), 0

    @abstractmethod
    def _join(self, *others: Self) -> None:
        """Put what a kind of search has besides behind this one's; the rows are joined by then."""

    @abstractmethod
    def _take(self, order: NDArray[np.intp]) -> None:
        """Keep what belongs to these sources of what a kind of search has besides."""

    def _lines(self, slots: NDArray[np.intp], shared: bool) -> NDArray[np.intp]:
        """The lines of the outputs of copies whose caches lie in `slots`, both by source."""
        sources = np.arange(len(slots))[:, None]
        if shared:
            return np.repeat(sources, self.copies)
        return np.asarray(sources * self.copies + slots).ravel()

    @property
    def _token_ids(self) -> IdArray:
        return self.rows.tracks["token_ids"]

    def _histories(self) -> Histories:
        """Of every row, source by source."""

        def each(values: IdArray) -> IdArray:
            return np.repeat(values, self.copies)

        rows = self.rows
        return Histories(
            self._token_ids.reshape(-1, self._token_ids.shape[-1]),
            each(rows.lengths),
            each(rows.prompt_lengths),
            each(rows.limits),
            each(rows.numbers if self._inputs is None else self._inputs[rows.numbers]),
            each(rows.sources),
            self._source_ids,
            self._source_lengths,
        )

    def _add_notes(self, sources: int, width: int) -> None:
        shape, count = (sources, self.copies, width), self.task.top_log_probs
        if self.task.log_probs:
            self.rows.tracks["log_probs"] = np.zeros(shape, np.float32)
        if count:
            self.rows.tracks["top_ids"] = np.zeros((*shape, count), np.int64)
            self.rows.tracks["top_log_probs"] = np.zeros((*shape, count), np.float32)

    def _notes(
        self, outputs: Outputs, lines: NDArray[np.intp], token_ids: IdArray
    ) -> dict[str, NDArray[Any]]:
        """What to write of tokens that follow lines of the outputs, both [n]: track -> [n, ...]."""
        notes: dict[str, NDArray[Any]] = {"token_ids": token_ids}
        if self.task.log_probs:
            notes["log_probs"] = chosen_log_probs(outputs, lines, token_ids)
        if count := self.task.top_log_probs:
            sums = outputs[LOG_SUM_EXP][lines, -1:]
            notes["top_ids"] = outputs[TOP_TOKEN_IDS][lines, -1, :count]
            notes["top_log_probs"] = outputs[TOP_LOGITS][lines, -1, :count] - sums
        return notes

    def _hypothesis(
        self,
        source: int,
        tracks: dict[str, NDArray[Any]],
        length: int,
        score: float,
    ) -> Hypothesis:
        """Of one copy's tracks, [width, ...] each; a stop string or end token is its last."""
        prompt_length = int(self.rows.prompt_lengths[source])
        token_ids: IdArray = tracks["token_ids"][:length].copy()
        notes = {
            name: track[prompt_length:length].copy()
            for name, track in tracks.items()
            if name != "token_ids"
        }
        reason: FinishReason = "stop" if self._ends(token_ids) else "length"
        rows = self.rows
        steps = int(rows.steps[source])
        return Hypothesis(
            token_ids,
            prompt_length,
            score,
            reason,
            steps=steps,
            drafted_tokens=int(rows.drafted[source]),
            accepted_tokens=int(rows.lengths[source]) - prompt_length - steps,
            **notes,
        )

    def _ends(self, token_ids: IdArray) -> bool:
        last = int(token_ids[-1])
        completes = self.task.completes
        return last in self.task.options.eos_token_id or (
            completes is not None and completes(token_ids[:-1], last)
        )

    def _fail(self, source: int, message: str) -> None:
        number = int(self.rows.numbers[source])
        self.finished.pop(number, None)
        self.failed[number] = message
        self.alive[source] = False

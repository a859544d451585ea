"""SingleSearch: one token at a time, the best one or one that is drawn (transformers `_sample`)."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.candidates import Outputs, ScoreArray
from bart_onnx.decoding.histories import IdArray
from bart_onnx.decoding.prompts import Prompts
from bart_onnx.decoding.rows import widened
from bart_onnx.decoding.scoring import NO_TOKEN_LEFT, NOT_FINITE, forbidding
from bart_onnx.decoding.search import Search
from bart_onnx.decoding.tasks import Hypothesis, Task
from bart_onnx.samplers.distributions import drawn


class SingleSearch(Search):
    """Rows that know nothing of each other. Copies of a source leave when the last has ended."""

    def __init__(
        self, task: Task, prompts: Prompts, numbers: NDArray[np.intp], limits: IdArray
    ) -> None:
        super().__init__(task, prompts, numbers, limits)
        shape = (len(numbers), self.copies)
        # The length at which each copy ended; 0 while it goes on.
        self._ended = np.zeros(shape, np.int64)
        self._uniforms: NDArray[np.float64] | None = None
        if task.draws is not None:
            streams = (numbers + task.first_row)[:, None] * self.copies + np.arange(self.copies)
            width = self._token_ids.shape[-1]
            uniforms = task.draws.uniforms(streams.ravel().tolist(), width)
            self._uniforms = uniforms.reshape(*shape, width)

    def choose(self, outputs: Outputs, shared: bool = False) -> None:
        """See `Search.choose`."""
        self.finished, self.failed = {}, {}
        self.rows.steps += 1
        every = np.arange(len(self.rows.lengths))
        lines = self._lines(np.broadcast_to(np.arange(self.copies), self._ended.shape), shared)
        self.next_ids = self._go_on(every, outputs, lines)

    def _go_on(
        self, sources: NDArray[np.intp], outputs: Outputs, lines: NDArray[np.intp]
    ) -> IdArray:
        """Give each copy of these sources one token more; which ones, [sources * copies].

        Args:
            lines: the line of each copy in the outputs.
        """
        histories = self._histories()
        if len(sources) < len(self.rows.lengths):
            histories = histories.take(self._lines_of(sources))
        scores, token_ids, complaints = self.task.scoring.score(outputs, lines, histories)
        if len(dead := np.flatnonzero(scores.max(axis=1) == -np.inf)):
            none_left = NO_TOKEN_LEFT.format(forbidding(self.task.options))
            complaints = dict.fromkeys(dead.tolist(), none_left) | complaints
        broken = np.flatnonzero(self.task.scoring.broken(outputs, lines))
        complaints |= dict.fromkeys(broken.tolist(), NOT_FINITE)
        columns = self._columns(sources, scores, complaints)
        chosen = token_ids[np.arange(len(lines)), columns]
        self._write(sources, outputs, lines, chosen)
        self.rows.lengths[sources] += 1
        self._end(sources, chosen)
        for row, message in complaints.items():
            source, copy = int(sources[row // self.copies]), row % self.copies
            if self._ended[source, copy] in (0, self.rows.lengths[source]):
                self._fail(source, message)
        self._finish(sources)
        return chosen

    def _finish(self, sources: NDArray[np.intp]) -> None:
        """Let those of these sources go whose copies have all ended."""
        ended = self.alive[sources] & self._ended[sources].all(axis=1)
        for source in sources[ended].tolist():
            self.finished[int(self.rows.numbers[source])] = tuple(
                self._finished(source, copy) for copy in range(self.copies)
            )
            self.alive[source] = False

    def stable(self, source: int) -> IdArray:
        """See `Search.stable`."""
        return self._token_ids[source, 0, : self.rows.lengths[source]]

    def _columns(
        self, sources: NDArray[np.intp], scores: ScoreArray, complaints: dict[int, str]
    ) -> NDArray[np.intp]:
        """The column chosen of each row, [rows]."""
        if self._uniforms is None:
            return np.zeros(len(scores), np.intp)
        scores = scores.copy()
        # A row that has gone wrong draws nothing that counts.
        scores[list(complaints)] = 0
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return drawn(weights, self._uniforms[sources, :, self.rows.lengths[sources]].ravel())

    def _write(
        self,
        sources: NDArray[np.intp],
        outputs: Outputs,
        lines: NDArray[np.intp],
        chosen: IdArray,
    ) -> None:
        positions, shape = self.rows.lengths[sources], (len(sources), self.copies)
        for name, values in self._notes(outputs, lines, chosen).items():
            track = self.rows.tracks[name]
            track[sources, :, positions] = values.reshape(*shape, *values.shape[1:])

    def _end(self, sources: NDArray[np.intp], chosen: IdArray) -> None:
        """Note which copies have ended with these tokens."""
        before, lengths = self._ended[sources], self.rows.lengths[sources]
        tokens = chosen.reshape(before.shape)
        ends = self._is_end(tokens)
        ends |= (lengths >= self.rows.limits[sources])[:, None]
        if (completes := self.task.completes) is not None:
            for line, copy in np.argwhere(~ends & (before == 0)):
                said = self._token_ids[sources[line], copy, : lengths[line] - 1]
                ends[line, copy] = completes(said, int(tokens[line, copy]))
        self._ended[sources] = np.where((before == 0) & ends, lengths[:, None], before)

    def _is_end(self, token_ids: IdArray) -> NDArray[np.bool_]:
        """Which of these tokens end a row; a few comparisons cost a fourth of `np.isin`."""
        ends = np.zeros(token_ids.shape, bool)
        for end in self.task.options.eos_token_id:
            ends |= token_ids == end
        return ends

    def _lines_of(self, sources: NDArray[np.intp]) -> NDArray[np.intp]:
        """The rows of these sources' copies."""
        return np.asarray(sources[:, None] * self.copies + np.arange(self.copies)).ravel()

    def _finished(self, source: int, copy: int) -> Hypothesis:
        tracks = {name: track[source, copy] for name, track in self.rows.tracks.items()}
        length = int(self._ended[source, copy])
        score = float("nan")
        if "log_probs" in tracks:
            own = tracks["log_probs"][self.rows.prompt_lengths[source] : length]
            score = float(own.sum(dtype=np.float64))
        return self._hypothesis(source, tracks, length, score)

    def _take(self, order: NDArray[np.intp]) -> None:
        self._ended = self._ended[order]
        if self._uniforms is not None:
            self._uniforms = self._uniforms[order]

    def _join(self, *others: Self) -> None:
        every, width = (self, *others), self._token_ids.shape[-1]
        self._ended = np.concatenate([each._ended for each in every])
        drawn_of = [each._uniforms for each in every if each._uniforms is not None]
        if drawn_of:
            self._uniforms = np.concatenate([widened(each, 2, width) for each in drawn_of])

"""BeamSampler: several continuations of each row side by side; the likeliest wins.

The arithmetic of one step (`choose`) serves the call by hand here and the loop of
`bart_onnx.decoding.beam` alike. It knows probabilities only.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.samplers.arguments import checked_count, checked_flag
from bart_onnx.samplers.beams import BeamChoice, Beams
from bart_onnx.samplers.likeliest import largest
from bart_onnx.samplers.nested_rows import take_rows
from bart_onnx.samplers.sampler import Next, Sampler, all_ended, checked_prompt

# The score of every beam but the first at the start: beams that are equal would choose alike.
_UNUSED = -1e9


class BeamSampler(Sampler):
    """The best of `num_beams` continuations by log-probability (KerasHub 0.32 `BeamSampler`).

    As there, beams that have ended go on: they compete, are sampled on, and what they sample after
    their stop token counts in their scores; decoding ends when all beams of all rows have ended.
    So the answer for a row may depend on the rest of its batch. `freeze_ended_beams` mends this.

    Args:
        num_beams: continuations kept of each row, at least 1; 1 is greedy.
        return_all_beams: return every beam with its log-probability, best first.
        freeze_ended_beams: keep a beam as it is once it has ended, and leave scores alone while a
            prompt is read. Then a row's answer is the same alone and in any batch.
        temperature: above 0; it tempers the scores too.

    Raises:
        InputError, InputTypeError: an argument outside its range.
    """

    def __init__(
        self,
        num_beams: int = 5,
        return_all_beams: bool = False,
        freeze_ended_beams: bool = False,
        *,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(temperature)
        self.num_beams = checked_count("num_beams", num_beams)
        self.return_all_beams = checked_flag("return_all_beams", return_all_beams)
        self.freeze_ended_beams = checked_flag("freeze_ended_beams", freeze_ended_beams)

    def first_beams(self, token_ids: NDArray[Any]) -> Beams:
        """`num_beams` copies of each prompt [rows, width]; only the first of them is in use."""
        scores = np.full((len(token_ids), self.num_beams), _UNUSED, np.float32)
        scores[:, 0] = 0
        copies = np.repeat(token_ids[:, None], self.num_beams, axis=1)
        return Beams(copies, scores, np.zeros(scores.shape, bool))

    def choose(self, probabilities: NDArray[np.float32], beams: Beams) -> BeamChoice:
        """The best continuations, best first; of equals, those of earlier beams and columns.

        Args:
            probabilities: of each beam's candidates, [rows, num_beams, candidates]: the whole
                vocabulary, or the `num_beams` best, which are enough. A beam's other candidates
                score below as many of its own.
            beams: the beams so far. Frozen ones have one continuation, column 0 at no cost.

        Log-probabilities are logarithms of float32 probabilities, so that one below 1e-45 or so
        is minus infinity, as it is in KerasHub.
        """
        with np.errstate(divide="ignore"):
            gains = np.log(probabilities.astype(np.float32))
        if self.freeze_ended_beams:
            gains[beams.ended] = -np.inf
            gains[beams.ended, 0] = 0
        candidates = (gains + beams.scores[..., None]).reshape(len(gains), -1)
        best = largest(candidates, self.num_beams)
        parents, columns = np.divmod(best, gains.shape[-1])
        return BeamChoice(parents, columns, np.take_along_axis(candidates, best, axis=-1))

    def go_on(
        self,
        beams: Beams,
        probabilities: NDArray[np.float32],
        candidates: NDArray[np.int64] | None,
        positions: NDArray[np.integer],
        forced: NDArray[np.bool_],
        stops: NDArray[np.int64],
    ) -> NDArray[np.intp]:
        """Every beam takes one token more; the flat index of each one's parent.

        Args:
            beams: the beams so far, changed in place.
            probabilities: as `choose` takes them.
            candidates: their ids, [rows, num_beams, candidates]; None where columns are ids.
            positions: where the tokens are written, [rows].
            forced: whether the token there is the prompt's and stays, [rows].
            stops: ids that end a beam.
        """
        choice = self.choose(probabilities, beams)
        chosen = choice.columns
        if candidates is not None:
            every = np.arange(len(candidates))[:, None]
            chosen = candidates[every, choice.parents, choice.columns]
        stays = np.repeat(forced[:, None], self.num_beams, axis=1)
        if self.freeze_ended_beams:
            choice = _where_free(choice, stays, beams)
            stays = stays | np.take_along_axis(beams.ended, choice.parents, axis=1)
        return beams.go_on(choice, chosen, positions, stays, stops)

    def settled(self, beams: Beams) -> NDArray[np.bool_]:
        """Whether a row's answer is known, bool [rows], where ended beams are frozen.

        It is once the best beam has ended: the scores of others can only fall. Where all beams are
        asked for, all must have ended.
        """
        best = beams.scores.argmax(axis=-1)
        ended = beams.ended if self.return_all_beams else beams.ended[np.arange(len(best)), best]
        return np.asarray(ended.reshape(len(best), -1).all(axis=-1), np.bool_)

    def get_config(self) -> dict[str, Any]:
        """The arguments by name, ready for JSON."""
        config = {
            **super().get_config(),
            "num_beams": self.num_beams,
            "return_all_beams": self.return_all_beams,
        }
        # Written only where it says something, because KerasHub has no such argument.
        return {**config, "freeze_ended_beams": True} if self.freeze_ended_beams else config

    def __call__(
        self,
        next: Next,
        prompt: Any,
        cache: Any = None,
        index: int = 0,
        mask: Any = None,
        stop_token_ids: Collection[int] | None = None,
        hidden_states: Any = None,
        model: Any = None,
    ) -> Any:
        """Fill a prompt from `index` on; see `Sampler.__call__`.

        `next` is given num_beams rows for each of the prompt's, side by side, and the cache's rows
        likewise. Where the mask is set the prompt's token is written, and the beam keeps the score
        of the candidate that was not.

        Returns:
            The best beams, token ids [rows, width]; with `return_all_beams` the ids of all, best
            first, [rows, num_beams, width], and their log-probabilities float32 [rows, num_beams].
        """
        ids, kept = checked_prompt(prompt, mask)
        rows, width = ids.shape
        beams = self.first_beams(ids)
        cache = take_rows(cache, np.repeat(np.arange(rows), self.num_beams))
        stops = np.array(list(stop_token_ids or ()), np.int64)
        for position in range(index, width):
            if self._finished(beams, kept, stop_token_ids):
                break
            logits, _, cache = next(beams.token_ids.reshape(-1, width), cache, position)
            probabilities = self.compute_probabilities(logits).reshape(*beams.scores.shape, -1)
            at = np.full(rows, position)
            moved = self.go_on(beams, probabilities, None, at, kept[:, position], stops)
            cache = take_rows(cache, moved)
        token_ids, scores = beams.sorted()
        return (token_ids, scores) if self.return_all_beams else token_ids[:, 0]

    def _finished(
        self, beams: Beams, kept: NDArray[np.bool_], stop_token_ids: Collection[int] | None
    ) -> bool:
        if self.freeze_ended_beams:
            return bool(self.settled(beams).all())
        return all_ended(beams.token_ids, kept[:, None], stop_token_ids)


def _where_free(choice: BeamChoice, forced: NDArray[np.bool_], beams: Beams) -> BeamChoice:
    """The choice, but where the token is the prompt's, beams keep their places and scores."""
    return BeamChoice(
        np.where(forced, np.arange(forced.shape[1]), choice.parents),
        choice.columns,
        np.where(forced, beams.scores, choice.scores),
    )

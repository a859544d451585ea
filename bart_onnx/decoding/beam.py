"""Beam search over a runner: beams of one source share its cross cache. It knows no arithmetic of
scores, which is `BeamSampler`'s.

As KerasHub does it, all rows of a call go in step, from the shortest prompt's end on, until every
beam of every row has ended: one batch, never split. With frozen beams each row starts at its own
prompt's end, leaves when its answer is known, and depends on no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.prompts import (
    Generated,
    GeneratedBeams,
    IdArray,
    Prompts,
    batches,
    encode,
    fewest_moves,
    first_stops,
    in_halves,
    read_prompts,
)
from bart_onnx.decoding.protocols import AnyState, Runner
from bart_onnx.graphs import LOGITS
from bart_onnx.samplers.beam_sampler import BeamSampler
from bart_onnx.samplers.beams import Beams
from bart_onnx.samplers.likeliest import likeliest, wanted_for_likeliest


def beam_search(
    runner: Runner[AnyState], prompts: Prompts, sampler: BeamSampler, stops: IdArray
) -> Generated:
    """Continue each prompt with its best beam, and give all beams where the sampler says so."""
    search = _BeamSearch(runner, prompts, sampler, stops)
    width = prompts.decoder_token_ids.shape[1]
    if sampler.freeze_ended_beams:
        logits = runner.config.vocabulary_size * sampler.num_beams
        logits = logits if LOGITS in search.wanted else 1
        most = runner.batch_tokens
        for rows in batches(prompts, logits, copies=sampler.num_beams, tokens=most):
            list(in_halves(rows, search.each))
    else:
        rows = np.arange(len(prompts.prompt_lengths))
        start = int(prompts.prompt_lengths.min(initial=width))
        if start < width:
            search.run(rows, np.full(len(rows), start, np.int64))
    token_ids, log_probs = search.found.sorted()
    lengths = first_stops(token_ids, prompts.prompt_lengths, stops)
    beams = GeneratedBeams(token_ids, lengths, log_probs) if sampler.return_all_beams else None
    return Generated(token_ids[:, 0], lengths[:, 0], beams)


class _BeamSearch(Generic[AnyState]):
    """One call. `found` holds the beams of every row that has been run."""

    def __init__(
        self,
        runner: Runner[AnyState],
        prompts: Prompts,
        sampler: BeamSampler,
        stops: IdArray,
    ) -> None:
        self._runner, self._prompts, self._sampler, self._stops = runner, prompts, sampler, stops
        self._width = prompts.decoder_token_ids.shape[1]
        # A beam's n best candidates hold all of its share in the n best of n beams.
        self._count = min(sampler.num_beams, runner.config.vocabulary_size)
        self.wanted = wanted_for_likeliest(self._count, sampler.temperature)
        self.found = sampler.first_beams(prompts.decoder_token_ids)

    def run(self, rows: NDArray[np.intp], positions: IdArray) -> None:
        """Search these rows, whose next tokens are written at `positions`, [rows]."""
        sampler = self._sampler
        state = encode(self._runner, self._prompts, rows)
        beams = sampler.first_beams(self._prompts.decoder_token_ids[rows])
        probabilities, candidates = self._read(state, rows, positions)
        positions = positions.copy()
        expanded = False
        while True:
            forced = positions < self._prompts.prompt_lengths[rows]
            moved = sampler.go_on(
                beams, probabilities, candidates, positions, forced, self._stops
            ).reshape(beams.scores.shape)
            positions += 1
            alive = self._alive(beams, positions)
            if not alive.all():
                self._keep(rows[~alive], beams, np.flatnonzero(~alive))
            order = fewest_moves(alive)
            if not len(order):
                return
            if len(order) < len(rows):
                beams.take(order)
                rows, positions = rows[order], positions[order]
            if expanded:
                state.select(moved[order].ravel())
            else:
                # Until now the beams of a row had nothing that told them apart.
                _expand(state, order, sampler.num_beams)
                expanded = True
            outputs = self._runner.step(state, self._written(beams, positions), self.wanted)
            probabilities, candidates = self._best(outputs, beams.scores.shape)

    def each(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
        """Search these rows, each from its own prompt's end on, and tell which they were."""
        self.run(rows, self._prompts.prompt_lengths[rows])
        yield rows

    def _read(
        self, state: AnyState, rows: NDArray[np.intp], lengths: IdArray
    ) -> tuple[NDArray[np.float32], IdArray]:
        """Feed what all beams have in common; candidates [rows, num_beams, count] of what follows.

        Every beam is given the same, as if each had been fed.
        """
        shape = (len(rows), self._count)
        probabilities, candidates = np.empty(shape, np.float32), np.empty(shape, np.int64)
        token_ids = self._prompts.decoder_token_ids[rows]
        for some, columns, outputs in read_prompts(
            self._runner, state, token_ids, lengths, self.wanted
        ):
            if columns.stop == lengths[some.start]:
                best = likeliest(outputs, self._count, self._sampler.temperature)
                probabilities[some], candidates[some] = best
        copies = (len(rows), self._sampler.num_beams, self._count)
        return (
            np.broadcast_to(probabilities[:, None], copies),
            np.broadcast_to(candidates[:, None], copies),
        )

    def _best(
        self, outputs: Mapping[str, NDArray[Any]], shape: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], IdArray]:
        probabilities, candidates = likeliest(outputs, self._count, self._sampler.temperature)
        return probabilities.reshape(*shape, -1), candidates.reshape(*shape, -1)

    def _alive(self, beams: Beams, positions: IdArray) -> NDArray[np.bool_]:
        """Which rows go on, [rows]."""
        if self._sampler.freeze_ended_beams:
            done = self._sampler.settled(beams)
        else:
            done = np.full(len(positions), beams.ended.all())
        return np.asarray(~done & (positions < self._width))

    def _keep(self, rows: NDArray[np.intp], beams: Beams, places: NDArray[np.intp]) -> None:
        """Store the beams at `places` as those of `rows`."""
        self.found.token_ids[rows] = beams.token_ids[places]
        self.found.scores[rows] = beams.scores[places]
        self.found.ended[rows] = beams.ended[places]

    def _written(self, beams: Beams, positions: IdArray) -> IdArray:
        """The last token of every beam, [rows * num_beams, 1].

        What stands in a frozen beam may be no token at all, and is fed as 0: nobody reads on.
        """
        every = np.arange(len(positions))
        last = beams.token_ids[every, :, positions - 1]
        if self._sampler.freeze_ended_beams:
            last = np.where(beams.ended, 0, last)
        return np.asarray(last.reshape(-1, 1), np.int64)


def _expand(state: AnyState, order: NDArray[np.intp], count: int) -> None:
    """Keep the rows in `order` and make `count` of each."""
    if len(order) < len(state.lengths):
        state.select(order)
    state.expand(count)

"""Contrastive search over a runner: the candidates of a row are tried as rows of its source, which
share its cross cache. It knows no arithmetic of scores, which is `ContrastiveSampler`'s.

Rows are independent: each starts at its own prompt's end and leaves at its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.prompts import (
    Generated,
    IdArray,
    Prompts,
    batches,
    encode,
    fewest_moves,
    in_halves,
    read_prompts,
)
from bart_onnx.decoding.protocols import AnyState, Runner
from bart_onnx.graphs import DECODER_SEQUENCE_OUTPUT, LOGITS
from bart_onnx.samplers.contrastive_sampler import (
    ContrastiveSampler,
    highest_cosines,
    unit_vectors,
)
from bart_onnx.samplers.likeliest import likeliest, wanted_for_likeliest


def contrastive_search(
    runner: Runner[AnyState], prompts: Prompts, sampler: ContrastiveSampler, stops: IdArray
) -> Generated:
    """Continue each prompt to its first stop token or to the full width."""
    search = _ContrastiveSearch(runner, prompts, sampler, stops)
    logits = runner.config.vocabulary_size * sampler.k if LOGITS in search.wanted else 1
    for rows in batches(prompts, logits, copies=sampler.k, tokens=runner.batch_tokens):
        list(in_halves(rows, search.each))
    return Generated(search.token_ids, search.lengths)


class _ContrastiveSearch(Generic[AnyState]):
    """One call. `token_ids` and `lengths` hold the answers of rows that have been run."""

    def __init__(
        self,
        runner: Runner[AnyState],
        prompts: Prompts,
        sampler: ContrastiveSampler,
        stops: IdArray,
    ) -> None:
        self._runner, self._prompts, self._sampler, self._stops = runner, prompts, sampler, stops
        self.wanted = wanted_for_likeliest(sampler.k, sampler.temperature)
        self.token_ids = prompts.decoder_token_ids.copy()
        self.lengths = np.full(len(self.token_ids), self.token_ids.shape[1], np.int64)

    def each(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
        """Search these rows, and tell which they were."""
        self.run(rows)
        yield rows

    def run(self, rows: NDArray[np.intp]) -> None:
        """Search these rows."""
        k, width = self._sampler.k, self.token_ids.shape[1]
        state = encode(self._runner, self._prompts, rows)
        positions = self._prompts.prompt_lengths[rows]
        history = np.zeros((len(rows), width, self._runner.config.hidden_dim), np.float32)
        probabilities, tokens = self._read(state, rows, positions, history)
        state.expand(k)
        while True:
            outputs = self._runner.step(
                state, tokens.reshape(-1, 1), (*self.wanted, DECODER_SEQUENCE_OUTPUT)
            )
            best = self._choose(outputs, probabilities, positions, history)
            every = np.arange(len(rows))
            self.token_ids[rows, positions] = tokens[every, best]
            positions += 1
            alive = ~np.isin(tokens[every, best], self._stops) & (positions < width)
            self.lengths[rows[~alive]] = positions[~alive]
            order = fewest_moves(alive)
            if not len(order):
                return
            chosen = (every * k + best)[order]
            probabilities, tokens = self._candidates(outputs, chosen)
            # The rows of a source differ in their last token alone, while they stay its rows.
            since = int(positions.min()) - 1 if alive.all() else 0
            longest = int(positions.max())
            state.select(np.repeat(chosen, k), since)
            rows, positions = rows[order], positions[order]
            if not alive.all():
                history[: len(order), :longest] = history[order, :longest]

    def _read(
        self,
        state: AnyState,
        rows: NDArray[np.intp],
        lengths: IdArray,
        history: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], IdArray]:
        """Feed the prompts, remember their hidden states; candidates [rows, k] of what follows."""
        shape = (len(rows), self._sampler.k)
        probabilities, tokens = np.empty(shape, np.float32), np.empty(shape, np.int64)
        for some, columns, outputs in read_prompts(
            self._runner,
            state,
            self._prompts.decoder_token_ids[rows],
            lengths,
            self.wanted,
            always=(DECODER_SEQUENCE_OUTPUT,),
        ):
            history[some, columns] = unit_vectors(outputs[DECODER_SEQUENCE_OUTPUT])
            if columns.stop == lengths[some.start]:
                probabilities[some], tokens[some] = self._likeliest(outputs)
        return probabilities, tokens

    def _choose(
        self,
        outputs: Mapping[str, NDArray[Any]],
        probabilities: NDArray[np.float32],
        positions: IdArray,
        history: NDArray[np.float32],
    ) -> NDArray[np.intp]:
        """The best candidate of each row, [rows]; its hidden state joins the history."""
        hidden = outputs[DECODER_SEQUENCE_OUTPUT][:, -1]
        states = unit_vectors(hidden).reshape(*probabilities.shape, -1)
        best = self._sampler.choose(probabilities, highest_cosines(history, positions, states))
        every = np.arange(len(best))
        history[every, positions] = states[every, best]
        return best

    def _candidates(
        self, outputs: Mapping[str, NDArray[Any]], chosen: NDArray[np.intp]
    ) -> tuple[NDArray[np.float32], IdArray]:
        """Candidates [rows, k] of what follows the rows `chosen` of a step."""
        return self._likeliest({name: outputs[name][chosen] for name in self.wanted})

    def _likeliest(
        self, outputs: Mapping[str, NDArray[Any]]
    ) -> tuple[NDArray[np.float32], IdArray]:
        return likeliest(outputs, self._sampler.k, self._sampler.temperature)

"""What may be drawn: distributions after rules and filters, at every step of what was drawn.

transformers draws; what it drew is fed to this package's runner, a token at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from decoding_judge.cases import Case
from decoding_judge.models import Pair
from decoding_judge.report import RELATIVE
from decoding_judge.sides import ends_of, groups, judge_output, padded

from bart_onnx.answers import Model, asked_of
from bart_onnx.decoding.filters import log_softmax, softmax
from bart_onnx.decoding.histories import Histories
from bart_onnx.decoding.scoring import Scoring
from bart_onnx.graphs import LOG_SUM_EXP, LOGITS

# How far shares may be apart: a softmax adds up in another order.
ALIKE = 1e-6


@dataclass
class Shares:
    """Counts over all cases of one model.

    Attributes:
        steps: distributions compared, one for each token drawn.
        apart: the largest difference of a share, of the same logits.
        ends_apart: the same with each side's own logits, filters' thresholds left out.
        thresholds: steps at which a filter let another set pass for logits that differ in their
            last bits.
        scores: beams' sums compared.
        score_apart: their largest relative difference.
    """

    steps: int = 0
    apart: float = 0.0
    ends_apart: float = 0.0
    thresholds: int = 0
    scores: int = 0
    score_apart: float = 0.0

    def run(self, pair: Pair, cases: Iterable[Case]) -> Shares:
        """Compare all cases; itself."""
        for number, case in enumerate(cases):
            for rows in groups(case):
                torch.manual_seed(number)
                self._compare(pair, case, rows)
        return self

    @property
    def is_alike(self) -> bool:
        """Whether transformers would draw from the same, step by step."""
        return self.apart <= ALIKE and self.score_apart <= RELATIVE

    def _compare(self, pair: Pair, case: Case, rows: range) -> None:
        output, processors = _drawn(pair, case, rows)
        beams = case.options["num_beams"] > 1
        ids = output.sequences.numpy()
        lines = np.arange(len(ids))
        alive, sums = np.ones(len(ids), bool), np.zeros(len(ids))
        prompt = 1 if case.prompts is None else len(case.prompts[rows.start])
        lengths = np.full(len(ids), prompt)
        for step, (scores, logits) in enumerate(_replayed(pair, case, rows, ids, prompt)):
            length = prompt + step
            if beams:
                lines = output.beam_indices[:, step].numpy()
                alive &= lines >= 0
            wanted = output.scores[step].numpy()[lines]
            fed = log_softmax(logits) if beams else logits
            same = processors(torch.tensor(ids[:, :length]), torch.tensor(fed)).numpy()
            self._note(scores[alive], same[alive], wanted[alive])
            sums[alive] += scores[alive, ids[alive, length]]
            lengths[alive] += 1
            alive &= ~np.isin(ids[:, length], ends_of(pair, case))
        if beams:
            self._note_sums(case, sums, lengths - prompt, output.sequences_scores.numpy())

    def _note(self, ours: Any, same: Any, wanted: Any) -> None:
        if not len(ours):
            return
        mine = softmax(ours)
        self.steps += len(ours)
        self.apart = max(self.apart, float(np.abs(mine - softmax(same)).max()))
        flipped = ((ours > -np.inf) != (wanted > -np.inf)).any(axis=1)
        self.thresholds += int(flipped.sum())
        if not flipped.all():
            apart = np.abs(mine - softmax(wanted))[~flipped].max()
            self.ends_apart = max(self.ends_apart, float(apart))

    def _note_sums(self, case: Case, sums: Any, lengths: Any, wanted: Any) -> None:
        known = wanted > -1e6
        found = sums / lengths ** case.options.get("length_penalty", 1.0)
        apart = np.abs(found - wanted)[known] / np.maximum(np.abs(wanted[known]), 0.1)
        self.scores += int(known.sum())
        self.score_apart = max(self.score_apart, float(apart.max(initial=0)))


def _drawn(pair: Pair, case: Case, rows: range) -> tuple[Any, Any]:
    """What transformers draws, and the processors and warpers that it used."""
    make, processors = pair.judge._get_logits_processor, []

    def made(*args: Any, **told: Any) -> Any:
        processors.append(make(*args, **told))
        return processors[-1]

    with patch.object(pair.judge, "_get_logits_processor", made):
        return judge_output(pair, case, rows), processors[0]


def _replayed(
    pair: Pair, case: Case, rows: range, ids: Any, prompt: int
) -> Iterator[tuple[Any, Any]]:
    """Scores and logits [sequences, vocabulary] of what follows each prefix of `ids`."""
    runner = pair.ours.runner
    asked = asked_of(Model(runner, None), pair.ours.generation_config, dict(case.options))
    scoring = Scoring(asked.options, pair.vocabulary_size)
    sources, mask = padded([case.sources[row] for row in rows], pair.ours.config.pad_token_id)
    state = runner.encode(sources, mask.sum(axis=1))
    if case.copies > 1:
        state.expand(case.copies)
    every = np.arange(len(ids))
    limit = asked.options.limit(prompt, pair.ours.config.max_sequence_length)
    for length in range(prompt, ids.shape[1]):
        fed = ids[:, :prompt] if length == prompt else ids[:, length - 1 : length]
        outputs = runner.step(state, fed, (*dict.fromkeys((*scoring.wanted, LOGITS, LOG_SUM_EXP)),))
        outputs = {name: np.array(outputs[name])[:, -1:] for name in outputs}
        of_copies = every // case.copies
        told = [np.full(len(ids), each, np.int64) for each in (length, prompt, limit)]
        numbers = rows.start + of_copies
        histories = Histories(ids, *told, numbers, of_copies, sources, mask.sum(axis=1))
        found, token_ids, _ = scoring.score(outputs, every, histories)
        scores = np.full((len(ids), pair.vocabulary_size), -np.inf, np.float32)
        # A forced token may stand among the candidates twice, once at minus infinity.
        np.maximum.at(scores, (every[:, None], token_ids), found)
        yield scores, outputs[LOGITS][:, -1]

"""Why two outputs of one row differ: by a decision that was a tie, or not.

Both sides are followed step by step to the first at which they do not agree. The margin is the
distance of what either chose there, by transformers' own scores. What comes later is not looked
at: a tie there would excuse nothing.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
from decoding_judge.cases import Case
from decoding_judge.models import Pair
from decoding_judge.sides import arrays, ends_of, groups, judge_output, same_draws

from bart_onnx.answers import Model, asked_of
from bart_onnx.configured import ConfiguredCall
from bart_onnx.decoding.hypotheses import BeamHypotheses

# Below this no beam runs: see `bart_onnx.decoding.hypotheses`.
_NO_BEAM = -5e8
_REAL = float("inf")

Ids = tuple[int, ...]


@dataclass
class Beams:
    """One source after one step: sequences with their scores, best first."""

    running: list[tuple[Ids, float]]
    kept: list[tuple[Ids, float]]


@dataclass
class Judged:
    """What transformers did in one step.

    Attributes:
        beams: afterwards, of each source.
        totals: of every continuation, [sources, beams * vocabulary].
        ranking: what the continuations looked at were chosen by; totals, unless drawn.
        count: how many were looked at.
    """

    totals: Any
    ranking: Any
    count: int
    beams: list[Beams]


def margin(pair: Pair, case: Case, row: int) -> float:
    """By how much the first decision that differs was decided; infinite where that was no tie."""
    rows = next(each for each in groups(case) if row in each)
    if case.options["num_beams"] > 1:
        steps = _judged_steps(pair, case, rows)
        return _of_beams(pair, case, _our_steps(pair, case, row), steps, row)
    return _of_single(pair, case, rows, row)


def _of_single(pair: Pair, case: Case, rows: range, row: int) -> float:
    """The closest that a first differing token of a row's copies came."""
    rankings: list[Any] = []
    drawing = "seed" in case.options
    with same_draws(case, rows.start, rankings) if drawing else nullcontext():
        output = judge_output(pair, case, rows)
    call, batch = _call(pair, case)
    ours = call.run(batch)[0][row]
    prompt, gaps = len(batch.prompts[row]), []
    for copy, hypothesis in enumerate(ours):
        line = (row - rows.start) * case.copies + copy
        wanted, found = output.sequences[line].numpy(), hypothesis.token_ids
        shared = min(len(wanted), len(found))
        differ = np.flatnonzero(wanted[:shared] != found[:shared])
        if not len(differ):
            # What follows an end is filling; any other difference of lengths is none of a choice.
            ended = len(found) == len(wanted) or int(found[-1]) in ends_of(pair, case)
            gaps += [] if ended and len(found) <= len(wanted) else [_REAL]
            continue
        place = int(differ[0])
        token = int(found[place])
        if drawing:
            weights, uniforms = (each[line] for each in rankings[place - prompt])
            gaps.append(_missed(weights, float(uniforms), token))
        else:
            scores = output.scores[place - prompt][line].numpy()
            gaps.append(float(scores[wanted[place]] - scores[token]))
    return max(gaps, default=_REAL)


def _missed(weights: Any, uniform: float, token: int) -> float:
    """How far a uniform number is from those that draw a token."""
    reached = np.cumsum(weights)
    low, high = reached[token] - weights[token], reached[token]
    return float(max(low - uniform * reached[-1], uniform * reached[-1] - high, 0.0))


def _of_beams(pair: Pair, case: Case, ours: list[Beams], steps: list[Judged], row: int) -> float:
    source = 0 if case.by_row else row
    penalty = float(case.options.get("length_penalty", 1.0))
    before: Beams | None = None
    for length, (found, step) in enumerate(zip(ours, steps, strict=False), start=1):
        wanted = step.beams[source]
        for (mine, _), (its, _) in zip(found.running, wanted.running, strict=False):
            if mine == its:
                continue
            if before is None:
                return _first_step(pair, step, source, mine, its)
            return _of_running(pair, step, source, before, (mine, its))
        totals = step.totals[source] / length**penalty
        scores = _kept_scores(pair, totals, before, found) | dict(reversed(wanted.kept))
        if (gap := _of_kept(found, wanted, scores)) is not None:
            return gap
        before = wanted
    # All the same as long as both went on: one side stopped too early, or too late.
    return _REAL


def _first_step(pair: Pair, step: Judged, source: int, mine: Ids, its: Ids) -> float:
    totals = step.totals[source]
    return float(abs(totals[its[-1]] - totals[mine[-1]]))


def _of_running(
    pair: Pair, step: Judged, source: int, before: Beams, differing: tuple[Ids, Ids]
) -> float:
    """The margin between two continuations of beams that both sides have."""
    mine, its = differing
    ranks = [_ranks(before, ids[:-1]) for ids in (mine, its)]
    if not all(ranks):
        return _REAL
    size = pair.vocabulary_size
    places = [of[0] * size + ids[-1] for of, ids in zip(ranks, (mine, its), strict=True)]
    totals, ranking = step.totals[source], step.ranking[source]
    last = np.partition(ranking, -step.count)[-step.count]
    if ranking[places[0]] < last:
        return float(last - ranking[places[0]])
    return float(abs(totals[places[0]] - totals[places[1]]))


def _of_kept(found: Beams, wanted: Beams, scores: dict[Ids, float]) -> float | None:
    """The margin between the first hypotheses that differ; None where none does."""
    for (mine, _), (its, score) in zip(found.kept, wanted.kept, strict=False):
        if mine != its:
            return abs(scores[mine] - score) if mine in scores else _REAL
    return None if len(found.kept) == len(wanted.kept) else _REAL


def _kept_scores(pair: Pair, totals: Any, before: Beams | None, found: Beams) -> dict[Ids, float]:
    """transformers' scores of the hypotheses that this package keeps, as far as it has any."""
    known = {} if before is None else dict(reversed(before.kept))
    for ids, _ in found.kept:
        ranks = [0] if before is None else _ranks(before, ids[:-1])
        if ids not in known and ranks:
            known[ids] = float(totals[ranks[0] * pair.vocabulary_size + ids[-1]])
    return known


def _ranks(beams: Beams, ids: Ids) -> list[int]:
    """At which ranks a sequence runs."""
    return [rank for rank, (each, _) in enumerate(beams.running) if each == ids]


def _our_steps(pair: Pair, case: Case, row: int) -> list[Beams]:
    call, batch = _call(pair, case)
    steps = []
    searches, _ = call.searches(batch)
    for search in searches:
        assert isinstance(search, BeamHypotheses)
        for line in np.flatnonzero(search.rows.numbers == row):
            length = int(search.rows.lengths[line])
            tokens, kept = search.rows.tracks["token_ids"][line], search._kept["token_ids"][line]
            steps.append(
                Beams(
                    _listed(tokens, search._scores[line], [length] * len(tokens)),
                    [
                        (tuple(ids[:end].tolist()), float(score))
                        for ids, end, score, done in zip(
                            kept,
                            search._kept_lengths[line],
                            search._kept_scores[line],
                            search._kept_done[line],
                            strict=True,
                        )
                        if done
                    ],
                )
            )
    return steps


def _listed(tokens: Any, scores: Any, lengths: Any) -> list[tuple[Ids, float]]:
    return [
        (tuple(ids[:length].tolist()), float(score))
        for ids, score, length in zip(tokens, scores, lengths, strict=True)
        if score > _NO_BEAM
    ]


def _call(pair: Pair, case: Case) -> tuple[ConfiguredCall, Any]:
    options = dict(case.options)
    if case.prompts is not None:
        options["decoder_input_ids"] = case.prompts
    model = Model(pair.ours.runner, None)
    call = ConfiguredCall(
        pair.ours.runner, None, asked_of(model, pair.ours.generation_config, options)
    )
    return call, call.from_arrays(arrays(pair, case))


def _judged_steps(pair: Pair, case: Case, rows: range) -> list[Judged]:
    """transformers, watched where it chooses continuations and where it keeps hypotheses."""
    steps: list[Judged] = []
    rankings: list[Any] = []
    judge, drawing = pair.judge, "seed" in case.options
    choose, run_on = judge._get_top_k_continuations, judge._get_running_beams_for_next_iteration
    keep = judge._update_finished_beams
    now: dict[str, Any] = {}

    def chosen(**told: Any) -> Any:
        now["totals"] = told["accumulated_log_probs"].numpy().copy()
        now["length"], now["count"] = told["cur_len"] + 1, told["beams_to_keep"]
        return choose(**told)

    def running(**told: Any) -> Any:
        found = run_on(**told)
        now["running"] = [
            _listed(ids, scores, [now["length"]] * len(ids))
            for ids, scores in zip(found[0].numpy(), found[1].numpy(), strict=True)
        ]
        return found

    def kept(**told: Any) -> Any:
        found = keep(**told)
        lines = zip(now["running"], *(found[place].numpy() for place in (0, 1, 3)), strict=True)
        start, length = told["decoder_prompt_len"], now["length"]
        beams = [
            Beams(run, _ended(pair, case, zip(ids, sums, done, strict=True), start, length))
            for run, ids, sums, done in lines
        ]
        ranking = rankings[-1] if rankings else now["totals"]
        steps.append(Judged(now["totals"], ranking, now["count"], beams))
        return found

    with (
        patch.object(judge, "_get_top_k_continuations", chosen),
        patch.object(judge, "_get_running_beams_for_next_iteration", running),
        patch.object(judge, "_update_finished_beams", kept),
        same_draws(case, rows.start, rankings) if drawing else nullcontext(),
    ):
        judge_output(pair, case, rows)
    return steps


def _ended(pair: Pair, case: Case, lines: Any, start: int, length: int) -> list[tuple[Ids, float]]:
    """What is done of (ids, score, done), each up to its end."""
    ends, kept = ends_of(pair, case), []
    for ids, score, done in lines:
        stops = [place for place in range(start, length) if ids[place] in ends]
        if done:
            kept.append((tuple(ids[: stops[0] + 1 if stops else length].tolist()), float(score)))
    return kept

"""The searches and their driver, on a runner without a model."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
from toy_runner import END, ToyRunner, ToyState, config, random_prompts, some, what_follows

from bart_onnx.decoding.decode import decode
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.decoding.scoring import Scoring
from bart_onnx.decoding.tasks import Task
from bart_onnx.errors import InputError
from bart_onnx.graphs import LOG_SUM_EXP, LOGITS
from bart_onnx.samplers.draws import Draws

CONFIG = config()


def decoded(prompts, options, runner=None, log_probs=True, seed=0, top=0):
    """Hypotheses and failures by row."""
    runner = runner or ToyRunner(CONFIG)
    draws = Draws(seed).next_call() if options.do_sample else None
    scoring = Scoring(options, runner.config.vocabulary_size)
    task = Task(options, scoring, draws=draws, log_probs=log_probs, top_log_probs=top)
    limits = [options.limit(length, 64) for length in prompts.prompt_lengths.tolist()]
    found, failed = {}, {}
    for search in decode(runner, prompts, np.array(limits), task):
        found |= search.finished
        failed |= search.failed
    return found, failed


def sequences(found):
    return {row: [each.token_ids.tolist() for each in several] for row, several in found.items()}


OPTIONS = [
    DecodingOptions(max_length=9, eos_token_id=END),
    DecodingOptions(max_length=9, eos_token_id=END, num_beams=3, num_return_sequences=3),
    DecodingOptions(
        max_length=10, eos_token_id=END, num_beams=4, early_stopping=True, length_penalty=2.0
    ),
    DecodingOptions(
        max_length=11, eos_token_id=END, num_beams=2, early_stopping="never", no_repeat_ngram_size=2
    ),
    DecodingOptions(max_length=9, eos_token_id=END, do_sample=True, num_return_sequences=3),
    DecodingOptions(max_length=9, eos_token_id=END, do_sample=True, num_beams=3, top_k=5),
    DecodingOptions(max_new_tokens=5, eos_token_id=(END, 7), repetition_penalty=1.5, min_length=4),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_row_is_the_same_alone_and_in_any_batch(options):
    prompts = random_prompts(12, seed=3)
    together = sequences(decoded(prompts, options)[0])
    assert sorted(together) == list(range(12))
    if not options.do_sample:
        for row in range(12):
            alone = sequences(decoded(some(prompts, [row]), options)[0])
            assert alone[0] == together[row]
    else:
        first = sequences(decoded(some(prompts, list(range(5))), options)[0])
        assert first == {row: together[row] for row in range(5)}


def naive_greedy(source, prompt, limit):
    tokens = list(prompt)
    while len(tokens) < limit:
        tokens.append(int(what_follows(CONFIG, source, tokens)[0].argmax()))
        if tokens[-1] == END:
            break
    return tokens


def test_greedy_takes_the_best_token_of_every_step():
    prompts = random_prompts(8, seed=1)
    found, _ = decoded(prompts, OPTIONS[0])
    for row, (best,) in found.items():
        prompt = prompts.decoder_token_ids[row, : prompts.prompt_lengths[row]].tolist()
        expected = naive_greedy(int(prompts.encoder_token_ids[row, 0]), prompt, 9)
        assert best.token_ids.tolist() == expected
        assert best.finish_reason == ("stop" if expected[-1] == END else "length")


def log_softmax(logits):
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@pytest.mark.parametrize("options", OPTIONS)
def test_log_probs_are_the_models_own(options):
    prompts = random_prompts(5, seed=7)
    found, _ = decoded(prompts, options, top=3)
    for row, several in found.items():
        source = int(prompts.encoder_token_ids[row, 0])
        for each in several:
            tokens = each.token_ids.tolist()
            for place, position in enumerate(range(each.prompt_length, len(tokens))):
                own = log_softmax(what_follows(CONFIG, source, tokens[:position])[0])
                assert each.log_probs[place] == pytest.approx(own[tokens[position]], abs=1e-5)
                best = np.argsort(-own, kind="stable")[:3]
                assert each.top_ids[place].tolist() == best.tolist()
                np.testing.assert_allclose(each.top_log_probs[place], own[best], atol=1e-5)
            assert len(each.log_probs) == len(tokens) - each.prompt_length


def test_a_beams_score_is_its_log_probability_over_its_length():
    options = DecodingOptions(
        max_length=10, eos_token_id=END, num_beams=4, num_return_sequences=4, length_penalty=0.7
    )
    found, _ = decoded(random_prompts(6, seed=2), options)
    for several in found.values():
        scores = [each.score for each in several]
        assert scores == sorted(scores, reverse=True)
        for each in several:
            total = float(each.log_probs.sum()) / len(each.log_probs) ** 0.7
            assert each.score == pytest.approx(total, rel=1e-5)
        assert len({tuple(each.token_ids.tolist()) for each in several}) == len(several)


def test_more_beams_find_what_all_beams_find():
    """With as many beams as there are sequences, beam search is exhaustive."""
    small = config(vocabulary_size=5)
    prompts = random_prompts(3, seed=5, longest=1, vocabulary_size=5)
    options = DecodingOptions(
        max_length=4, eos_token_id=END, num_beams=64, early_stopping="never", length_penalty=0.0
    )
    found, _ = decoded(prompts, options, ToyRunner(small))
    for row, (best, *_) in found.items():
        source = int(prompts.encoder_token_ids[row, 0])
        start = int(prompts.decoder_token_ids[row, 0])
        scores = {}

        def spell(tokens, score, source=source, scores=scores):
            if len(tokens) == 4 or (len(tokens) > 1 and tokens[-1] == END):
                scores[tuple(tokens)] = score
                return
            own = log_softmax(what_follows(small, source, tokens)[0])
            for token in range(5):
                spell([*tokens, token], score + own[token])

        spell([start], 0.0)
        assert best.token_ids.tolist() == list(max(scores, key=scores.get))


class CountingState(ToyState):
    moved: ClassVar[list[int]] = []

    def select(self, rows, since=0):
        changed = [place for place, row in enumerate(rows) if place != row]
        CountingState.moved.append(len(changed) if len(rows) == len(self.histories) else -1)
        super().select(rows, since)


class CountingRunner(ToyRunner):
    def encode(self, token_ids, lengths):
        state = super().encode(token_ids, lengths)
        state.__class__ = CountingState
        return state


def test_only_replaced_beams_are_moved():
    CountingState.moved = []
    options = DecodingOptions(max_length=40, num_beams=4)
    decoded(random_prompts(1, seed=11, width=40), options, CountingRunner(CONFIG))
    # No select at all where nothing moves; never all beams, since some parent always stays.
    assert CountingState.moved
    assert all(0 < count < 4 for count in CountingState.moved)
    assert len(CountingState.moved) < 38


class BrokenRunner(ToyRunner):
    """Gives NaN for one source after some steps."""

    def __init__(self, config, source):
        super().__init__(config)
        self.source = source

    def step(self, state, token_ids, wanted):
        outputs = super().step(state, token_ids, wanted)
        for row in range(len(token_ids)):
            if state.source(row)[0] == self.source and len(state.histories[row]) > 4:
                for name in (LOGITS, LOG_SUM_EXP):
                    if name in outputs:
                        outputs[name][row] = np.nan
        return outputs


@pytest.mark.parametrize(
    "options",
    [
        *OPTIONS,
        DecodingOptions(max_length=9, repetition_penalty=0.9),
        DecodingOptions(max_length=9, renormalize_logits=True, num_beams=2),
        DecodingOptions(max_length=9, logits_processor=lambda token_ids, scores: scores),
        DecodingOptions(max_length=9, num_beams=2, prefix_allowed_tokens_fn=lambda *_: range(13)),
        DecodingOptions(max_length=9, exponential_decay_length_penalty=(1, 1.1)),
    ],
)
def test_nan_fails_one_row_and_no_other(options):
    prompts = random_prompts(6, seed=4, longest=2)
    whole = sequences(decoded(prompts, options)[0])
    source = int(prompts.encoder_token_ids[2, 0])
    found, failed = decoded(prompts, options, BrokenRunner(CONFIG, source))
    # A row may end before its logits are.
    assert list(failed) == [2] or len(whole[2][0]) <= 5
    assert all("not finite" in message for message in failed.values())
    assert (2 in found) == (2 not in failed)
    assert {row: each for row, each in sequences(found).items() if row != 2} == {
        row: each for row, each in whole.items() if row != 2
    }


def test_a_constraint_without_way_out_fails_its_row_only():
    def allowed(number, tokens):
        return [] if number == 1 and len(tokens) > 3 else range(3, 13)

    prompts = random_prompts(4, seed=4, longest=2)
    for beams in (1, 3):
        options = DecodingOptions(
            max_length=8, eos_token_id=END, num_beams=beams, prefix_allowed_tokens_fn=allowed
        )
        found, failed = decoded(prompts, options)
        assert sorted(found) == [0, 2, 3]
        assert "prefix_allowed_tokens_fn" in failed[1]


def test_suppressing_everything_names_the_options():
    options = DecodingOptions(max_length=8, suppress_tokens=tuple(range(13)))
    found, failed = decoded(random_prompts(2), options)
    assert not found
    assert "suppress_tokens" in failed[0]


@pytest.mark.parametrize("options", OPTIONS[:4])
def test_what_is_stable_stays(options):
    prompts = random_prompts(5, seed=9)
    runner = ToyRunner(CONFIG)
    task = Task(options, Scoring(options, 13))
    limits = np.full(5, options.max_length)
    seen = {row: [] for row in range(5)}
    found = {}
    for search in decode(runner, prompts, limits, task):
        for line, number in enumerate(search.rows.numbers.tolist()):
            seen[number].append(search.stable(line).tolist())
        found |= search.finished
    longer = 0
    for row, prefixes in seen.items():
        final = found[row][0].token_ids.tolist()
        for before, after in pairwise(prefixes):
            assert after[: len(before)] == before
        for prefix in prefixes[:-1]:
            assert final[: len(prefix)] == prefix
            longer += len(prefix) > prompts.prompt_lengths[row]
    assert longer


def test_closing_ends_the_steps():
    runner = ToyRunner(CONFIG)
    options = DecodingOptions(max_length=60, num_beams=2)
    prompts = random_prompts(2, longest=1, width=60)
    searches = decode(runner, prompts, np.full(2, 60), Task(options, Scoring(options, 13)))
    next(searches)
    next(searches)
    steps = len(runner.steps)
    searches.close()
    assert len(runner.steps) == steps


def test_draws_follow_the_distribution():
    prompts = some(random_prompts(1, seed=8, longest=1), [0] * 3000)
    options = DecodingOptions(max_new_tokens=1, do_sample=True, top_k=4, temperature=1.5)
    found, _ = decoded(prompts, options)
    source = int(prompts.encoder_token_ids[0, 0])
    start = int(prompts.decoder_token_ids[0, 0])
    scores = what_follows(CONFIG, source, [start])[0] / 1.5
    kept = np.argsort(-scores)[:4]
    shares = np.exp(scores[kept]) / np.exp(scores[kept]).sum()
    drawn = [int(each[0].token_ids[-1]) for each in found.values()]
    counted = np.array([drawn.count(token) for token in kept.tolist()]) / 3000
    assert counted.sum() == 1
    np.testing.assert_allclose(counted, shares, atol=0.04)


def test_copies_that_were_never_beams_are_no_hypotheses():
    """Where one token may come at each step, there is one sequence, whatever num_beams is."""
    options = DecodingOptions(
        max_length=6,
        num_beams=4,
        num_return_sequences=4,
        prefix_allowed_tokens_fn=lambda number, token_ids: [3 + len(token_ids)],
    )
    found, failed = decoded(random_prompts(2, seed=1, longest=1), options)
    assert not failed
    for several in found.values():
        assert [each.token_ids.tolist()[1:] for each in several] == [[4, 5, 6, 7, 8]]


def test_a_forced_first_token_may_be_suppressed_at_the_beginning():
    """As in transformers, the beginning is then the token after the forced one."""
    options = DecodingOptions(
        max_length=5, forced_bos_token_id=4, begin_suppress_tokens=(4, *range(6, 13))
    )
    found, _ = decoded(random_prompts(3, seed=6, longest=1), options)
    for (best,) in found.values():
        assert best.token_ids[1] == 4
        assert best.token_ids[2] in (0, 1, 2, 3, 5)
    with pytest.raises(InputError, match="forced_bos_token_id"):
        DecodingOptions(forced_bos_token_id=4, suppress_tokens=(4,))

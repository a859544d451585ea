"""Drafts from the source: the same tokens come with and without them, whatever the options."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from toy_runner import END, PAD, START, ToyRunner, ToyState, config, some

from bart_onnx.decoding.decode import decode
from bart_onnx.decoding.loop import generate, watch
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.decoding.prompts import Prompts
from bart_onnx.decoding.scoring import Scoring
from bart_onnx.decoding.tasks import Task
from bart_onnx.samplers import GreedySampler

VOCABULARY = 30
CONFIG = config(VOCABULARY)
LIMIT = 26


class CopyingRunner(ToyRunner):
    """Goes on as its source does, most of the time."""

    copies = 0.85

    def encode(self, token_ids, lengths):
        pairs = zip(token_ids.tolist(), lengths.tolist(), strict=True)
        sources = [(tuple(ids[:length]), length) for ids, length in pairs]
        return ToyState(sources, [[] for _ in lengths], token_ids.shape[1])

    def follow(self, source, history):
        random = np.random.default_rng([*source, VOCABULARY, *history])
        logits = random.normal(0, 2, VOCABULARY).astype(np.float32)
        if random.random() < self.copies:
            text = "".join(map(chr, source))
            for size in (1, 2):
                end = text.find("".join(map(chr, history[-size:]))) + size
                if size <= end < len(source):
                    logits[source[end]] += 9 * size
        return logits, random.normal(0, 1, self.config.hidden_dim).astype(np.float32)

    def step(self, state, token_ids, wanted):
        outputs = super().step(state, token_ids, wanted)
        assert state.lengths.max() <= self.config.max_sequence_length
        return outputs


def copying_prompts(rows, seed=0, width=LIMIT):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 5, rows)
    ids = np.full((rows, width), PAD)
    for row, length in enumerate(lengths):
        ids[row, :length] = [END, START, *random.integers(3, VOCABULARY, width)][:length]
    source_lengths = random.integers(2, 28, rows)
    sources = random.integers(3, VOCABULARY, (rows, int(source_lengths.max())))
    sources[:, 0] = START
    ends = random.random(rows) < 0.7
    sources[np.arange(rows)[ends], source_lengths[ends] - 1] = END
    return Prompts(sources, source_lengths, ids, lengths)


def decoded(prompts, options, speculate, runner=None, completes=None, top=2, limits=None):
    """Hypotheses and failures by row."""
    runner = runner or CopyingRunner(CONFIG)
    scoring = Scoring(options, VOCABULARY)
    task = Task(options, scoring, completes, log_probs=True, top_log_probs=top, speculate=speculate)
    if limits is None:
        limits = [options.limit(length, 64) for length in prompts.prompt_lengths.tolist()]
    found, failed = {}, {}
    for search in decode(runner, prompts, np.array(limits), task):
        found |= {number: several[0] for number, several in search.finished.items()}
        failed |= search.failed
    return found, failed


def assert_the_same(found, expected):
    assert sorted(found) == sorted(expected)
    for row, one in found.items():
        other = expected[row]
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert one.finish_reason == other.finish_reason
        assert one.prompt_length == other.prompt_length
        for name in ("log_probs", "top_ids", "top_log_probs", "score"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


def speeded(found):
    """Tokens that came beside each step's own."""
    for each in found.values():
        generated = len(each.token_ids) - each.prompt_length
        assert each.steps + each.accepted_tokens == generated
        assert 0 <= each.accepted_tokens <= each.drafted_tokens
    return sum(each.accepted_tokens for each in found.values())


def some_allowed(row, token_ids):
    return [token for token in range(VOCABULARY) if (token + len(token_ids)) % 5]


def never(row, token_ids):
    return [] if row % 3 == 1 and len(token_ids) == 9 else range(VOCABULARY)


def against_the_last(token_ids, scores):
    scores[token_ids[-1]] -= 4
    scores[(7 * len(token_ids) + int(token_ids.sum())) % VOCABULARY] += 3
    return scores


OPTIONS = {
    "plain": {},
    "min_length": {"min_length": 15},
    "min_new_tokens": {"min_new_tokens": 12},
    "repetition_penalty": {"repetition_penalty": 1.8},
    "repetition_reward": {"repetition_penalty": 0.6},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.7},
    "encoder_repetition_reward": {"encoder_repetition_penalty": 0.6},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "no_repeat_ngram_size_1": {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 4},
    "bad_words_ids": {"bad_words_ids": ((5,), (6, 7), (9, 10, 11))},
    "sequence_bias": {"sequence_bias": (((8,), 2.0), ((9, 3), -4.0), ((4, 5, 6), 3.0))},
    "suppress_tokens": {"suppress_tokens": (4, 11, 20)},
    "begin_suppress_tokens": {"begin_suppress_tokens": tuple(range(5, 25))},
    "forced_bos_token_id": {"forced_bos_token_id": START},
    "forced_eos_token_id": {"forced_eos_token_id": END},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (6, 1.2)},
    "renormalize_logits": {"renormalize_logits": True},
    "remove_invalid_values": {"remove_invalid_values": True},
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": some_allowed},
    "no_way_out": {"prefix_allowed_tokens_fn": never},
    "logits_processor": {"logits_processor": (against_the_last,)},
    "several_ends": {"eos_token_id": (END, 7, 12)},
    "no_end": {"eos_token_id": ()},
    "max_new_tokens": {"max_length": None, "max_new_tokens": 11},
    "one_token": {"max_length": None, "max_new_tokens": 1},
    "two_tokens": {"max_length": None, "max_new_tokens": 2},
}


def made(**options):
    return DecodingOptions(**{"max_length": LIMIT, "eos_token_id": (END,), **options})


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_gives_the_same_with_and_without(name):
    options, accepted = made(**OPTIONS[name]), 0
    for seed, rows in enumerate((1, 2, 3, 7, 12)):
        prompts = copying_prompts(rows, seed)
        expected, expected_failed = decoded(prompts, options, False)
        found, failed = decoded(prompts, options, True)
        assert_the_same(found, expected)
        assert failed == expected_failed
        assert speeded(expected) == 0
        accepted += speeded(found)
    if name not in ("one_token", "two_tokens", "no_repeat_ngram_size_1", "remove_invalid_values"):
        assert accepted > 10


@pytest.mark.parametrize("seed", range(25))
def test_options_together(seed):
    random = np.random.default_rng(seed)
    names = [name for name in OPTIONS if name not in ("no_way_out", "one_token", "two_tokens")]
    options = {}
    for name in random.permutation(names)[:4]:
        options |= {key: value for key, value in OPTIONS[name].items() if key not in options}
    if START in options.get("suppress_tokens", ()):
        options.pop("forced_bos_token_id", None)
    prompts = copying_prompts(int(random.integers(1, 9)), seed)
    expected, _ = decoded(prompts, made(**options), False)
    assert_the_same(decoded(prompts, made(**options), True)[0], expected)


def test_the_users_functions_get_the_calls_they_would_get():
    def calls(speculate):
        seen = {row: [] for row in range(6)}

        def allowed(row, token_ids):
            seen[row].append(token_ids.tolist())
            return range(VOCABULARY)

        def processed(token_ids, scores):
            seen.setdefault("scores", []).append((token_ids.tolist(), scores.tolist()))
            return scores

        def completes(before, token):
            seen.setdefault("stops", []).append((before.tolist(), token))
            return False

        options = made(prefix_allowed_tokens_fn=allowed, logits_processor=(processed,))
        decoded(copying_prompts(6, 3), options, speculate, completes=completes)
        for name in ("scores", "stops"):
            seen[name].sort()
        return seen

    assert calls(True) == calls(False)


def test_stop_strings_end_a_row_inside_an_accepted_run():
    def completes(before, token):
        return (int(before[-3:].sum()) + token) % 9 == 0

    inside = 0
    for seed in range(8):
        prompts = copying_prompts(5, seed)
        options = made(eos_token_id=())
        expected, _ = decoded(prompts, options, False, completes=completes)
        found, _ = decoded(prompts, options, True, completes=completes)
        assert_the_same(found, expected)
        assert all(
            each.finish_reason == "stop" or len(each.token_ids) == LIMIT for each in found.values()
        )
        inside += speeded(found)
    assert inside > 10


class Spelling(CopyingRunner):
    """Copies without fail."""

    copies = 2.0


def spelled(source, prompt, limit, stop=END):
    """Steps, drafted and accepted tokens of a row that copies, and what it says."""
    ids = np.array([prompt + [PAD] * (limit - len(prompt))])
    prompts = Prompts(np.array([source]), np.array([len(source)]), ids, np.array([len(prompt)]))
    options = DecodingOptions(max_length=limit, eos_token_id=stop)
    runner = Spelling(CONFIG)
    found, _ = decoded(prompts, options, True, runner, limits=[limit])
    expected, _ = decoded(prompts, options, False, Spelling(CONFIG), limits=[limit])
    assert_the_same(found, expected)
    speeded(found)
    return found[0], runner.steps


def test_an_end_inside_an_accepted_run_drops_what_follows():
    source = [START, *range(3, 12), END, *range(12, 20)]
    one, steps = spelled(source, [END, START, 3, 4], 40)
    assert one.token_ids.tolist() == [END, START, *range(3, 12), END]
    assert one.finish_reason == "stop"
    assert one.accepted_tokens > 3
    assert max(count for _, count in steps) > 3


@pytest.mark.parametrize("limit", range(5, 30))
def test_nothing_is_drafted_past_the_limit(limit):
    one, steps = spelled([START, *range(3, 29)], [END, START, 3, 4], limit)
    assert len(one.token_ids) == limit
    assert one.finish_reason == "length"
    assert sum(count for _, count in steps[1:]) <= 4 * limit
    assert one.drafted_tokens == one.accepted_tokens


def test_a_row_near_the_last_position_holds_the_others_drafts_short():
    sources = np.array([[START, *range(3, 29)] * 3] * 2)
    prompt = [END, START, *range(3, 29), START, *range(3, 29)]
    ids = np.full((2, 64), PAD)
    ids[0, : len(prompt)], ids[1, :3] = prompt, [END, START, 3]
    prompts = Prompts(sources, np.array([81, 81]), ids, np.array([len(prompt), 3]))
    options = DecodingOptions(max_length=64)
    expected, _ = decoded(prompts, options, False, Spelling(CONFIG))
    assert_the_same(decoded(prompts, options, True, Spelling(CONFIG))[0], expected)


def test_a_row_is_drafted_the_same_alone_and_in_any_batch():
    prompts, options = copying_prompts(9, 4), made()
    together, _ = decoded(prompts, options, True)
    for row in range(9):
        alone, _ = decoded(some(prompts, [row]), options, True)
        assert_the_same({0: alone[0]}, {0: together[row]})
        for name in ("steps", "drafted_tokens", "accepted_tokens"):
            assert getattr(alone[0], name) == getattr(together[row], name)


def test_a_runner_may_say_that_drafts_do_not_pay():
    class Slow(CopyingRunner):
        def drafts_pay(self, sources):
            return sources <= 2

    runner, plain = Slow(CONFIG), Slow(CONFIG)
    prompts = copying_prompts(8, 6, width=40)
    options = made(eos_token_id=(END, 7, 12, 20), max_length=40)
    found, _ = decoded(prompts, options, True, runner)
    assert_the_same(found, decoded(prompts, options, False, plain)[0])
    many = [[step for step in each.steps if step[0] > 2] for each in (runner, plain)]
    assert many[0] == many[1]
    assert len(runner.steps) < len(plain.steps)


# What is not finite.


class Broken(CopyingRunner):
    """Gives NaN after the tokens of a row that were fed first, and for drafted places before."""

    def __init__(self, config, length, spoils=False):
        super().__init__(config)
        self.length, self.spoils = length, spoils

    def follow(self, source, history):
        logits, hidden = super().follow(source, history)
        if source[1] % 2 and len(history) == self.length:
            logits[:] = np.nan
        return logits, hidden

    def step(self, state, token_ids, wanted):
        outputs = super().step(state, token_ids, wanted)
        if self.spoils:
            for name in outputs:
                if outputs[name].dtype.kind == "f":
                    wrong = np.isnan(outputs[name]).any(axis=tuple(range(1, outputs[name].ndim)))
                    outputs[name][wrong] = np.nan
        return outputs


@pytest.mark.parametrize("length", [4, 6, 8, 11])
@pytest.mark.parametrize("spoils", [False, True])
def test_nan_inside_a_run_fails_the_row_where_it_comes(length, spoils):
    failures = 0
    for seed in range(4):
        prompts = copying_prompts(5, seed)
        expected = decoded(prompts, made(), False, Broken(CONFIG, length))
        found = decoded(prompts, made(), True, Broken(CONFIG, length, spoils))
        assert_the_same(found[0], expected[0])
        assert found[1] == expected[1]
        failures += len(found[1])
    assert failures


def test_a_draft_that_is_not_finite_fails_no_row():
    class Poisoned(Broken):
        def follow(self, source, history):
            logits, hidden = CopyingRunner.follow(self, source, history)
            if history[-1] == 9:
                logits[:] = np.nan
            logits[9] -= 100
            return logits, hidden

    for seed in range(6):
        prompts = copying_prompts(4, seed)
        prompts.decoder_token_ids[prompts.decoder_token_ids == 9] = 10
        expected, _ = decoded(prompts, made(), False, Poisoned(CONFIG, 0, True))
        found, failed = decoded(prompts, made(), True, Poisoned(CONFIG, 0, True))
        assert not failed
        assert_the_same(found, expected)


# Streams, and the loop of the compiled sampler.


def test_what_is_stable_stays_and_grows_by_several():
    prompts, options = copying_prompts(5, 2), made()
    task = Task(options, Scoring(options, VOCABULARY))
    seen, found = {row: [] for row in range(5)}, {}
    for search in decode(CopyingRunner(CONFIG), prompts, np.full(5, LIMIT), task):
        for line, number in enumerate(search.rows.numbers.tolist()):
            seen[number].append(search.stable(line).tolist())
        found |= search.finished
    leaps = 0
    for row, prefixes in seen.items():
        final = found[row][0].token_ids.tolist()
        assert prefixes[-1] == final
        for before, after in pairwise(prefixes):
            assert after[: len(before)] == before
            leaps += len(after) > len(before) + 1
    assert leaps > 3


@pytest.mark.parametrize("rows", [1, 2, 5, 11])
@pytest.mark.parametrize("stops", [(), (END,), (END, 5, 9)])
def test_the_loop_gives_the_same_with_and_without(rows, stops):
    prompts = copying_prompts(rows, rows)
    expected = generate(CopyingRunner(CONFIG), prompts, GreedySampler(), stops, speculate=False)
    runner = CopyingRunner(CONFIG)
    found = generate(runner, prompts, GreedySampler(), stops)
    assert found.lengths.tolist() == expected.lengths.tolist()
    for row, length in enumerate(found.lengths.tolist()):
        assert found.token_ids[row, :length].tolist() == expected.token_ids[row, :length].tolist()
    generated = found.lengths - prompts.prompt_lengths
    assert (expected.efforts.steps == generated).all()
    assert not expected.efforts.drafted.any()
    accepted = generated - found.efforts.steps
    assert ((accepted >= 0) & (accepted <= found.efforts.drafted)).all()
    if not stops:
        assert accepted.sum() > rows
    told = {}
    for progress in watch(CopyingRunner(CONFIG), prompts, GreedySampler(), stops):
        for number, length, ended in zip(
            progress.numbers, progress.lengths, progress.ended, strict=True
        ):
            ids = progress.token_ids[number, :length].tolist()
            assert ids[: len(told.get(number, []))] == told.get(number, [])
            assert ids == found.token_ids[number, :length].tolist()
            told[number] = ids
            assert ended == (length == found.lengths[number])
    assert len(told) == rows


def test_a_greedy_sampler_that_was_changed_is_fed_no_drafts():
    class Second(GreedySampler):
        def get_next_token(self, probabilities):
            return np.argsort(-probabilities, axis=-1)[:, 1]

    runner = CopyingRunner(CONFIG)
    generate(runner, copying_prompts(3, 1), Second(), [END])
    assert {count for _, count in runner.steps[4:]} == {1}

"""Every sampler in the loop against the same sampler called by hand, without a model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from toy_runner import (
    END,
    PAD,
    START,
    WIDTH,
    ToyRunner,
    call_by_hand,
    config,
    counted,
    random_prompts,
    said,
    some,
    what_follows,
)

from bart_onnx.decoding.loop import generate
from bart_onnx.decoding.prompts import Prompts
from bart_onnx.errors import InputError
from bart_onnx.samplers import (
    BeamSampler,
    ContrastiveSampler,
    GreedySampler,
    TopKSampler,
    TopPSampler,
)

TOY = config()
DETERMINISTIC = {
    "greedy": GreedySampler(),
    "beams": BeamSampler(4),
    "warm_beams": BeamSampler(3, temperature=1.7),
    "one_beam": BeamSampler(1),
    "frozen_beams": BeamSampler(4, freeze_ended_beams=True),
    "warm_frozen_beams": BeamSampler(3, freeze_ended_beams=True, temperature=0.6),
    "contrastive": ContrastiveSampler(),
    "warm_contrastive": ContrastiveSampler(3, 0.3, temperature=2.0),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stops", [(), (END,), (END, 5, 7)])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_loop_equals_the_call_by_hand(name, stops, seed):
    batch = random_prompts(5, seed)
    found = generate(ToyRunner(TOY), batch, DETERMINISTIC[name], stops)
    by_hand = call_by_hand(DETERMINISTIC[name], TOY, batch, stops or None)
    assert said(found) == counted(by_hand, batch.prompt_lengths, stops)
    if isinstance(DETERMINISTIC[name], BeamSampler):
        np.testing.assert_array_equal(found.token_ids, by_hand)


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("stops", [(), (END,), (END, 5, 7)])
def test_all_beams_equal_the_call_by_hand(freeze, stops):
    sampler = BeamSampler(5, return_all_beams=True, freeze_ended_beams=freeze)
    batch = random_prompts(4, seed=9)
    found = generate(ToyRunner(TOY), batch, sampler, stops).beams
    token_ids, log_probs = call_by_hand(sampler, TOY, batch, stops or None)
    np.testing.assert_array_equal(found.token_ids, token_ids)
    np.testing.assert_allclose(found.log_probs, log_probs, atol=1e-5)
    assert (np.diff(found.log_probs) <= 0).all()


@pytest.mark.parametrize(
    "name", ["greedy", "frozen_beams", "warm_frozen_beams", "contrastive", "warm_contrastive"]
)
def test_a_row_is_the_same_alone_and_in_any_batch(name):
    batch = random_prompts(9, seed=3)
    together = said(generate(ToyRunner(TOY), batch, DETERMINISTIC[name], [END, 4]))
    for rows in ([8, 1, 5], *([row] for row in range(9))):
        alone = generate(ToyRunner(TOY), some(batch, rows), DETERMINISTIC[name], [END, 4])
        assert said(alone) == [together[row] for row in rows]


def test_keras_hubs_beams_depend_on_their_batch():
    """The promise that `freeze_ended_beams` makes is none without it."""
    batch = random_prompts(30, seed=3)
    together = said(generate(ToyRunner(TOY), batch, BeamSampler(4), [END, 4]))
    alone = [
        said(generate(ToyRunner(TOY), some(batch, [row]), BeamSampler(4), [END, 4]))[0]
        for row in range(30)
    ]
    assert alone != together


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_prompts_of_full_width_stay(name):
    ids = np.array([[END, START, 9, 4], [END, START, END, 5]])
    full = Prompts(np.array([[7], [8]]), np.array([1, 1]), ids, np.array([4, 4]))
    runner = ToyRunner(TOY)
    found = generate(runner, full, DETERMINISTIC[name], [END])
    np.testing.assert_array_equal(found.token_ids, full.decoder_token_ids)
    assert found.lengths.tolist() == [4, 4]
    assert not runner.steps


def test_beams_of_a_full_prompt_keep_their_first_scores():
    full = Prompts(np.array([[7]]), np.array([1]), np.array([[END, START, 9]]), np.array([3]))
    beams = generate(ToyRunner(TOY), full, BeamSampler(3, return_all_beams=True), [END]).beams
    assert beams.log_probs.tolist() == [[0, -1e9, -1e9]]
    assert beams.lengths.tolist() == [[3, 3, 3]]
    assert beams.token_ids.tolist() == [[[END, START, 9]] * 3]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_no_rows(name):
    found = generate(ToyRunner(TOY), some(random_prompts(2), []), DETERMINISTIC[name], [END])
    assert found.token_ids.shape == (0, WIDTH)


def test_beams_share_their_sources_rows():
    runner = ToyRunner(TOY)
    batch = some(random_prompts(3, longest=1), [0, 1])
    generate(runner, batch, BeamSampler(4))
    assert runner.steps == [(2, 1), *[(8, 1)] * (WIDTH - 2)]


@pytest.mark.parametrize("width", [4, 5])
def test_frozen_beams_without_limit_find_the_likeliest_answer(width):
    """With as many beams as there are answers, the search is exhaustive."""
    tiny = config(vocabulary_size=4)
    batch = Prompts(np.array([[17]]), np.array([1]), np.full((1, width), PAD), np.array([1]))
    batch.decoder_token_ids[0, 0] = START
    sampler = BeamSampler(64, freeze_ended_beams=True, return_all_beams=True)
    beams = generate(ToyRunner(tiny), batch, sampler, [END]).beams
    answers = {}
    for tail in itertools.product(range(4), repeat=width - 1):
        end = tail.index(END) + 1 if END in tail else len(tail)
        row, score = [START], 0.0
        for token in tail[:end]:
            logits = what_follows(tiny, 17, row)[0].astype(np.float64)
            score += logits[token] - np.log(np.exp(logits).sum())
            row.append(token)
        answers[tuple(row)] = score
    best = sorted(answers, key=answers.get, reverse=True)[:10]
    found = [
        tuple(row[:length])
        for row, length in zip(beams.token_ids[0, :10].tolist(), beams.lengths[0, :10], strict=True)
    ]
    assert found == best
    np.testing.assert_allclose(
        beams.log_probs[0, :10], [answers[answer] for answer in best], atol=1e-5
    )


def test_a_frozen_search_ends_with_its_best_beam():
    """Its first answer is that of the search that goes on until all beams have ended."""
    batch = random_prompts(8, seed=5)
    short, whole = ToyRunner(TOY), ToyRunner(TOY)
    first = generate(short, batch, BeamSampler(4, False, True), [END, 4, 5])
    every = generate(whole, batch, BeamSampler(4, True, True), [END, 4, 5])
    assert said(first) == said(every)
    assert sum(rows for rows, _ in short.steps) < sum(rows for rows, _ in whole.steps)


def test_what_stands_past_a_frozen_beam_is_never_fed():
    batch = random_prompts(6, seed=2)
    junk = np.where(np.arange(WIDTH) < batch.prompt_lengths[:, None], batch.decoder_token_ids, -100)
    odd = Prompts(batch.encoder_token_ids, batch.encoder_lengths, junk, batch.prompt_lengths)
    sampler = BeamSampler(4, freeze_ended_beams=True)
    expected = said(generate(ToyRunner(TOY), batch, sampler, [END, 4]))
    assert said(generate(ToyRunner(TOY), odd, sampler, [END, 4])) == expected


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_stop_tokens_past_the_prompt_are_overwritten(name):
    batch = random_prompts(4, seed=6)
    free = np.arange(WIDTH) >= batch.prompt_lengths[:, None]
    junk = np.where(free, END, batch.decoder_token_ids)
    odd = Prompts(batch.encoder_token_ids, batch.encoder_lengths, junk, batch.prompt_lengths)
    expected = said(generate(ToyRunner(TOY), batch, DETERMINISTIC[name], [END]))
    assert said(generate(ToyRunner(TOY), odd, DETERMINISTIC[name], [END])) == expected


def test_one_candidate_or_no_novelty_is_greedy():
    batch = random_prompts(6, seed=4)
    greedy = said(generate(ToyRunner(TOY), batch, GreedySampler(), [END]))
    for sampler in (ContrastiveSampler(1), ContrastiveSampler(4, 0), BeamSampler(1)):
        assert said(generate(ToyRunner(TOY), batch, sampler, [END])) == greedy


@pytest.mark.parametrize(
    "sampler", [TopKSampler(14), TopPSampler(0.5, k=14), ContrastiveSampler(14)]
)
def test_more_tokens_than_the_vocabulary_are_refused_before_a_step(sampler):
    runner = ToyRunner(TOY)
    with pytest.raises(InputError, match="14, but the vocabulary has 13 tokens"):
        generate(runner, random_prompts(1), sampler)
    assert not runner.steps


@pytest.mark.parametrize("num_beams", [13, 20, 70])
def test_more_beams_than_tokens(num_beams):
    batch = random_prompts(2, seed=1, width=6)
    sampler = BeamSampler(num_beams)
    found = generate(ToyRunner(TOY), batch, sampler, [END])
    assert said(found) == counted(
        call_by_hand(sampler, TOY, batch, [END]), batch.prompt_lengths, [END]
    )


def test_large_vocabularies_go_through_all_logits():
    wide = config(vocabulary_size=90)
    batch = random_prompts(3, seed=1, vocabulary_size=90)
    for sampler in (BeamSampler(70), ContrastiveSampler(66), TopKSampler(80, seed=1)):
        found = generate(ToyRunner(wide), batch, sampler, [END])
        if sampler.draws is None:
            by_hand = call_by_hand(sampler, wide, batch, [END])
            assert said(found) == counted(by_hand, batch.prompt_lengths, [END])

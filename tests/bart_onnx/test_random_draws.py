"""Random samplers in the loop: whatever the batch, a row draws the same."""

from __future__ import annotations

import numpy as np
import pytest
from toy_runner import END, ToyRunner, config, random_prompts, said, some, what_follows

from bart_onnx.decoding.loop import generate
from bart_onnx.samplers import RandomSampler, TopKSampler, TopPSampler

TOY = config()
RANDOM = {
    "top_k": lambda: TopKSampler(4, seed=5),
    "top_p": lambda: TopPSampler(0.9, seed=5, temperature=1.3),
    "random": lambda: RandomSampler(seed=5),
}


@pytest.mark.parametrize("name", RANDOM)
def test_draws_do_not_depend_on_batch_mates(name, monkeypatch):
    batch = random_prompts(12, seed=8)
    together = said(generate(ToyRunner(TOY), batch, RANDOM[name](), [END]))
    for first in range(12):
        alone = generate(
            ToyRunner(TOY),
            some(batch, [first]),
            RANDOM[name](),
            [END],
            first_row=first,
        )
        assert said(alone) == [together[first]]
    monkeypatch.setattr("bart_onnx.decoding.prompts._BATCH_TOKENS", 60)
    assert said(generate(ToyRunner(TOY), batch, RANDOM[name](), [END])) == together


@pytest.mark.parametrize("name", RANDOM)
def test_equal_rows_draw_differently_and_calls_move_on(name):
    batch = some(random_prompts(1, seed=8), [0] * 8)
    sampler = RANDOM[name]()
    first, second = (said(generate(ToyRunner(TOY), batch, sampler)) for _ in range(2))
    assert len({tuple(row) for row in first}) > 1
    assert first != second
    fresh = RANDOM[name]()
    assert [said(generate(ToyRunner(TOY), batch, fresh)) for _ in range(2)] == [first, second]


@pytest.mark.parametrize("name", ["random", "top_k"])
def test_many_draws_in_the_loop_follow_the_model(name):
    rows = 3000
    one = random_prompts(1, seed=8, width=3, longest=1)
    sampler = RANDOM[name]()
    tokens = generate(ToyRunner(TOY), some(one, [0] * rows), sampler).token_ids[:, 1]
    history = one.decoder_token_ids[0, :1].tolist()
    logits = what_follows(TOY, int(one.encoder_token_ids[0, 0]), history)[0]
    expected = rows * sampler.distribution(sampler.compute_probabilities(logits[None]))[0]
    counts = np.bincount(tokens, minlength=13)
    assert not counts[expected == 0].any()
    likely = expected > 20
    statistic = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    assert statistic < 33  # 99.9 % point of 12 degrees of freedom

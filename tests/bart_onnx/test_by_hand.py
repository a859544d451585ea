"""Samplers called by hand with a `next` of the caller's, and samplers that callers write."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from toy_runner import (
    END,
    PAD,
    START,
    ToyRunner,
    call_by_hand,
    config,
    counted,
    next_by_hand,
    random_prompts,
    said,
    what_follows,
)

from bart_onnx.decoding.loop import generate
from bart_onnx.errors import InputError, InputTypeError
from bart_onnx.samplers import BeamSampler, ContrastiveSampler, GreedySampler, Sampler, TopKSampler
from bart_onnx.samplers.nested_rows import take_rows

TOY = config()


def test_contrastive_by_hand_needs_hidden_states():
    with pytest.raises(InputError, match="hidden_states"):
        ContrastiveSampler()(next_by_hand(TOY), np.zeros((1, 4), int), index=1)


@pytest.mark.parametrize("mask_dtype", [bool, np.int64])
def test_contrastive_by_hand_reads_int_masks_like_bool(mask_dtype):
    def next(prompt, cache, index):
        found = [what_follows(TOY, 1, row[:index].tolist()) for row in prompt]
        logits, hidden = (np.stack(part) for part in zip(*found, strict=True))
        return logits, hidden, cache

    prompt = np.array([[END, START, PAD, PAD, PAD]])
    mask = np.array([[1, 1, 0, 0, 0]]).astype(mask_dtype)
    hidden = np.zeros((1, 5, 6))
    found = ContrastiveSampler()(
        next, prompt, index=2, mask=mask, stop_token_ids=[END], hidden_states=hidden
    )
    assert (found[0, 2:] != PAD).any()


def test_calls_by_hand_keep_the_prompts_dtype_and_leave_it_alone():
    prompt = np.array([[END, START, PAD, PAD]], np.int32)

    def next(prompt, cache, index):
        assert cache is None
        return np.eye(5)[np.full(len(prompt), index)] * 9, np.ones((len(prompt), 3)), cache

    for sampler in (GreedySampler(), BeamSampler(2), ContrastiveSampler(2), TopKSampler(1)):
        found = sampler(next, prompt, index=2, hidden_states=np.ones((1, 4, 3)))
        assert found.dtype == np.int32
        assert prompt.tolist() == [[END, START, PAD, PAD]]
    assert GreedySampler()(next, prompt, index=2).tolist() == [[END, START, 2, 3]]


def test_calls_by_hand_stop_when_every_row_has_ended():
    steps = []

    def next(prompt, cache, index):
        steps.append(index)
        tokens = np.where(np.arange(len(prompt)) + 3 == index, END, 4)
        return np.eye(6)[tokens] * 9, None, cache

    prompt = np.array([[END, PAD, PAD, PAD, PAD, PAD, PAD]] * 2)
    mask = np.array([[1, 0, 0, 0, 0, 0, 0]] * 2)
    found = GreedySampler()(next, prompt, index=1, mask=mask, stop_token_ids=[END])
    assert found.tolist() == [[END, 4, 4, END, 4, PAD, PAD], [END, 4, 4, 4, END, PAD, PAD]]
    assert steps == [1, 2, 3, 4]


def test_shapes_of_calls_by_hand_are_checked():
    with pytest.raises(InputError, match=r"\[rows, width\].*\(3,\)"):
        GreedySampler()(None, np.zeros(3, int))
    with pytest.raises(InputError, match=r"\(1, 3\).*\(1, 2\)"):
        GreedySampler()(None, np.zeros((1, 3), int), mask=np.ones((1, 2)))


class Middle(Sampler):
    """The third likeliest token; a plain subclass with no constructor of its own."""

    def get_next_token(self, probabilities):
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
        return np.argsort(-probabilities, axis=-1)[:, 2].astype(np.float64)


class Forgetful(Sampler):
    def __init__(self):
        """It does not call its parent's."""

    def get_next_token(self, probabilities):
        return probabilities.argmax(axis=-1)


def test_custom_samplers_run_in_the_loop_as_by_hand():
    batch = random_prompts(5, seed=1)
    found = said(generate(ToyRunner(TOY), batch, Middle(), [END]))
    assert found == counted(call_by_hand(Middle(), TOY, batch, [END]), batch.prompt_lengths, [END])
    greedy = said(generate(ToyRunner(TOY), batch, GreedySampler(), [END]))
    assert said(generate(ToyRunner(TOY), batch, Forgetful(), [END])) == greedy


class OwnWay(Sampler):
    def __call__(self, next, prompt, **kwargs):
        return prompt


class OddBeams(BeamSampler):
    def compute_probabilities(self, logits):
        return super().compute_probabilities(logits)


@pytest.mark.parametrize("sampler", [OwnWay(), OddBeams()])
def test_overrides_that_the_loop_would_pass_over_are_refused(sampler):
    with pytest.raises(InputTypeError, match=type(sampler).__name__):
        generate(ToyRunner(TOY), random_prompts(1), sampler)


class Pair(NamedTuple):
    keys: np.ndarray
    step: int


def test_rows_of_nested_caches():
    rows = np.array([1, 1, 0])
    array = np.arange(6).reshape(2, 3)
    taken = take_rows({"a": [array, None], "b": (Pair(array, 3), 7)}, rows)
    np.testing.assert_array_equal(taken["a"][0], array[rows])
    assert taken["a"][1] is None
    np.testing.assert_array_equal(taken["b"][0].keys, array[rows])
    assert taken["b"][0].step == 3
    assert taken["b"][1] == 7
    assert take_rows(None, rows) is None

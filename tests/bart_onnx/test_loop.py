"""The loop, driven by a runner that spells the alphabet: no model, no onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from bart_onnx.config import BartConfig
from bart_onnx.decoding.loop import generate
from bart_onnx.decoding.prompts import Prompts, batches, fewest_moves, first_stops, read_prompts
from bart_onnx.graphs import LOGITS, NEXT_TOKEN_IDS
from bart_onnx.samplers import GreedySampler

END = 0
CONFIG = BartConfig(27, 1, 1, 2, 2, max_sequence_length=200)


class SpellingState:
    """Remembers each row's source and how many tokens it was fed."""

    def __init__(self, sources, lengths):
        self.sources = sources
        self.lengths = lengths

    def select(self, rows):
        self.sources, self.lengths = self.sources[rows], self.lengths[rows]

    def between(self, first, last):
        return SpellingState(self.sources[first:last], self.lengths[first:last])


class SpellingRunner:
    """Says the letter after the last; after the letter that its source begins with, the end."""

    config = CONFIG
    tokens_at_once = 64
    batch_tokens = None

    def __init__(self):
        self.steps = []

    def drafts_pay(self, sources):
        return False

    def encode(self, token_ids, lengths):
        return SpellingState(token_ids[:, 0], np.zeros(len(lengths), np.int64))

    def step(self, state, token_ids, wanted):
        self.steps.append(token_ids.shape)
        state.lengths += token_ids.shape[1]
        follow = np.where(token_ids == state.sources[:, None], END, token_ids + 1)
        return {NEXT_TOKEN_IDS: follow} if wanted else {}


def prompts(last_letters, starts, width=30, source_lengths=None):
    rows = len(last_letters)
    decoder = np.zeros((rows, width), np.int64)
    for row, start in enumerate(starts):
        decoder[row, : len(start)] = start
    lengths = np.array(source_lengths or [1] * rows)
    sources = np.zeros((rows, lengths.max()), np.int64)
    sources[:, 0] = last_letters
    return Prompts(sources, lengths, decoder, np.array([len(start) for start in starts]))


def spelled(generated):
    return [
        row[:length].tolist()
        for row, length in zip(generated.token_ids, generated.lengths, strict=True)
    ]


def test_rows_stop_at_their_own_ends():
    generated = generate(
        SpellingRunner(), prompts([5, 3, 9], [[1], [2], [7, 8]]), GreedySampler(), [END]
    )
    assert spelled(generated) == [[1, 2, 3, 4, 5, END], [2, 3, END], [7, 8, 9, END]]


def test_ended_rows_leave_the_batch():
    runner = SpellingRunner()
    generate(runner, prompts([2, 6, 2, 6], [[1]] * 4), GreedySampler(), [END])
    assert runner.steps == [(4, 1), (4, 1), (2, 1), (2, 1), (2, 1), (2, 1)]


def test_without_stop_tokens_every_row_fills_the_width():
    generated = generate(SpellingRunner(), prompts([3], [[1]], width=7), GreedySampler())
    assert spelled(generated) == [[1, 2, 3, END, 1, 2, 3]]


def test_stop_token_inside_the_prompt_does_not_count():
    generated = generate(SpellingRunner(), prompts([4], [[END, 2]]), GreedySampler(), [END])
    assert spelled(generated) == [[END, 2, 3, 4, END]]


def test_prompt_of_full_width_is_returned_as_it_is():
    runner = SpellingRunner()
    generated = generate(runner, prompts([4, 4], [[1, 2, 3], [2]], width=3), GreedySampler(), [END])
    assert spelled(generated) == [[1, 2, 3], [2, 3, 4]]
    assert all(rows == 1 for rows, _ in runner.steps)


def test_prompts_of_one_length_share_a_step_and_others_do_not():
    runner = SpellingRunner()
    generate(runner, prompts([9, 9, 9], [[1, 2], [1], [2, 3]], width=4), GreedySampler(), [END])
    assert runner.steps[:2] == [(1, 1), (2, 2)]


def test_long_prompts_are_fed_in_pieces():
    runner = SpellingRunner()
    start = [1 + index % 20 for index in range(150)]
    generated = generate(
        runner, prompts([start[-1] + 1], [start], width=160), GreedySampler(), [END]
    )
    assert runner.steps[:4] == [(1, 64), (1, 64), (1, 21), (1, 1)]
    assert spelled(generated) == [[*start, start[-1] + 1, END]]


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
def test_a_row_is_the_same_alone_and_in_a_batch(rows):
    random = np.random.default_rng(rows)
    last = random.integers(2, 26, rows).tolist()
    starts = [[int(random.integers(1, end + 1))] * int(random.integers(1, 4)) for end in last]
    lengths = random.integers(1, 9000, rows).tolist()
    together = spelled(
        generate(SpellingRunner(), prompts(last, starts, 33, lengths), GreedySampler(), [END])
    )
    for row in range(rows):
        one = prompts([last[row]], [starts[row]], 33, [lengths[row]])
        assert spelled(generate(SpellingRunner(), one, GreedySampler(), [END])) == [together[row]]


@pytest.mark.parametrize(
    ("kept", "order"),
    [
        ([1, 1, 1], [0, 1, 2]),
        ([1, 0, 0, 1, 1], [0, 4, 3]),
        ([0, 0, 1], [2]),
        ([0, 0], []),
        ([0, 1, 1, 1], [3, 1, 2]),
    ],
)
def test_fewest_moves(kept, order):
    assert fewest_moves(np.array(kept, bool)).tolist() == order


def test_batches_keep_within_tokens_and_logits(monkeypatch):
    monkeypatch.setattr("bart_onnx.decoding.prompts._BATCH_TOKENS", 16)
    monkeypatch.setattr("bart_onnx.decoding.prompts._BATCH_LOGITS", 100)
    some = prompts([1] * 6, [[1]] * 6, width=2, source_lengths=[2, 6, 1, 3, 1, 1])
    assert [rows.tolist() for rows in batches(some)] == [[1, 3], [0, 2, 4, 5]]
    assert [len(rows) for rows in batches(some, logits=40)] == [2, 2, 2]
    assert [len(rows) for rows in batches(some, copies=2)] == [1, 1, 2, 2]
    assert [len(rows) for rows in batches(some, logits=1000, copies=100)] == [1] * 6


@pytest.mark.parametrize(("length", "shapes"), [(1, [1]), (2, [2]), (3, [2, 1]), (70, [64, 5, 1])])
def test_a_long_prompts_last_token_goes_alone_where_logits_are_wanted(length, shapes):
    runner = SpellingRunner()
    state = runner.encode(np.ones((2, 1), int), np.ones(2))
    ids = np.ones((2, 80), int)
    steps = read_prompts(runner, state, ids, np.array([length] * 2), (LOGITS,), ())
    columns = [columns for _, columns, _ in steps]
    assert [count for _, count in runner.steps] == shapes
    assert [columns[0].start, columns[-1].stop] == [0, length]


def test_first_stops_after_the_prompt():
    ids = np.array([[END, 1, 2, END, 4], [END, 1, END, 3, 4], [1, 2, 3, 4, 5]])
    lengths = np.array([1, 3, 5])
    assert first_stops(ids, lengths, np.array([END])).tolist() == [4, 5, 5]
    assert first_stops(ids, lengths, np.array([], int)).tolist() == [5, 5, 5]
    beams = np.stack([ids, ids[:, ::-1]], axis=1)
    assert first_stops(beams, lengths, np.array([END])).tolist() == [[4, 2], [5, 5], [5, 5]]

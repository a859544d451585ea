"""Drafts themselves, and speculation on models."""

from __future__ import annotations

import numpy as np
import pytest
from golden_lm import golden_lm

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.bundle import Bundle
from bart_onnx.decoding import drafts
from bart_onnx.decoding.drafts import Drafts, SourceDrafts
from bart_onnx.graphs import LOGITS
from bart_onnx.runners import ort
from bart_onnx.runners.ort import OrtRunner

# Drafts themselves.


def test_the_longest_match_decides_and_the_first_of_equals():
    source = np.array([1, 2, 3, 9, 2, 3, 4, 5, 6, 7, 2, 3, 8])

    def draft(said, room=9):
        return SourceDrafts(source).after(np.array(said), room)

    assert draft([0, 2, 3])[:2] == [9, 2]
    assert draft([0, 9, 2, 3])[:2] == [4, 5]
    assert draft([0, 7, 2, 3]) == [8]
    assert draft([0, 7, 2, 3], room=0) == []
    assert draft([9, 2, 3], room=1) == [4]
    assert draft([40, 41]) == []
    assert draft([2, 3, 8]) == []
    assert SourceDrafts(np.array([], int)).after(np.array([3]), 5) == []


def test_a_row_that_copies_nothing_goes_silent_and_speaks_again():
    source = np.arange(100, 200)
    row, said, drafted = SourceDrafts(source), [0], []
    for place in range(0, 80, 2):
        said += [100 + place, 101 + place]
        drafted.append(len(row.after(np.array(said), 20)))
        said.append(50)
        drafted.append(len(row.after(np.array(said), 20)))
    assert drafted[0] > 2
    assert sum(drafted[20:]) == 0
    said += [100]
    lengths = []
    for token in range(101, 140):
        lengths.append(len(row.after(np.array(said), 20)))
        said.append(token)
    assert lengths[0] == 0
    assert lengths[-1] > 4


def test_matches_of_one_token_are_drafted_once_they_have_come():
    source = np.arange(100, 140)
    row, drafted = SourceDrafts(source), []
    said = [0]
    for place in range(100, 130, 3):
        said += [1, place]
        drafted.append(len(row.after(np.array(said), 20)))
        said += [place + 1]
    assert drafted[0] == 0
    assert drafted[-1] > 0


def test_a_batch_is_padded_with_each_rows_last_token():
    sources = np.array([[5, 6, 7, 8, 9], [5, 6, 0, 0, 0]])
    batch = Drafts(sources, np.array([5, 2]))
    ids = np.array([[1, 5, 6, 0], [1, 2, 5, 6]])
    feed = batch.feed(ids, np.array([3, 4]), np.array([9, 9]))
    assert feed.counts.tolist() == [3, 0]
    assert feed.token_ids.tolist() == [[6, 7, 8, 9], [6, 6, 6, 6]]
    batch.take(np.array([1]))
    assert batch.feed(ids[1:], np.array([4]), np.array([9])).token_ids.tolist() == [[6]]


# Models.

# Scores closer than this may change places between a step of one token and one of several.
NEAR_TIE = 1e-5


@pytest.fixture
def always(monkeypatch):
    """Every match is drafted, in batches of any size."""
    monkeypatch.setattr(drafts, "_LIKELY", dict.fromkeys(range(1, 5), 1.0))
    monkeypatch.setattr(drafts, "_WEIGHT", 0.0)
    monkeypatch.setattr(OrtRunner, "drafts_pay", lambda runner, sources: True)


def compared(results, expected):
    """Rows that differ, and whether they do so at a near-tie; and tokens accepted."""
    ties, accepted = [], 0
    for row, (one, other) in enumerate(zip(results, expected, strict=True)):
        accepted += one.accepted_tokens
        assert (other.accepted_tokens, other.drafted_tokens) == (0, 0)
        same = one.ids.tolist() == other.ids.tolist()
        shortest = min(len(one.ids), len(other.ids))
        first = shortest if same else int((one.ids[:shortest] != other.ids[:shortest]).argmax())
        count = first - one.prompt_length
        np.testing.assert_allclose(one.log_probs[:count], other.log_probs[:count], 1e-6, 1e-5)
        if not same:
            best, second, *_ = other.top_log_probs[count].values()
            ties.append((row, first, best - second))
            assert best - second < NEAR_TIE
    return ties, accepted


def test_the_shipped_preset(always):
    lm = OnnxBartSeq2SeqLM.from_preset("bart_tiny_en_g2p")
    words = ["hello", "summarization", "onnx", "a", "Massachusetts", "tttttt", "abababab"]
    words += [f"{first}{second}" for first in words[:5] for second in ("s", "ing", "-er")]
    options = {"num_beams": 1, "return_dict": True, "top_log_probs": 2}
    expected = lm.generate(words, **options, speculate=False)
    ties, accepted = compared(lm.generate(words, **options), expected)
    print(f"{len(words)} words, {accepted} tokens accepted, near-ties: {ties}")
    assert len(ties) <= 1
    lm.compile(sampler="greedy")
    assert lm.generate(words) == lm.generate(words, speculate=False)
    for word in words[:3]:
        assert "".join(lm.stream(word)) == lm.generate(word, speculate=False)
        assert "".join(lm.stream(word, num_beams=1)) == lm.generate(word, num_beams=1)


def test_drafts_pay_for_few_sources_of_a_model_that_is_not_tiny(tiny_bundle, monkeypatch):
    runner = OrtRunner(Bundle.open(tiny_bundle))
    assert not runner.drafts_pay(1)
    monkeypatch.setattr(ort, "_DRAFTED_WEIGHTS", 1)
    assert [runner.drafts_pay(sources) for sources in (1, 2, 3, 8)] == [True, True, False, False]


def test_what_is_forgotten_is_cleared(tiny_bundle):
    """What lies beyond a row's length is multiplied by zero; only finite values survive that."""
    runner = OrtRunner(Bundle.open(tiny_bundle))
    state = runner.encode(np.full((3, 5), 7), np.array([5, 3, 4]))
    runner.step(state, np.full((3, 6), 9), (LOGITS,))
    for array in state.own:
        array[1, :, 4:6] = np.nan
    state.truncate(np.array([6, 4, 1]))
    for array in state.own:
        assert [int(row.any(axis=(0, 2)).sum()) for row in array] == [6, 4, 1]
    outputs = runner.step(state, np.array([[4], [5], [6]]), (LOGITS,))
    assert np.isfinite(outputs[LOGITS]).all()


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_the_golden_model(tiny_bundle, golden, always, rows):
    lm = golden_lm(tiny_bundle, golden, preprocessor=False)
    random = np.random.default_rng(rows)
    size, lengths = lm.config.vocabulary_size, random.integers(3, 24, rows)
    ids = random.integers(4, size, (rows, 24))
    mask = np.arange(24) < lengths[:, None]
    inputs = {"encoder_token_ids": ids, "encoder_padding_mask": mask}
    # What it said first becomes part of the source, so that it says what its source says.
    said = lm.generate(inputs, max_length=20, num_beams=1)["decoder_token_ids"]
    ids[:, : said.shape[1]] = said
    inputs["encoder_padding_mask"] = np.ones_like(mask)
    options = {"max_length": 24, "num_beams": 1, "return_dict": True, "top_log_probs": 2}
    expected = lm.generate(inputs, **options, speculate=False)
    results = lm.generate(inputs, **options)
    ties, accepted = compared(results, expected)
    print(f"{rows} rows, {accepted} tokens accepted, near-ties: {ties}")
    assert len(ties) <= rows // 10
    assert accepted
    told = results[0].to_dict()
    assert told["steps"] + told["accepted_tokens"] == len(results[0].log_probs)
    by_sampler = {**inputs, "decoder_token_ids": np.full((rows, 24), 2)}
    by_sampler["decoder_padding_mask"] = np.arange(24)[None].repeat(rows, 0) < 1
    one = lm.generate(by_sampler, stop_token_ids=(2,), return_dict=True)
    other = lm.generate(by_sampler, stop_token_ids=(2,), return_dict=True, speculate=False)
    assert [each.ids.tolist() for each in one] == [each.ids.tolist() for each in other]
    assert [each.steps + each.accepted_tokens for each in one] == [each.steps for each in other]

"""What only a GPU can show: the CUDA provider's answers are the CPU's, captured or not."""

from __future__ import annotations

import numpy as np
import pytest
from device_cases import TEXTS, preset, scores, words

from bart_onnx.devices import Device
from bart_onnx.errors import DeviceMemoryError
from bart_onnx.graphs import CROSS_ATTENTION, LOGITS, NEXT_TOKEN_IDS
from bart_onnx.runners.cuda import CudaRunner
from bart_onnx.runners.gpus import gpus
from bart_onnx.runners.ort import OrtRunner

pytestmark = pytest.mark.gpu


def random_rows(config, rows, seed=0):
    random = np.random.default_rng(seed)
    longest = min(40, config.max_sequence_length)
    lengths = random.integers(1, longest, rows)
    sources = random.integers(config.vocabulary_size, size=(rows, int(lengths.max())))
    return sources, lengths, random.integers(config.vocabulary_size, size=(rows, 60))


@pytest.fixture(scope="module")
def runners(on_cpu, on_gpu):
    return on_gpu.runner, on_cpu.runner


@pytest.mark.parametrize("case", TEXTS)
def test_texts_are_those_of_the_cpu(case, on_cpu, on_gpu):
    assert TEXTS[case](on_gpu) == TEXTS[case](on_cpu)


def test_a_thousand_words_are_those_of_the_cpu(on_cpu, on_gpu):
    for lm in (on_cpu, on_gpu):
        lm.compile(sampler="greedy")
    assert on_gpu.generate(words(1000)) == on_cpu.generate(words(1000))


def test_scores_are_those_of_the_cpu(on_cpu, on_gpu):
    np.testing.assert_allclose(scores(on_gpu), scores(on_cpu), atol=1e-3)


@pytest.mark.parametrize("steps", [(2, 1, 1), (2, 5, 1, 3, 1), (1, 40, 1)])
def test_logits_of_any_query_length_are_those_of_the_cpu(runners, steps):
    ours, theirs = runners
    sources, lengths, tokens = random_rows(ours.config, 7)
    states, start = [runner.encode(sources, lengths) for runner in runners], 0
    for count in steps:
        fed = tokens[:, start : start + count]
        wanted = (LOGITS, CROSS_ATTENTION)
        found, expected = ours.step(states[0], fed, wanted), theirs.step(states[1], fed, wanted)
        np.testing.assert_allclose(found[LOGITS], expected[LOGITS], atol=2e-3)
        width = expected[CROSS_ATTENTION].shape[-1]
        weighed = found[CROSS_ATTENTION][..., :width]
        np.testing.assert_allclose(weighed, expected[CROSS_ATTENTION], atol=1e-3)
        start += count


def test_rows_that_leave_grow_and_change_over_are_those_of_the_cpu(runners):
    sources, lengths, tokens = random_rows(runners[0].config, 6)
    states = [runner.encode(sources, lengths) for runner in runners]

    def step(rows, columns):
        fed = tokens[rows, columns]
        outputs = (
            runner.step(state, fed, (LOGITS,))
            for runner, state in zip(runners, states, strict=True)
        )
        found, expected = (np.array(each[LOGITS]) for each in outputs)
        np.testing.assert_allclose(found, expected, atol=2e-3)

    step(np.arange(6), slice(0, 2))
    for state in states:
        state.select(np.array([0, 5, 2]))
    step(np.arange(3), slice(2, 5))
    for state in states:
        state.expand(2)
    step(np.arange(6), slice(5, 6))
    for state in states:
        state.select(np.array([1, 0, 2, 2, 5, 4]))
    step(np.arange(6), slice(6, 7))
    for state in states:
        state.truncate(np.full(6, 4))
    step(np.arange(6), slice(8, 9))


def test_captured_graphs_answer_as_those_that_are_not(on_gpu):
    plain = preset(device=Device("cuda", cuda_graphs=False))
    for case in ("greedy", "beams", "frozen beams of KerasHub"):
        assert TEXTS[case](on_gpu) == TEXTS[case](plain)
    assert on_gpu.runner._sessions.captures
    assert not plain.runner._sessions.captures


def test_memory_is_flat_over_ten_thousand_steps(on_gpu, monkeypatch):
    runner, made = on_gpu.runner, []
    sources, lengths, tokens = random_rows(runner.config, 8)
    state = runner.encode(sources, lengths)
    last = min(50, runner.config.max_sequence_length - 1)

    def go_on(steps):
        for number in range(steps):
            if state.lengths[0] == last:
                state.truncate(np.full(8, 2))
            column = number % tokens.shape[1]
            outputs = runner.step(state, tokens[:, column : column + 1], (NEXT_TOKEN_IDS,))
            assert outputs[NEXT_TOKEN_IDS].shape == (8, 1)

    go_on(200)
    from onnxruntime import OrtValue

    original = OrtValue.ortvalue_from_shape_and_type
    monkeypatch.setattr(
        OrtValue,
        "ortvalue_from_shape_and_type",
        lambda *arguments: made.append(arguments) or original(*arguments),
    )
    before = gpus()[0].free_bytes
    go_on(10_000)
    assert made == []
    # Other processes on the card may take or give some.
    assert abs(gpus()[0].free_bytes - before) < 64 << 20


def test_too_little_memory_is_an_error_and_the_next_call_goes_on(on_gpu, on_cpu):
    rows = 1 << 21
    with pytest.raises(DeviceMemoryError, match="batch_tokens"):
        on_gpu.runner.encode(np.zeros((rows, 1), np.int64), np.ones(rows, np.int64))
    for lm in (on_cpu, on_gpu):
        lm.compile(sampler="greedy")
    assert on_gpu.generate(words(4)) == on_cpu.generate(words(4))


@pytest.mark.parametrize(("precision", "loss"), [("fp16", 2e-2), ("bf16", 1e-1)])
def test_half_precisions_stay_near_the_cpu(precision, loss, half_bundle):
    exact = OrtRunner(half_bundle("fp32"), threads=1)
    runner = CudaRunner(half_bundle(precision))
    sources, lengths, tokens = random_rows(runner.config, 5)
    states = [each.encode(sources, lengths) for each in (runner, exact)]
    for columns in (slice(0, 2), slice(2, 3), slice(3, 8), slice(8, 9)):
        found, expected = (
            np.array(each.step(state, tokens[:, columns], (LOGITS,))[LOGITS], np.float32)
            for each, state in zip((runner, exact), states, strict=True)
        )
        assert np.abs(found - expected).max() < loss * np.abs(expected).max()

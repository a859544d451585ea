"""The TensorRT runner over fake engines: it generates what the CPU's runner does, and reuses what
it may. What a GPU does is not shown here.
"""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from fake_tensorrt import FakeContext, fake_runner
from toy_runner import said

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.bundle import Bundle
from bart_onnx.decoding.arrays import checked_prompts
from bart_onnx.decoding.loop import generate
from bart_onnx.errors import DeviceError, DeviceMemoryError, InputError, InputTooLongError
from bart_onnx.graphs import CROSS_ATTENTION, LOGITS, NEXT_TOKEN_IDS, TOP_LOGITS
from bart_onnx.runners import tensorrt_runs
from bart_onnx.runners.device_memory import ALIGNMENT, Arena
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.samplers import BeamSampler, GreedySampler
from bart_onnx.store import shipped_path

WORDS = ["knight", "a", "computer", "xylophone", "onnx", "through", "bart", "it", "psychology"]


@pytest.fixture(scope="module")
def bundle():
    return Bundle.open(shipped_path("bart_tiny_en_g2p"))


@pytest.fixture(scope="module")
def cpu(bundle):
    return OrtRunner(bundle, threads=1)


@pytest.fixture
def fake(bundle):
    return fake_runner(bundle, max_batch=16)


def rows_of(config, count, seed=0, longest=20):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, count)
    ids = random.integers(3, config.vocabulary_size, (count, longest))
    return ids * (np.arange(longest) < lengths[:, None]), lengths


def prompts_of(bundle, words):
    lm = OnnxBartSeq2SeqLM.from_preset("bart_tiny_en_g2p", offline=True)
    return checked_prompts(lm.preprocessor.generate_preprocess(words), bundle.config)


@pytest.mark.parametrize("max_batch", [1, 4, 32])
def test_greedy_generation_is_the_cpus(bundle, cpu, max_batch):
    prompts = prompts_of(bundle, WORDS)
    stops = [bundle.config.end_token_id]
    fake = fake_runner(bundle, max_batch=max_batch)
    ours = generate(fake.runner, prompts, GreedySampler(), stops)
    theirs = generate(cpu, prompts, GreedySampler(), stops)
    assert said(ours) == said(theirs)


def test_beams_are_the_cpus(bundle, cpu, fake):
    prompts = prompts_of(bundle, WORDS)
    stops = [bundle.config.end_token_id]
    ours = generate(fake.runner, prompts, BeamSampler(3), stops)
    theirs = generate(cpu, prompts, BeamSampler(3), stops)
    assert ours.lengths.tolist() == theirs.lengths.tolist()
    assert (ours.token_ids[:, :4] == theirs.token_ids[:, :4]).all()


def test_a_whole_model_runs_on_it(fake):
    lm = OnnxBartSeq2SeqLM.from_preset("bart_tiny_en_g2p", offline=True)
    lm.compile(sampler="greedy")
    calls = (
        lambda: lm.generate(WORDS),
        lambda: lm.generate(WORDS, num_beams=3, num_return_sequences=2),
        lambda: lm.generate(WORDS, do_sample=True, seed=5),
        lambda: [lm.score(WORDS[:2], ["aaa", "b"]).round(3).tolist()],
    )
    expected = [call() for call in calls]
    lm.backbone._runnable._runner = fake.runner
    assert [call() for call in calls] == expected


@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 1, 3, 1), (20, 3), (17, 18)])
def test_steps_give_what_the_cpus_give(bundle, cpu, fake, counts):
    sources, lengths = rows_of(bundle.config, 5)
    tokens = np.random.default_rng(1).integers(3, bundle.config.vocabulary_size, (5, sum(counts)))
    wanted = (LOGITS, TOP_LOGITS, CROSS_ATTENTION)
    ours, theirs = fake.runner.encode(sources, lengths), cpu.encode(sources, lengths)
    start = 0
    for count in counts:
        fed = tokens[:, start : start + count]
        start += count
        found = fake.runner.step(ours, fed, wanted)
        expected = cpu.step(theirs, fed, wanted)
        for name in (LOGITS, TOP_LOGITS):
            np.testing.assert_allclose(found[name], expected[name], atol=2e-4, rtol=0)
        width = min(found[CROSS_ATTENTION].shape[-1], expected[CROSS_ATTENTION].shape[-1])
        looks = [each[CROSS_ATTENTION][..., :width] for each in (found, expected)]
        np.testing.assert_allclose(looks[0], looks[1], atol=1e-5, rtol=0)
        assert found[CROSS_ATTENTION][..., width:].sum() == 0
        assert ours.lengths.tolist() == theirs.lengths.tolist() == [start] * 5


def test_the_encoders_output_is_the_cpus(bundle, cpu):
    sources, lengths = rows_of(bundle.config, 5)
    found = fake_runner(bundle, max_batch=2).runner.encoder_output(sources, lengths)
    expected = cpu.encoder_output(sources, lengths)
    assert found.shape == expected.shape
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(found[row, :length], expected[row, :length], atol=1e-4, rtol=0)


def moved(state):
    """Rows dropped, put in another order, made several, and rolled back."""
    state.select(np.array([0, 5, 3, 4]))
    yield
    state.select(np.array([3, 1, 0, 2]))
    yield
    state.expand(3)
    yield
    state.select(np.array([1, 1, 0, 5, 4, 3, 8, 6, 6, 9, 11, 10]))
    yield
    state.truncate(state.lengths - 1)
    yield
    state.select(np.array([9, 10, 11, 3, 4, 5]))
    yield


@pytest.mark.parametrize("max_batch", [5, 16])
def test_rows_move_as_the_cpus_do(bundle, cpu, max_batch):
    """With the smaller engines every state is stepped in parts, once beams are in it."""
    fake = fake_runner(bundle, max_batch=max_batch)
    sources, lengths = rows_of(bundle.config, 6)
    random = np.random.default_rng(2)
    states = fake.runner.encode(sources, lengths), cpu.encode(sources, lengths)
    steps = zip(moved(states[0]), moved(states[1]), strict=True)
    for _ in range(3):
        fed = random.integers(3, bundle.config.vocabulary_size, (6, 2))
        fake.runner.step(states[0], fed, ())
        cpu.step(states[1], fed, ())
    for _ in steps:
        assert states[0].lengths.tolist() == states[1].lengths.tolist()
        fed = random.integers(3, bundle.config.vocabulary_size, (len(states[1].lengths), 1))
        found = fake.runner.step(states[0], fed, (LOGITS,))[LOGITS]
        expected = cpu.step(states[1], fed, (LOGITS,))[LOGITS]
        np.testing.assert_allclose(found, expected, atol=2e-4, rtol=0)


def test_a_part_shares_memory_and_lengths_with_the_whole(bundle, cpu, fake):
    sources, lengths = rows_of(bundle.config, 5)
    fed = np.random.default_rng(3).integers(3, bundle.config.vocabulary_size, (5, 3))
    ours, theirs = fake.runner.encode(sources, lengths), cpu.encode(sources, lengths)
    for runner, state in ((fake.runner, ours), (cpu, theirs)):
        runner.step(state.between(1, 3), fed[1:3, :2], ())
        runner.step(state.between(3, 5), fed[3:5, :1], ())
        runner.step(state.between(0, 1), fed[:1], ())
    assert ours.lengths.tolist() == [3, 2, 2, 1, 1]
    found = fake.runner.step(ours, fed[:, :1], (LOGITS,))[LOGITS]
    expected = cpu.step(theirs, fed[:, :1], (LOGITS,))[LOGITS]
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=0)


def test_a_shape_is_warmed_up_captured_and_launched(bundle, fake):
    sources, lengths = rows_of(bundle.config, 3)
    state = fake.runner.encode(sources, lengths)
    one = np.full((3, 1), 5)
    seen = []
    for _ in range(5):
        fake.runner.step(state, one, (NEXT_TOKEN_IDS,))
        seen.append((fake.memory.captures, fake.memory.launches))
    assert seen == [(0, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
    # Three rows and four are one bucket; two are another.
    state.select(np.array([0, 1]))
    fake.runner.step(state, one[:2], (NEXT_TOKEN_IDS,))
    assert fake.memory.captures == 1


def test_the_next_batch_finds_what_was_captured_for_the_last(bundle, fake):
    sources, lengths = rows_of(bundle.config, 4)
    for _ in range(4):
        state = fake.runner.encode(sources, lengths)
        for _ in range(3):
            fake.runner.step(state, np.full((4, 1), 5), (NEXT_TOKEN_IDS,))
        del state
    # The encoder's and the step's.
    assert fake.memory.captures == 2
    assert fake.engines["decoder_step"].contexts == 1


def test_a_step_allocates_nothing_and_only_ids_cross(bundle, fake):
    sources, lengths = rows_of(bundle.config, 4)
    state = fake.runner.encode(sources, lengths)
    one = np.full((4, 1), 5)
    fake.runner.step(state, one, (NEXT_TOKEN_IDS,))
    before = fake.memory.allocations, fake.memory.ups, fake.memory.downs
    for _ in range(20):
        found = fake.runner.step(state, one, (NEXT_TOKEN_IDS,))
        assert found[NEXT_TOKEN_IDS].shape == (4, 1)
    after = fake.memory.allocations, fake.memory.ups, fake.memory.downs
    assert [b - a for a, b in zip(before, after, strict=True)] == [0, 20, 20]


def test_memory_stays_flat_over_many_batches(bundle):
    fake = fake_runner(bundle, max_batch=8)
    used = []
    for seed in range(36):
        sources, lengths = rows_of(bundle.config, 1 + seed % 4, seed)
        state = fake.runner.encode(sources, lengths)
        fake.runner.step(state, np.full((len(lengths), 1 + seed % 3), 5), (NEXT_TOKEN_IDS,))
        del state
        used.append(fake.memory.used)
    # Four numbers of rows and three of tokens: after twelve batches all have been.
    assert len(set(used[12:])) == 1


def test_runs_that_came_long_ago_are_let_go(bundle, monkeypatch):
    monkeypatch.setattr(tensorrt_runs, "_KEPT", 2)
    fake = fake_runner(bundle, max_batch=4)
    sources, lengths = rows_of(bundle.config, 4)
    state = fake.runner.encode(sources, lengths)
    for count in (1, 2, 3, 1, 2, 3):
        fake.runner.step(state, np.full((4, count), 5), ())
    assert (fake.engines["decoder_step"].contexts, fake.memory.waits) == (6, 4)


def test_what_nobody_uses_is_given_back_when_memory_is_short(bundle):
    fake = fake_runner(bundle, max_batch=16)
    sources, lengths = rows_of(bundle.config, 1)
    state = fake.runner.encode(sources, lengths)
    del state
    sources, lengths = rows_of(bundle.config, 12)
    fake.memory.room = fake.memory.used + 1
    with pytest.raises(DeviceMemoryError, match="bytes were asked for"):
        fake.runner.encode(sources, lengths)
    fake.memory.room = 1 << 40
    state = fake.runner.encode(sources, lengths)
    assert fake.runner.step(state, np.full((12, 1), 5), (LOGITS,))[LOGITS].shape[0] == 12


def test_limits_are_kept(bundle):
    fake = fake_runner(bundle, max_batch=2, max_source=16, max_tokens=10)
    runner = fake.runner
    sources, lengths = rows_of(bundle.config, 2, longest=17)
    with pytest.raises(InputTooLongError, match=r"17 tokens; these engines take 16.*--max-source"):
        runner.encode(sources, lengths)
    with pytest.raises(InputTooLongError, match="engines take 16"):
        runner.encoder_output(sources, lengths)
    state = runner.encode(sources[:, :16], np.array([16, 1]))
    runner.step(state, np.full((2, 10), 5), ())
    with pytest.raises(InputTooLongError, match=r"11 tokens; these engines have room for 10"):
        runner.step(state, np.full((2, 1), 5), ())
    assert state.lengths.tolist() == [10, 10]
    state = runner.encode(sources[:, :16], np.array([16, 1]))
    state.expand(3)
    with pytest.raises(InputError, match="3 beams of a source are more rows than the 2"):
        runner.step(state, np.full((6, 1), 5), ())
    with pytest.raises(InputError, match="truncate"):
        state.truncate(state.lengths + 1)


def test_capacity_comes_in_buckets(bundle):
    for asked, room in ((1, 64), (64, 64)):
        fake = fake_runner(bundle, max_tokens=asked)
        state = fake.runner.encode(np.full((1, 3), 4), np.array([3]))
        step = fake.engines["decoder_step"]
        assert step.profiles[0]["self_key_0"][0][2] == room
        fake.runner.step(state, np.full((1, 1), 4), ())


def test_what_tensorrt_does_not_run_is_told(bundle, fake, monkeypatch):
    sources, lengths = rows_of(bundle.config, 2)
    state = fake.runner.encode(sources, lengths)
    monkeypatch.setattr(FakeContext, "execute_async_v3", lambda *_: False)
    with pytest.raises(DeviceError, match="did not run the decoder_step engine"):
        fake.runner.step(state, np.full((2, 1), 5), (LOGITS,))
    monkeypatch.undo()
    assert fake.runner.step(state, np.full((2, 1), 5), (LOGITS,))[LOGITS].shape[0] == 2


@pytest.mark.parametrize("change", ["select", "expand", "encode"])
def test_no_other_thread_puts_work_into_a_capture(bundle, fake, monkeypatch, change):
    sources, lengths = rows_of(bundle.config, 2)
    state, other = (fake.runner.encode(sources, lengths) for _ in range(2))
    changes = {
        "select": lambda: other.select(np.array([1, 0])),
        "expand": lambda: other.expand(2),
        "encode": lambda: fake.runner.encode(sources, lengths),
    }
    captured, workers, failures = fake.memory.capture, [], []

    def work():
        try:
            changes[change]()
        except BaseException as error:
            failures.append(error)

    def capture(put):
        def put_beside_another():
            workers.append(threading.Thread(target=work))
            workers[-1].start()
            workers[-1].join(0.2)
            assert workers[-1].is_alive() or failures, "the other thread did not wait"
            put()

        return captured(put_beside_another)

    monkeypatch.setattr(fake.memory, "capture", capture)
    for _ in range(2):
        fake.runner.step(state, np.full((2, 1), 5), (NEXT_TOKEN_IDS,))
    for worker in workers:
        worker.join()
    assert len(workers) == 1
    assert not failures


def test_blocks_are_handed_out_by_one_thread_at_a_time(fake):
    arena, taken = Arena(fake.memory), []
    with arena.lock:
        worker = threading.Thread(target=lambda: taken.append(arena.take(ALIGNMENT)))
        worker.start()
        worker.join(0.2)
        assert not taken
    worker.join()
    assert len(taken) == 1


def test_what_cannot_be_captured_runs_without(bundle, fake, cpu, monkeypatch, caplog):
    sources, lengths = rows_of(bundle.config, 2)
    states = fake.runner.encode(sources, lengths), cpu.encode(sources, lengths)
    asked = []

    def refuse(put):
        asked.append(put)
        raise DeviceError("operation not permitted when stream is capturing")

    monkeypatch.setattr(fake.memory, "capture", refuse)
    for _ in range(4):
        fed = np.full((2, 1), 5)
        found, expected = (
            runner.step(state, fed, (LOGITS,))[LOGITS].copy()
            for runner, state in zip((fake.runner, cpu), states, strict=True)
        )
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert len(asked) == 1
    assert "stream is capturing" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_told(fake, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(DeviceError, match="fork"):
        fake.runner.encode(np.full((1, 3), 4), np.array([3]))

"""CudaRunner with its placement on the CPU: all but what only a GPU can do."""

from __future__ import annotations

import json
import shutil
import threading

import numpy as np
import pytest
from tiny_models import VARIANTS, random_checkpoint

from bart_onnx.bundle import Bundle
from bart_onnx.devices import Device
from bart_onnx.errors import DeviceError, DeviceMemoryError, InputError, InputTooLongError
from bart_onnx.graphs import (
    CROSS_ATTENTION,
    DECODER_SEQUENCE_OUTPUT,
    LOG_SUM_EXP,
    LOGITS,
    NEXT_TOKEN_IDS,
    TOP_LOGITS,
    TOP_TOKEN_IDS,
)
from bart_onnx.runners import blocks
from bart_onnx.runners.blocks import Block, CacheKind, Placement, Pool
from bart_onnx.runners.cuda import CudaRunner
from bart_onnx.runners.cuda_sessions import CudaSessions
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.runners.row_moves import RowMover
from exporters.assembly import build
from exporters.progress import Progress

STAND_IN = Placement("cpu", "cpu")
OTHERS = (LOGITS, NEXT_TOKEN_IDS, TOP_LOGITS, TOP_TOKEN_IDS, LOG_SUM_EXP, DECODER_SEQUENCE_OUTPUT)
EVERYTHING = (*OTHERS, CROSS_ATTENTION)
NO_ROOM = "Failed to allocate memory for requested buffer of size 4096"


@pytest.fixture
def runner(variant_bundles):
    return CudaRunner(variant_bundles("plain"), threads=1, placement=STAND_IN)


@pytest.fixture
def judge(variant_bundles):
    return OrtRunner(variant_bundles("plain"), threads=1)


def random_rows(config, rows, seed=0):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, min(24, config.max_sequence_length), rows)
    sources = random.integers(config.vocabulary_size, size=(rows, int(lengths.max())))
    tokens = random.integers(config.vocabulary_size, size=(rows, 96))
    return sources, lengths, tokens


def assert_alike(found, expected):
    """Another width of padding changes the last bits of an attention, and nothing else."""
    assert set(found) == set(expected)
    for name, array in expected.items():
        mine = found[name][..., : array.shape[-1]] if name == CROSS_ATTENTION else found[name]
        np.testing.assert_allclose(mine, array, atol=5e-5, err_msg=name)


class Pair:
    """A state of each runner, to which the same happens."""

    def __init__(self, runner, judge, rows, seed=0):
        self.runner, self.judge = runner, judge
        self.random = np.random.default_rng(seed)
        sources, lengths, _ = random_rows(runner.config, rows, seed)
        self.ours, self.theirs = runner.encode(sources, lengths), judge.encode(sources, lengths)

    def step(self, count=1, wanted=OTHERS):
        size = (len(self.theirs.lengths), count)
        fed = self.random.integers(self.runner.config.vocabulary_size, size=size)
        found = self.runner.step(self.ours, fed, wanted)
        assert_alike(found, self.judge.step(self.theirs, fed, wanted))
        assert self.ours.lengths.tolist() == self.theirs.lengths.tolist()

    def do(self, name, *arguments):
        getattr(self.ours, name)(*arguments)
        getattr(self.theirs, name)(*arguments)

    def between(self, first, last):
        part = object.__new__(Pair)
        part.__dict__ = dict(self.__dict__)
        part.ours, part.theirs = self.ours.between(first, last), self.theirs.between(first, last)
        return part

    @property
    def shape(self):
        """Places for sources, rows and tokens."""
        own = self.ours.storage.own.block
        return self.ours.storage.cross.block.rows, own.rows, own.length


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"wide"}))
def test_steps_of_every_variant_are_those_of_the_other_runner(variant, variant_bundles):
    bundle = variant_bundles(variant)
    pair = Pair(CudaRunner(bundle, threads=1, placement=STAND_IN), OrtRunner(bundle, threads=1), 5)
    for count in (2, 1, 3, 1, 1):
        pair.step(count, EVERYTHING)


def test_caches_grow_and_keep_what_is_in_them(runner, judge):
    pair = Pair(runner, judge, 3)
    assert pair.shape == (4, 4, 64)
    for count in (60, 2, 1, 1, 1, 20, 2, 1):
        pair.step(count)
    assert pair.shape == (4, 4, 128)


def test_rows_that_leave_move_nothing_until_a_smaller_block_will_do(runner, judge, monkeypatch):
    pair = Pair(runner, judge, 9, seed=3)
    pair.step(2)
    moves = []
    monkeypatch.setattr(
        RowMover, "move", spied(RowMover.move, lambda mover, source, target, rows: moves.append(1))
    )
    for order, places, moved in (
        ([0, 8, 2, 3, 4, 5, 6, 7], 8, 2),
        ([0, 7, 2, 5], 4, 2),
        ([3, 1, 2], 4, 0),
        ([2, 1, 0], 4, 0),
        ([1], 1, 2),
    ):
        del moves[:]
        pair.do("select", np.array(order))
        assert (pair.shape[0], len(moves)) == (places, moved)
        assert pair.ours.source_lengths.tolist() == pair.theirs.source_lengths.tolist()
        pair.step(1, EVERYTHING)


def spied(function, note):
    def wrapper(*arguments):
        note(*arguments)
        return function(*arguments)

    return wrapper


def test_beams_share_their_sources_cache_and_take_over_from_each_other(runner, judge):
    pair = Pair(runner, judge, 3)
    pair.step(2)
    cross = pair.ours.storage.cross
    pair.do("expand", 4)
    assert pair.ours.storage.cross is cross
    assert pair.shape == (4, 16, 64)
    pair.step(1, EVERYTHING)
    pair.do("select", np.array([1, 1, 0, 3, 5, 4, 7, 7, 11, 8, 8, 8]), 2)
    assert pair.ours.storage.cross is cross
    pair.step(3, EVERYTHING)
    pair.do("select", np.array([9, 8, 8, 11, 2, 2, 1, 0]))
    pair.step()
    pair.do("select", np.array([4, 5, 6, 7]))
    assert pair.shape == (1, 4, 64)
    pair.step()
    pair.do("expand", 2)
    pair.step()


def test_a_source_may_be_named_twice(runner, judge):
    pair = Pair(runner, judge, 2)
    pair.step(2)
    state = pair.ours
    state.select(np.array([1, 1, 0]))
    fed = np.array([[5], [5], [6]])
    logits = runner.step(state, fed, (LOGITS,))[LOGITS]
    np.testing.assert_array_equal(logits[0], logits[1])
    alone = judge.step(pair.theirs, fed[[2, 0]], (LOGITS,))[LOGITS]
    np.testing.assert_allclose(logits[[2, 0]], alone, atol=5e-5)


def test_truncated_rows_are_decoded_again(runner, judge):
    pair = Pair(runner, judge, 4)
    pair.step(2)
    pair.step(5)
    pair.do("truncate", np.array([3, 7, 2, 5]))
    pair.step(2)
    with pytest.raises(InputError, match="Cannot truncate"):
        pair.ours.truncate(np.array([99, 1, 1, 1]))


NOT_A_NUMBER = 50


@pytest.fixture
def broken_bundle(variant_bundles, tmp_path):
    """One whose model knows one token as NaN."""
    path = tmp_path / "broken"
    shutil.copytree(variant_bundles("untied").path, path)
    tensors = json.loads((path / "manifest.json").read_text())["tensors"]
    (name,) = [name for name in tensors if "token_embedding" in name]
    shape, offset = tuple(tensors[name]["shape"]), tensors[name]["offset"]
    weights = np.memmap(path / "weights.bin", np.float32, "r+", offset, shape)
    weights[NOT_A_NUMBER] = np.nan
    weights.flush()
    return Bundle.open(path, verify=False)


@pytest.mark.parametrize("wanted", [LOG_SUM_EXP, LOGITS])
@pytest.mark.parametrize("change", [None, "select", "expand", "part"])
def test_what_a_rejected_draft_has_spoiled_is_well_again(broken_bundle, change, wanted):
    ours = CudaRunner(broken_bundle, threads=1, placement=STAND_IN)
    pair = Pair(ours, OrtRunner(broken_bundle, threads=1), 3)
    sources = np.arange(4, 16).reshape(3, 4), np.array([4, 2, 3])
    pair.ours, pair.theirs = ours.encode(*sources), pair.judge.encode(*sources)
    fed = np.array([[7, NOT_A_NUMBER, 9, 9, 9], [7, 8, 9, 9, 9], [7, 8, 9, NOT_A_NUMBER, 9]])
    # What is no number spoils the places before it too, so these rows forget the whole step.
    lengths = np.array([1, 6, 1])
    for runner, state in ((ours, pair.ours), (pair.judge, pair.theirs)):
        runner.step(state, np.full((3, 1), 2), ())
        found = runner.step(state, fed, (wanted,))[wanted]
        assert not np.isfinite(found).all()
    if change == "select":
        pair.do("select", np.array([2, 0]))
        lengths = lengths[[2, 0]]
    elif change == "expand":
        pair.do("expand", 2)
        lengths = np.repeat(lengths, 2)
    elif change == "part":
        pair, lengths = pair.between(1, 3), lengths[1:]
    pair.do("truncate", lengths)
    for _ in range(3):
        found = ours.step(pair.ours, np.full((len(lengths), 1), 8), (LOGITS,))[LOGITS]
        expected = pair.judge.step(pair.theirs, np.full((len(lengths), 1), 8), (LOGITS,))[LOGITS]
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(found, expected, atol=5e-5)


def test_a_truncation_after_sound_steps_touches_no_memory(runner, judge, monkeypatch):
    pair = Pair(runner, judge, 2)
    pair.step(5, (LOG_SUM_EXP,))
    monkeypatch.setattr(Block, "keep", lambda *_: pytest.fail("memory was touched"))
    pair.do("truncate", np.array([1, 3]))
    pair.step()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_blocks_of_every_type_are_cleared_past_a_length(dtype):
    block = Block(STAND_IN, CacheKind(2, 2, 4, dtype), 3, 5)
    block.value.update_inplace(np.full(block.as_float32(), np.nan, np.float32))
    block.keep(np.array([0, 3, 5]))
    left = np.isnan(block.value.numpy()).all(axis=(0, 2, 4))
    assert left.sum(axis=1).tolist() == [0, 3, 5]
    assert left[1].tolist() == [True] * 3 + [False] * 2
    assert not block.value.numpy()[:, 1, :, 3:].any()


def test_groups_step_on_their_own_and_together(runner, judge):
    pair = Pair(runner, judge, 5)
    pair.between(0, 2).step(2)
    pair.between(2, 5).step(60)
    pair.between(2, 5).step(10, EVERYTHING)
    pair.step()
    pair.step(1, EVERYTHING)


def test_a_part_that_is_selected_from_has_rows_of_its_own(runner, judge):
    pair = Pair(runner, judge, 6)
    pair.step(2)
    part = pair.between(2, 5)
    part.do("select", np.array([0, 2]))
    part.step(70)
    part.step()
    other = Pair(runner, judge, 3, seed=5)
    other.step(2)
    part = other.between(1, 3)
    part.do("expand", 2)
    part.step()


def test_no_rows_are_left_behind(runner):
    sources, lengths, _ = random_rows(runner.config, 2)
    state = runner.encode(sources, lengths)
    for _ in range(2):
        state.select(np.array([], np.intp))
    assert state.lengths.tolist() == []


def test_nothing_of_an_earlier_state_is_seen(runner, judge):
    pair = Pair(runner, judge, 3)
    pair.step(40)
    poison = np.full(pair.ours.storage.own.block.as_float32(), np.nan, np.float32)
    pair.ours.storage.own.block.value.update_inplace(poison)
    block = pair.ours.storage.own.block
    del pair
    again = Pair(runner, judge, 4, seed=1)
    assert again.ours.storage.own.block is block
    again.step(2, EVERYTHING)


def test_the_encoder_gives_its_hidden_states_in_parts_or_at_once(runner, judge, monkeypatch):
    sources, lengths, _ = random_rows(runner.config, 7)
    expected = judge.encoder_output(sources, lengths)
    for tokens in (10_000, 2 * 64):
        monkeypatch.setattr("bart_onnx.runners.cuda._ENCODER_TOKENS", tokens)
        found = runner.encoder_output(sources, lengths)
        assert found.dtype == np.float32
        for row, length in enumerate(lengths):
            np.testing.assert_allclose(found[row, :length], expected[row, :length], atol=1e-5)
        Pair(runner, judge, 7).step(2)


def test_positions_beyond_the_model_are_refused(runner):
    limit = runner.config.max_sequence_length
    state = runner.encode(np.zeros((1, limit), np.int64), np.array([limit]))
    runner.step(state, np.zeros((1, limit), np.int64), ())
    with pytest.raises(InputTooLongError, match=f"{limit + 1} tokens; this model has {limit}"):
        runner.step(state, np.zeros((1, 1), np.int64), ())
    with pytest.raises(InputTooLongError, match="encoder"):
        runner.encode(np.zeros((1, limit + 1), np.int64), np.array([limit + 1]))


def test_outputs_come_down_when_they_are_looked_at(runner, monkeypatch):
    sources, lengths, tokens = random_rows(runner.config, 2)
    state = runner.encode(sources, lengths)
    brought = []
    outputs = runner.step(state, tokens[:, :2], (NEXT_TOKEN_IDS, LOGITS))
    monkeypatch.setattr(
        "onnxruntime.OrtValue.numpy", spied(value_numpy(), lambda value: brought.append(value))
    )
    assert outputs[NEXT_TOKEN_IDS].shape == (2, 2)
    assert outputs[NEXT_TOKEN_IDS] is outputs[NEXT_TOKEN_IDS]
    assert len(brought) == 1


def value_numpy():
    from onnxruntime import OrtValue

    return OrtValue.numpy


def test_nothing_is_allocated_in_a_thousand_steps(runner, monkeypatch):
    """Rows are rolled back at the end of the model's positions, and go on."""
    from onnxruntime import InferenceSession, OrtValue

    sources, lengths, tokens = random_rows(runner.config, 4)
    state = runner.encode(sources, lengths)
    state.expand(2)
    made = []

    def go_on(steps):
        for number in range(steps):
            if state.lengths[0] == 90:
                state.truncate(np.full(8, 2))
            fed = np.repeat(tokens[:, number % 90 : number % 90 + 1], 2, axis=0)
            outputs = runner.step(state, fed, (NEXT_TOKEN_IDS,))
            assert outputs[NEXT_TOKEN_IDS].shape == (8, 1)
            # Beams change over at every other step, as between two buffers.
            if number % 2:
                state.select(np.array([1, 0, 2, 3, 4, 5, 7, 6]))

    go_on(100)
    for owner, name in (
        (OrtValue, "ortvalue_from_numpy"),
        (OrtValue, "ortvalue_from_shape_and_type"),
        (InferenceSession, "io_binding"),
    ):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, spied(original, lambda *_, name=name: made.append(name)))
    go_on(1000)
    assert made == []


def test_threads_decode_at_the_same_time(runner, judge):
    failures = []

    def work(seed):
        try:
            pair = Pair(runner, judge, 2 + seed % 2, seed)
            for _ in range(20):
                pair.step()
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_nothing_asks_a_device_while_another_model_does(runner, variant_bundles):
    """Not even for outputs: onnxruntime may be capturing."""
    other = CudaRunner(variant_bundles("untied"), threads=1, placement=STAND_IN)
    sources, lengths, tokens = random_rows(runner.config, 2)
    state = runner.encode(sources, lengths)
    outputs, done = runner.step(state, tokens[:, :1], (LOGITS,)), []

    def work():
        done.append(outputs[LOGITS].shape)
        runner.step(state, tokens[:, 1:2], ())
        done.append("stepped")

    worker = threading.Thread(target=work)
    with other._caches.asking("something"):
        worker.start()
        worker.join(0.2)
        assert not done
    worker.join(60)
    assert done == [(2, 1, runner.config.vocabulary_size), "stepped"]


def test_a_forked_process_is_told_so(runner):
    runner._caches._process = -1
    sources, lengths, _ = random_rows(runner.config, 1)
    with pytest.raises(DeviceError, match="spawn"):
        runner.encode(sources, lengths)


class Capturing(CudaRunner):
    """As if onnxruntime captured graphs: the runs' options are those of a GPU."""

    def __init__(self, bundle):
        super().__init__(bundle, threads=1, placement=STAND_IN)
        self._sessions.captures = True


def graph_number(step):
    return int(step._options.get_run_config_entry("gpu_graph_id"))


def test_every_bound_step_has_a_graph_of_its_own(variant_bundles, judge):
    runner = Capturing(variant_bundles("plain"))
    pair = Pair(runner, judge, 3)
    for count in (2, 1, 1, 4, 18, 1):
        pair.step(count)
    pair.step(1, (NEXT_TOKEN_IDS,))
    other = Pair(runner, judge, 3, seed=1)
    other.step(2)
    numbers = {key[2:]: graph_number(step) for key, step in runner._steps.items()}
    assert numbers.pop((18, OTHERS)) == -1
    assert set(numbers) == {(2, OTHERS), (1, OTHERS), (5, OTHERS), (1, (NEXT_TOKEN_IDS,))}
    numbers = [graph_number(step) for step in runner._steps.values()]
    captured = [number for number in numbers if number >= 0]
    assert len(captured) == 5 == len(set(captured))
    # The blocks of a state that is gone serve the next, with what was captured on them.
    del other
    third = Pair(runner, judge, 3, seed=2)
    third.step(2)
    assert len(runner._steps) == len(numbers)


def test_a_warm_up_takes_the_first_steps(variant_bundles):
    runner = Capturing(variant_bundles("plain"))
    runner.warm_up(3)
    assert {key[2] for key in runner._steps} == {1, 2}
    assert len(runner._steps) == 4


def test_what_fails_while_it_is_captured_runs_without(variant_bundles, monkeypatch, caplog):
    original = CudaRunner.warm_up
    monkeypatch.setattr(CudaSessions, "_opened_step", lambda self: self._opened("decoder_step"))

    def failing(runner, rows):
        if runner._sessions.captures:
            raise DeviceError("operation not permitted when stream is capturing")
        return original(runner, rows)

    monkeypatch.setattr(CudaRunner, "warm_up", failing)
    placement = Placement("cpu", "cpu", captures=True)
    runner = CudaRunner(variant_bundles("plain"), threads=1, placement=placement)
    assert not runner._sessions.captures
    assert "stream is capturing" in caplog.text
    assert {step._options for step in runner._steps.values()} == {None}


def test_where_graphs_cannot_be_captured_steps_run_without(variant_bundles, monkeypatch, caplog):
    from bart_onnx.runners import cuda_sessions

    original, asked = cuda_sessions.open_session, []

    def refusing(path, device, threads, options):
        asked.append((path.stem, options.get("enable_cuda_graph")))
        if "enable_cuda_graph" in options:
            raise DeviceError("This session cannot use the graph capture feature")
        return original(path, device, threads, options)

    monkeypatch.setattr(cuda_sessions, "open_session", refusing)
    placement = Placement("cpu", "cpu", captures=True)
    runner = CudaRunner(variant_bundles("plain"), threads=1, placement=placement)
    assert ("decoder_step", "1") in asked
    assert ("decoder_step", None) in asked
    assert not runner._sessions.captures
    assert "without CUDA graphs" in caplog.text
    sources, lengths, tokens = random_rows(runner.config, 2)
    state = runner.encode(sources, lengths)
    runner.step(state, tokens[:, :1], (LOGITS,))


@pytest.fixture
def small_device(monkeypatch):
    """A device on which allocations of so many numbers or more fail."""
    original = Placement.allocated
    most = [0]

    def allocated(placement, shape, dtype):
        if most[0] and np.prod(shape) >= most[0]:
            raise RuntimeError(NO_ROOM)
        return original(placement, shape, dtype)

    monkeypatch.setattr(Placement, "allocated", allocated)
    return most


def test_too_little_memory_is_told_with_its_numbers(runner, judge, small_device):
    sources, lengths, tokens = random_rows(runner.config, 16)
    small_device[0] = 16 * 4 * 64 * 8
    message = r"16 rows of 64 tokens .*4096 bytes more.*batch_tokens"
    with pytest.raises(DeviceMemoryError, match=message) as caught:
        runner.encode(sources, lengths)
    assert not caught.value.divisible
    # The process goes on.
    pair = Pair(runner, judge, 1)
    pair.step(2)
    small_device[0] = 1
    with pytest.raises(DeviceMemoryError, match=r"(step|caches) of 1 rows"):
        runner.step(pair.ours, tokens[:1, :70], (LOGITS,))
    small_device[0] = 0
    pair.step(3)


def test_blocks_that_nobody_uses_go_before_an_error_comes(runner, monkeypatch):
    sources, lengths, tokens = random_rows(runner.config, 2)
    runner.step(runner.encode(sources, lengths), tokens[:, :1], (LOGITS,))
    assert len(runner._steps) == 1
    original, refused = Placement.allocated, []

    def allocated(placement, shape, dtype):
        if len(shape) == 5 and not refused:
            refused.append(shape)
            raise RuntimeError(NO_ROOM)
        return original(placement, shape, dtype)

    monkeypatch.setattr(Placement, "allocated", allocated)
    state = runner.encode(*random_rows(runner.config, 8)[:2])
    assert refused
    assert not runner._steps
    assert state.rows == 8


def test_other_failures_name_what_was_done(runner, monkeypatch):
    sources, lengths, tokens = random_rows(runner.config, 2)
    state = runner.encode(sources, lengths)

    def broken(placement, shape, dtype):
        raise RuntimeError("CUDA failure 700: an illegal memory access")

    monkeypatch.setattr(Placement, "allocated", broken)
    with pytest.raises(DeviceError, match=r"failed on cpu:0 at a step of 2 rows.*700") as caught:
        runner.step(state, tokens[:, :1], (LOGITS,))
    assert not isinstance(caught.value, DeviceMemoryError)


def test_the_oldest_free_blocks_are_let_go(monkeypatch):
    kind, forgotten = CacheKind(2, 1, 4, "float16"), []
    pool = Pool(STAND_IN, kind, forgotten.append)
    first, second, third = (pool.take(rows, 64, "own") for rows in (1, 2, 3))
    numbers = [lease.block.number for lease in (first, second, third)]
    assert second.block.bytes == 2 * 2 * 64 * 4 * 2
    del first
    del second
    del third
    again = pool.take(2, 64, "own")
    assert again.block.number == numbers[1]
    del again
    assert pool.take(2, 64, "cross").block.number > max(numbers)
    monkeypatch.setattr(blocks, "_KEPT_BYTES", 4 * 2 * 64 * 4 * 2)
    pool.take(4, 64, "own")
    assert forgotten == [numbers[0], numbers[2]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_of_any_type_are_moved_bit_by_bit(dtype):
    kind = CacheKind(6, 2, 8, dtype)
    source, target = Block(STAND_IN, kind, 3, 5), Block(STAND_IN, kind, 4, 9)
    bits = np.random.default_rng(0).integers(0, 256, source.bytes, np.uint8)
    memory(source)[:] = bits
    rows = np.array([2, 0, 0, 1])
    RowMover(STAND_IN).move(source, target, rows)
    item = source.bytes // (6 * 3 * 2 * 5 * 8)
    found = memory(target).reshape(6, 4, 2, 9, 8 * item)
    np.testing.assert_array_equal(found[..., :5, :], bits.reshape(6, 3, 2, 5, -1)[:, rows])
    assert not found[..., 5:, :].any()
    shape, address = target.part(3, 1, 3)
    assert shape == [2, 2, 9, 8]
    assert address == target.address + (3 * 4 + 1) * target.bytes // (6 * 4)


def memory(block):
    """The bytes of a block on the CPU."""
    import ctypes

    pointer = ctypes.cast(block.address, ctypes.POINTER(ctypes.c_uint8))
    return np.ctypeslib.as_array(pointer, (block.bytes,))


def test_half_precision_caches_go_through_the_same_moves(tmp_path, judge):
    directory = tmp_path / "fp16"
    directory.mkdir()
    checkpoint = random_checkpoint(VARIANTS["plain"])
    build("random", "random", checkpoint, "fp16", directory, Progress(shown=False))
    runner = CudaRunner(Bundle.open(directory), threads=1, placement=STAND_IN)
    assert runner._caches.kind.dtype == "float16"
    sources, lengths, tokens = random_rows(runner.config, 5)
    states = [each.encode(sources, lengths) for each in (runner, judge)]

    def step(rows, columns):
        found, expected = (
            np.array(each.step(state, tokens[rows][:, columns], (LOGITS,))[LOGITS])
            for each, state in zip((runner, judge), states, strict=True)
        )
        assert np.abs(found - expected).max() < 2e-2 * np.abs(expected).max()

    step(np.arange(5), slice(0, 62))
    step(np.arange(5), slice(62, 66))
    for state in states:
        state.select(np.array([0, 4, 2]))
        state.expand(2)
        state.select(np.array([1, 0, 2, 2, 5, 4]))
    step(np.array([0, 1, 2, 3, 4, 0]), slice(66, 67))


def test_a_device_says_how_many_rows_it_takes(variant_bundles):
    device = Device("cuda", batch_tokens=500)
    runner = CudaRunner(variant_bundles("plain"), device, threads=1, placement=STAND_IN)
    assert runner.batch_tokens == 500
    assert runner.tokens_at_once == 64
    assert runner.drafts_pay(1)
    assert not runner.drafts_pay(9)

"""DeviceSlots with its placement on the CPU: rows come and go there as in OrtSlots."""

from __future__ import annotations

import numpy as np
import pytest
from device_cases import made_on_device

from bart_onnx.decoding.prompts import fewest_moves
from bart_onnx.errors import DeviceMemoryError, InputError
from bart_onnx.graphs import LOGITS
from bart_onnx.runners import row_moves
from bart_onnx.runners.blocks import Block, CacheKind, Placement
from bart_onnx.runners.cuda import CudaRunner
from bart_onnx.runners.device_caches import Caches
from bart_onnx.runners.device_slots import DeviceSlots
from bart_onnx.runners.device_state import DeviceState
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.runners.row_moves import RowMover

STAND_IN = Placement("cpu", "cpu")
COPIES = pytest.mark.parametrize("copies", [1, 4])


@pytest.fixture
def runner(variant_bundles):
    return CudaRunner(variant_bundles("plain"), threads=1, placement=STAND_IN)


@pytest.fixture
def judge(variant_bundles):
    return OrtRunner(variant_bundles("plain"), threads=1)


class Slots:
    """Slots of several runners, to which the same happens."""

    def __init__(self, *runners, copies=1, seed=0):
        self.runners, self.copies, self.random = runners, copies, np.random.default_rng(seed)
        self.slots = [runner.slots(copies) for runner in runners]
        self.sources = 0

    @property
    def lengths(self):
        return self.slots[0].rows.lengths

    @property
    def room(self):
        return tuple(self.slots[0].rows.storage.room)

    def tokens(self, rows, count):
        return self.random.integers(4, self.runners[0].config.vocabulary_size, (rows, count))

    def join(self, count, longest=24, prompt=0, part=slice(None)):
        """So many are read, with a prompt of so many tokens, and a part of them joins."""
        lengths = self.random.integers(1, longest + 1, count)
        lengths[-1] = longest
        sources, prompts = self.tokens(count, longest), self.tokens(count, prompt)
        first, last, _ = part.indices(count)
        for runner, slots in zip(self.runners, self.slots, strict=True):
            state = runner.encode(sources, lengths)
            if prompt:
                runner.step(state, prompts, ())
            slots.join(state if part == slice(None) else state.between(first, last))
        self.sources += last - first

    def leave(self, *left, shuffled=False):
        """Sources leave, those from the end fill the gaps, and copies may take over."""
        kept = np.ones(self.sources, bool)
        kept[list(left)] = False
        order = fewest_moves(kept)
        copies = np.tile(np.arange(self.copies), (len(order), 1))
        if shuffled:
            copies = self.random.integers(self.copies, size=copies.shape)
        rows = (order[:, None] * self.copies + copies).ravel()
        for slots in self.slots:
            slots.select(rows)
        self.sources = len(order)

    def step(self, count=1):
        """The logits of the first."""
        rows = self.sources * self.copies
        fed = self.tokens(rows, count)
        found = [
            np.array(runner.step(slots.rows, fed, (LOGITS,))[LOGITS])
            for runner, slots in zip(self.runners, self.slots, strict=True)
        ]
        for other, slots in zip(found[1:], self.slots[1:], strict=True):
            np.testing.assert_allclose(found[0], other, atol=5e-5)
            assert slots.rows.lengths.tolist() == self.lengths.tolist()
        assert np.isfinite(found[0]).all()
        return found[0]

    def truncate(self, lengths):
        for slots in self.slots:
            slots.rows.truncate(lengths)

    def go_on(self, fewest, most, longest=24, last=40):
        """One who is at the end leaves, another one or more may leave or come, then all step."""
        chance = self.random.random()
        ended = np.flatnonzero(self.lengths[:: self.copies] >= last) if self.sources else []
        gone = set(ended[: self.sources - fewest])
        if chance < 0.4 and self.sources - len(gone) > fewest:
            gone.add(int(self.random.integers(self.sources)))
        if gone or self.copies > 1:
            self.leave(*gone, shuffled=chance < 0.7)
        if chance > 0.5 or self.sources < fewest:
            count = int(self.random.integers(1, 3))
            if self.sources + count <= most:
                self.join(count, longest)
        for slots in self.slots:
            slots.rows.truncate(np.minimum(slots.rows.lengths, last))
        self.step()


@COPIES
def test_rows_come_and_go_as_on_the_cpu(runner, judge, copies):
    slots = Slots(runner, judge, copies=copies, seed=copies)
    for turn in range(120):
        chance = slots.random.random(4)
        if slots.sources and chance[0] < 0.4:
            left = slots.random.choice(slots.sources, slots.random.integers(1, slots.sources + 1))
            slots.leave(*left[: 2 + 20 * (turn % 30 == 29)], shuffled=True)
        elif slots.sources and copies > 1 and chance[0] < 0.7:
            slots.leave(shuffled=True)
        if slots.sources < 4 or (chance[1] < 0.4 and slots.sources < 20):
            part = slice(None) if chance[2] < 0.5 else slice(1, 3)
            longest = 24 if chance[1] < 0.35 else 90
            slots.join(int(slots.random.integers(3, 6)), longest, 2 * (chance[3] < 0.4), part)
        slots.leave(*np.flatnonzero(slots.lengths[::copies] > 85))
        if not slots.sources:
            continue
        slots.step(2 if chance[3] < 0.8 else 5)
        if chance[3] > 0.5:
            back = slots.random.integers(0, 3, slots.sources * copies)
            slots.truncate(np.maximum(slots.lengths - back, 1))
    assert slots.room[0] >= 16
    assert slots.room[1:] == (128, 128)


@COPIES
def test_a_part_of_what_was_read_joins_with_what_it_was_fed(runner, judge, copies):
    slots = Slots(runner, judge, copies=copies)
    slots.join(6, prompt=3, part=slice(2, 5))
    slots.step()
    slots.join(5, prompt=1, part=slice(4, 5))
    assert slots.lengths.tolist() == [4] * 3 * copies + [1] * copies
    for _ in range(3):
        slots.step()


def test_rows_that_were_fed_prompts_of_unlike_length_join_together(runner, judge):
    slots = Slots(runner, judge, copies=2)
    sources, prompts = slots.tokens(3, 9), slots.tokens(3, 4)
    for each, joining in zip(slots.runners, slots.slots, strict=True):
        state = each.encode(sources, np.array([9, 2, 5]))
        each.step(state.between(0, 1), prompts[:1], ())
        each.step(state.between(1, 3), prompts[1:, :2], ())
        joining.join(state)
    slots.sources = 3
    assert slots.lengths.tolist() == [4, 4, 2, 2, 2, 2]
    for _ in range(3):
        slots.step()


@pytest.fixture
def made(monkeypatch):
    return made_on_device(monkeypatch)


@COPIES
def test_nothing_is_made_while_rows_come_and_go_within_their_room(runner, made, copies):
    slots = Slots(runner, copies=copies)
    slots.join(12)
    for _ in range(200):
        slots.go_on(5, 16)
    assert slots.room == (16, 64, 64)
    assert set(made) >= {"Block", "DeviceStep", "_Move", "_Put"}
    made.clear()
    came = 0
    for _ in range(250):
        before = slots.sources
        slots.go_on(5, 16)
        came += slots.sources != before
    assert came > 60
    # Copies take over from each other between two blocks, to and fro.
    assert set(made) <= ({"Caches"} if copies > 1 else set())


def test_who_joins_costs_two_runs_for_neighbouring_places(runner, monkeypatch):
    slots, runs = Slots(runner, copies=4), []
    original = RowMover.put

    def noted(mover, source, target, rows, first):
        runs.append((target.use.split()[0], len(rows), first))
        original(mover, source, target, rows, first)

    monkeypatch.setattr(RowMover, "put", noted)
    slots.join(8)
    assert runs == [("cross", 8, 0), ("own", 32, 0)]
    slots.leave(2, 3, 6)
    runs.clear()
    slots.join(3)
    assert runs == [("cross", 2, 2), ("cross", 1, 6), ("own", 8, 8), ("own", 4, 24)]
    assert slots.slots[0].rows.places[:8].tolist() == [*range(8)]


# How many sources are there, for how many there is room then, and how many blocks were moved.
ROOMS = {
    1: "1 4 0, 4 4 0, 5 8 2, 17 32 2, 9 32 0, 8 16 2, 16 16 0, 5 16 0, 17 32 2, 4 8 2, 1 8 0",
    4: "1 1 0, 2 2 2, 3 4 2, 2 4 0, 1 2 2, 2 2 0, 1 2 0, 17 32 2, 9 32 0, 8 16 2, 3 8 2, 2 4 2",
}


@COPIES
def test_room_doubles_and_shrinks_when_three_fourths_are_idle(runner, judge, made, copies):
    slots = Slots(runner, judge, copies=copies)

    def comes_to(sources, places, moves):
        made.clear()
        if sources > slots.sources:
            slots.join(sources - slots.sources)
        else:
            slots.leave(*range(slots.sources - sources))
        slots.step()
        assert (slots.room[0], made.count("Caches")) == (places, moves)

    for told in ROOMS[copies].split(", "):
        comes_to(*map(int, told.split()))


def test_room_for_tokens_grows_and_shrinks_around_what_is_in_it():
    kind, random = CacheKind(2, 1, 2, "float32"), np.random.default_rng(0)
    caches = Caches(STAND_IN, kind, False, lambda number: None)
    slots, known = DeviceSlots(caches, 2), []

    def comes(width, capacity, used):
        """A source of so many tokens, with so many in its self cache."""
        lease = caches.for_sources(2, width)
        state = DeviceState(caches, lease, np.array([1, width]), capacity=capacity)
        state.storage.past_lengths[:] = used
        filled = []
        for block in (lease.block, state.storage.own.block):
            array = random.random(block.as_float32(), np.float32)
            block.value.update_inplace(array)
            filled.append(array[:, 1])
        known.append((width, used, *filled))
        slots.join(state.between(1, 2))

    def goes(source):
        del known[source]
        slots.select(np.delete(np.arange(2 * len(known) + 2), [2 * source, 2 * source + 1]))

    def has(*room):
        state = slots.rows
        assert tuple(state.storage.room) == room
        leases = state.storage.cross, state.storage.own
        cross, own = (lease.block.value.numpy() for lease in leases)
        lengths = zip(state.source_lengths, state.lengths[::2], strict=True)
        assert list(lengths) == [(width, used) for width, used, *_ in known]
        for row, place in enumerate(state.places):
            width, used, of_source, of_row = known[row // 2]
            np.testing.assert_array_equal(cross[:, place // 2, :, :width], of_source[:, :, :width])
            np.testing.assert_array_equal(own[:, place, :, :used], of_row[:, :, :used])

    comes(64, 64, 30)
    has(2, 64, 64)
    comes(256, 320, 270)
    has(2, 256, 320)
    comes(128, 64, 60)
    has(4, 256, 320)
    goes(1)
    # Of 256, 128 are half; of 320, 64 are less than a fourth.
    has(4, 256, 128)
    goes(1)
    has(4, 128, 128)
    comes(128, 64, 1)
    comes(320, 128, 100)
    has(4, 320, 128)
    for source in (2, 0, 0):
        goes(source)
    # When none is left, what is there is kept for whoever comes.
    assert slots.rows.storage.room.width == 320
    comes(64, 64, 0)
    has(4, 128, 128)


def spoil(block, rows):
    array = block.value.numpy().copy()
    array[:, rows] = np.nan
    block.value.update_inplace(array)


@COPIES
def test_a_place_that_was_spoiled_and_left_is_as_good_as_new(runner, copies):
    found = []
    for spoiled in (False, True):
        slots = Slots(runner, copies=copies)
        slots.join(4, prompt=2)
        slots.step()
        slots.leave(1)
        if spoiled:
            storage = slots.slots[0].rows.storage
            spoil(storage.cross.block, [1])
            spoil(storage.own.block, range(copies, 2 * copies))
        # It takes part in a step, and is no number after it either.
        logits = [slots.step()]
        slots.join(1, longest=9)
        assert slots.slots[0].rows.places[-copies:].tolist() == [*range(copies, 2 * copies)]
        logits += [slots.step(count) for count in (1, 2, 1)]
        slots.truncate(slots.lengths - 2)
        found.append([*logits, slots.step()])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@COPIES
def test_what_a_rejected_draft_has_spoiled_is_well_again(runner, judge, copies):
    slots = Slots(runner, judge, copies=copies)
    slots.join(3, prompt=1)
    slots.step(5)
    state = slots.slots[0].rows
    array = state.storage.own.block.value.numpy().copy()
    array[:, :, :, 4:] = np.nan
    state.storage.own.block.value.update_inplace(array)
    state.spoil()
    slots.truncate(np.full(3 * copies, 4))
    # Who joins takes nothing of it along, and brings nothing.
    slots.join(2)
    assert not state.storage.is_spoiled
    for _ in range(3):
        slots.step()


def test_what_a_draft_has_spoiled_of_who_joins_is_well_again(runner, judge):
    slots = Slots(runner, judge)
    slots.join(2)
    sources, prompts = slots.tokens(2, 9), slots.tokens(2, 5)
    for each, joining in zip(slots.runners, slots.slots, strict=True):
        state = each.encode(sources, np.array([9, 4]))
        each.step(state, prompts, ())
        if each is runner:
            array = state.storage.own.block.value.numpy().copy()
            array[:, :, :, 3:] = np.nan
            state.storage.own.block.value.update_inplace(array)
            state.spoil()
        joining.join(state)
    slots.sources = 4
    slots.truncate(np.array([0, 0, 3, 3]))
    slots.step()


def test_a_join_without_room_leaves_those_in_use_as_they_were(runner, judge, monkeypatch):
    slots = Slots(runner, judge)
    slots.join(4)
    slots.step()
    joining = runner.encode(slots.tokens(5, 6), np.full(5, 6))
    original, kind = Placement.allocated, runner._caches.kind
    most = 8 * 64 * kind.tensors * kind.heads * kind.width

    def allocated(placement, shape, dtype):
        if len(shape) == 5 and np.prod(shape) > most:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 4096")
        return original(placement, shape, dtype)

    monkeypatch.setattr(Placement, "allocated", allocated)
    with pytest.raises(DeviceMemoryError, match=r"16 (sources|rows)"):
        slots.slots[0].join(joining)
    slots.step()
    slots.leave(0, 2)
    slots.step()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_of_any_type_are_put_bit_by_bit_among_others(dtype):
    kind = CacheKind(6, 2, 8, dtype)
    source, target = Block(STAND_IN, kind, 3, 5), Block(STAND_IN, kind, 4, 9)
    random = np.random.default_rng(0)
    for block in (source, target):
        bits = random.integers(0, 1 << 32, block.as_float32(), np.uint64).astype(np.uint32)
        block.value.update_inplace(bits.view(np.float32))
    before = target.value.numpy().copy().view(np.uint32)
    RowMover(STAND_IN).put(source, target, np.array([2, 0]), 1)
    found = target.value.numpy().view(np.uint32)
    np.testing.assert_array_equal(found[:, [0, 3]], before[:, [0, 3]])
    expected = source.value.numpy().view(np.uint32)[:, [2, 0]]
    np.testing.assert_array_equal(found[:, 1:3, :, :5], expected)
    assert not found[:, 1:3, :, 5:].any()


def test_what_is_bound_to_a_block_goes_with_it_and_nothing_else():
    kind, mover = CacheKind(2, 1, 2, "float32"), RowMover(STAND_IN)
    source = Block(STAND_IN, kind, 64, 4)
    target = Block(STAND_IN, kind, 64, 4)
    count = next(rows for rows in range(1, 65) if rows not in (source.number, target.number))
    mover.put(source, target, np.arange(count), 0)
    # A number of rows is no block's number.
    mover.forget(count)
    assert len(mover._puts) == 1
    mover.forget(target.number)
    assert not mover._puts


def test_of_what_was_put_the_latest_bindings_are_kept(monkeypatch):
    monkeypatch.setattr(row_moves, "_KEPT_PUTS", 2)
    kind, mover = CacheKind(2, 1, 2, "float32"), RowMover(STAND_IN)
    source, target = Block(STAND_IN, kind, 4, 4), Block(STAND_IN, kind, 4, 4)
    for count in (1, 2, 1, 3):
        mover.put(source, target, np.arange(count), 0)
    assert [key[2] for key in mover._puts] == [1, 3]


def test_a_source_has_one_place(runner, judge):
    slots = Slots(runner, judge, copies=1)
    slots.join(3)
    with pytest.raises(InputError, match=r"Rows \[1, 1\] name a source twice"):
        slots.slots[0].select(np.array([1, 1]))


def test_who_brings_no_rows_changes_nothing(runner, judge, made):
    slots = Slots(runner, judge, copies=1)
    slots.join(3)
    made.clear()
    state = runner.encode(np.full((2, 5), 7), np.array([5, 5]))
    slots.slots[0].join(state.between(1, 1))
    assert slots.slots[0].rows.rows == 3


def test_idle_room_is_not_taken_along_where_one_size_grows():
    caches = Caches(STAND_IN, CacheKind(2, 1, 2, "float32"), False, lambda number: None)
    slots = DeviceSlots(caches, 1)

    def join(sources, width):
        lease = caches.for_sources(sources, width)
        slots.join(DeviceState(caches, lease, np.full(sources, width)))

    join(80, 64)
    slots.select(np.arange(25))
    assert slots.rows.storage.room.places == 96
    join(1, 1024)
    assert slots.rows.storage.room[:2] == (32, 1024)


def test_many_are_put_some_at_a_time(runner, judge, monkeypatch):
    slots, runs = Slots(runner, judge, copies=1), []
    original = RowMover.put

    def noted(mover, source, target, rows, first):
        runs.append((target.use.split()[0], len(rows), first))
        original(mover, source, target, rows, first)

    monkeypatch.setattr(RowMover, "put", noted)
    monkeypatch.setattr("bart_onnx.runners.device_caches._PUT_BYTES", 1)
    slots.join(3)
    assert runs == [(use, 1, first) for use in ("cross", "own") for first in range(3)]
    slots.step()


def test_a_block_that_could_not_be_moved_is_refused():
    kind = CacheKind(24, 16, 64, "float32")
    with pytest.raises(DeviceMemoryError, match=r"128 rows of 1152 tokens take 14,495,514,624 by"):
        Block(STAND_IN, kind, 128, 1152)

"""What only a GPU can show of serving: rows that join and leave there are those of the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from device_cases import made_on_device, words
from scheduling import assert_words_are_those_alone, kept_busy

from bart_onnx.graphs import LOGITS
from bart_onnx.runners.gpus import gpus

pytestmark = pytest.mark.gpu


def test_words_in_mixed_traffic_are_those_of_the_cpu(on_gpu, on_cpu):
    assert_words_are_those_alone(on_gpu, on_cpu, words(90))


def test_nothing_is_made_while_requests_come_and_go(on_gpu, monkeypatch):
    made = made_on_device(monkeypatch)
    loads = kept_busy(on_gpu, words(1000), rows=12)
    for _ in range(200):
        next(loads)
    assert {"Block", "DeviceStep"} <= set(made)
    made.clear()
    before = gpus()[0].free_bytes
    running = [load.running for load in loads]
    assert len(set(running)) > 1
    # How many come together to which places differs still.
    assert set(made) <= {"_Put"}
    # Other processes on the card may take or give some.
    assert abs(gpus()[0].free_bytes - before) < 64 << 20


@pytest.mark.parametrize("copies", [1, 4])
def test_rows_that_join_and_leave_are_those_of_the_cpu(on_gpu, on_cpu, copies):
    runners = on_gpu.runner, on_cpu.runner
    random = np.random.default_rng(copies)
    slots = [runner.slots(copies) for runner in runners]

    def tokens(rows, count):
        return random.integers(4, runners[0].config.vocabulary_size, (rows, count))

    def join(count, longest):
        sources, lengths = tokens(count, longest), random.integers(1, longest + 1, count)
        for runner, each in zip(runners, slots, strict=True):
            each.join(runner.encode(sources, lengths).between(1, count))

    def step(count):
        rows = len(slots[0].rows.lengths)
        fed = tokens(rows, count)
        found, expected = (
            np.array(runner.step(each.rows, fed, (LOGITS,))[LOGITS])
            for runner, each in zip(runners, slots, strict=True)
        )
        np.testing.assert_allclose(found, expected, atol=2e-3)

    def keep(sources):
        rows = [source * copies + copy for source in sources for copy in range(copies)[::-1]]
        for each in slots:
            each.select(np.array(rows, np.intp))

    join(5, 20)
    step(2)
    keep([0, 3, 2])
    step(1)
    join(3, 40)
    step(1)
    # More places, then a wider block where the model reads as much.
    join(9, min(80, runners[0].config.max_sequence_length))
    step(5)
    for each in slots:
        each.rows.truncate(each.rows.lengths - 3)
    step(1)
    keep([12, 1])
    step(1)
    keep([])
    join(2, 7)
    step(2)

"""The scheduler and the server on CudaRunner, its placement on the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from device_cases import made_on_device, preset, words
from scheduling import (
    OPTIONS,
    alone,
    assert_alike,
    assert_words_are_those_alone,
    by_hand,
    decoded,
    kept_busy,
    plan_of_source,
    real_plan,
    text_plan,
)

from bart_onnx.errors import DecodingError
from bart_onnx.runners.blocks import Placement
from bart_onnx.runners.cuda import CudaRunner
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.server.limits import Limits
from bart_onnx.server.requests import Request

STAND_IN = Placement("cpu", "cpu")


@pytest.fixture(scope="module")
def runner(variant_bundles):
    return CudaRunner(variant_bundles("plain"), threads=1, placement=STAND_IN)


@pytest.fixture(scope="module")
def judge(variant_bundles):
    return OrtRunner(variant_bundles("plain"), threads=1)


@pytest.fixture(scope="module")
def on_cpu():
    return preset(threads=1)


@pytest.fixture(scope="module")
def on_device():
    lm = preset(threads=1)
    lm.backbone._runnable._runner = CudaRunner(lm.runner.bundle, threads=1, placement=STAND_IN)
    return lm


@pytest.mark.parametrize("seed", range(3))
def test_mixed_traffic_gives_the_tokens_of_each_request_alone(runner, judge, seed):
    random = np.random.default_rng(seed)
    scheduler = by_hand(runner, Limits(rows=24, encoder_tokens=100))
    kinds = random.integers(len(OPTIONS), size=40).tolist()
    lengths = random.integers(6, 80, len(kinds)).tolist()
    plans = [
        real_plan(runner, random, **{**OPTIONS[kind], "max_length": length})
        for kind, length in zip(kinds, lengths, strict=True)
    ]
    tickets, widest = decoded(scheduler, plans, random, turns=60, cancels=True)
    assert widest > 12
    answered = [(ticket, plan) for ticket, plan in tickets if not ticket.cancelled]
    assert len(answered) > 25
    for ticket, plan in answered:
        assert_alike(ticket.result(0), alone(judge, plan)[0])


def test_drafts_of_a_lane_are_verified_and_taken_back(runner, judge):
    random = np.random.default_rng(3)
    scheduler = by_hand(runner, Limits(rows=8))
    # What this model repeats, it finds in such sources.
    sources = np.repeat(random.choice([8, 60, 93], (24, 8)), 5, axis=1)
    options = {"speculate": True, "max_length": 70, "eos_token_id": ()}
    plans = [plan_of_source(runner, source, **options) for source in sources]
    tickets, _ = decoded(scheduler, plans, random, turns=40)
    statistics = [ticket.statistics for ticket, _ in tickets]
    accepted = sum(each.accepted_tokens for each in statistics)
    assert sum(each.drafted_tokens for each in statistics) - 500 > accepted > 500
    for ticket, plan in tickets:
        assert_alike(ticket.result(0), alone(judge, plan)[0])


def test_nothing_not_finite_stays_at_a_place(runner, judge):
    random = np.random.default_rng(7)
    scheduler = by_hand(runner)
    plans = [real_plan(runner, random, max_length=30) for _ in range(6)]
    bad, good = (scheduler.submit(Request(plan)) for plan in plans[:2])
    scheduler.turn()
    (lane,) = scheduler._engine._lanes.values()
    state = lane._slots.rows
    block = state.storage.own.block
    array = block.value.numpy().copy()
    array[:, state.places[0], :, : int(state.lengths[0])] = np.nan
    block.value.update_inplace(array)
    while not bad.done:
        scheduler.turn()
    with pytest.raises(DecodingError, match="not finite"):
        bad.result(0)
    tickets = [scheduler.submit(Request(plan)) for plan in plans[2:]]
    scheduler.drain()
    for ticket, plan in zip([good, *tickets], plans[1:], strict=True):
        assert_alike(ticket.result(0), alone(judge, plan)[0])


def test_words_in_mixed_traffic_are_those_alone(on_device, on_cpu):
    assert_words_are_those_alone(on_device, on_cpu, words(45))


def test_nothing_is_made_while_requests_come_and_go(on_device, monkeypatch):
    made = made_on_device(monkeypatch)
    loads = kept_busy(on_device, words(240), rows=12)
    for _ in range(120):
        next(loads)
    assert {"Block", "DeviceStep"} <= set(made)
    made.clear()
    running = [load.running for load in loads]
    assert len(running) > 100
    assert len(set(running)) > 1
    # How many come together to which places differs still.
    assert set(made) <= {"_Put"}


def test_traffic_that_swings_binds_few_steps(on_device, monkeypatch):
    """Each may be a captured graph, which onnxruntime keeps."""
    made, random = made_on_device(monkeypatch), np.random.default_rng(1)
    scheduler, counts = by_hand(on_device.runner, Limits(rows=48)), []
    for number, word in enumerate(words(600)):
        options = OPTIONS[random.integers(len(OPTIONS))]
        scheduler.submit(Request(text_plan(on_device, word, **options)))
        most = 24 + 22 * np.sin(number / 30)
        while scheduler.load.running + scheduler.load.waiting >= most:
            scheduler.turn()
        if number in (299, 599):
            counts.append(made.count("DeviceStep"))
    scheduler.drain()
    assert counts[1] - counts[0] < 15
    assert counts[1] < 80


def test_a_model_is_served_on_a_device(client, monkeypatch):
    pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")
    from fastapi.testclient import TestClient
    from serving import NAME, OPTIONS

    from bart_onnx.server.app import create_app
    from bart_onnx.server.served import close, opened

    monkeypatch.setattr("bart_onnx.runners.cuda.cuda_placement", lambda *_: STAND_IN)
    options = replace(OPTIONS, device="cuda:1", speculation=True)
    models = opened(options)
    try:
        assert models[NAME].lm.runner.device == "cuda"
        on_device = TestClient(create_app(models, options))
        for asked in (
            {"prompt": words(5)},
            {"prompt": "alignment", "num_beams": 4, "n": 2, "alignments": True},
            {"prompt": "sampling", "temperature": 1.2, "seed": 4, "n": 2},
        ):
            answers = [
                each.post("/v1/completions", json={"model": NAME, **asked})
                for each in (on_device, client)
            ]
            found, expected = (answer.json()["choices"] for answer in answers)
            assert [each["text"] for each in found] == [each["text"] for each in expected]
            assert ("alignments" in found[0]) == ("alignments" in asked)
    finally:
        close(models)

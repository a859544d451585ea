"""What tests of the scheduler share: many kinds of requests, and turns that are taken by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.configured import Asked, ConfiguredCall, Plan
from bart_onnx.decoding.decode import decode
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.results import Report
from bart_onnx.server.limits import Limits, Load
from bart_onnx.server.requests import Request, Ticket
from bart_onnx.server.scheduler import Scheduler

IDLE = Load(0, 0, 0, 0)

OPTIONS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3, "min_length": 5},
    {"no_repeat_ngram_size": 2, "forced_bos_token_id": 5},
    {"do_sample": True, "temperature": 1.3, "seed": 3},
    {"do_sample": True, "top_k": 4, "num_return_sequences": 3, "seed": 8},
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0},
    {"num_beams": 3, "do_sample": True, "seed": 11},
    {"num_beams": 2, "early_stopping": "never", "no_repeat_ngram_size": 2},
]

Random = np.random.Generator
Ids = NDArray[np.int64]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def by_hand(runner: Any, limits: Limits | None = None, clock: Clock | None = None) -> Scheduler:
    return Scheduler(runner, limits or Limits(), clock=clock or Clock(), threaded=False)


def alone(runner: Any, plan: Plan, row: int = 0) -> tuple[Any, str | None]:
    """What an ordinary call gives for a row: what it found, or why it failed."""
    found: dict[int, Any] = {}
    failed: dict[int, str] = {}
    for search in decode(runner, plan.prompts, plan.limits, plan.task):
        found |= search.finished
        failed |= search.failed
    return found.get(row), failed.get(row)


def real_plan(runner: Any, random: Random, **options: Any) -> Plan:
    """A call of one random source, of 3 to 59 of `tiny_models.TINY`'s tokens."""
    length = int(random.integers(3, 60))
    return plan_of_source(runner, random.integers(4, 101, length), **options)


def plan_of_source(runner: Any, ids: Ids, speculate: bool = False, **options: Any) -> Plan:
    """A call of one source, int64 [length]."""
    asked = DecodingOptions(**{"eos_token_id": 2, "decoder_start_token_id": 2, **options})
    call = ConfiguredCall(runner, None, Asked(asked, report=Report(3), speculate=speculate))
    inputs = {"encoder_token_ids": ids[None], "encoder_padding_mask": np.ones((1, len(ids)), bool)}
    return call.plan(call.from_arrays(inputs))


def decoded(
    scheduler: Scheduler, plans: list[Plan], random: Random, turns: int, cancels: bool = False
) -> tuple[list[tuple[Ticket, Plan]], int]:
    """These requests, each come at one of so many turns, at some of which one may be cancelled.

    Returns:
        Their tickets, and how many rows there were at most.
    """
    waiting = sorted((int(random.integers(turns)), place) for place in range(len(plans)))
    tickets: list[tuple[Ticket, Plan]] = []
    turn = widest = 0
    while waiting or scheduler.load != IDLE:
        while waiting and waiting[0][0] <= turn:
            plan = plans[waiting.pop(0)[1]]
            tickets.append((scheduler.submit(Request(plan)), plan))
        scheduler.turn()
        widest = max(widest, scheduler.load.rows)
        if cancels and turn % 13 == 0 and tickets:
            tickets[random.integers(len(tickets))][0].cancel()
        turn += 1
    return tickets, widest


def text_plan(lm: Any, text: str, **options: Any) -> Plan:
    """A call of one text."""
    call = ConfiguredCall(lm.runner, lm.preprocessor, lm.by_config(options=options))
    return call.plan(call.from_texts([text]))


def assert_alike(found: Sequence[Any], expected: Sequence[Any]) -> None:
    """The same sequences, scored alike: devices differ in the last bits."""
    assert [each.token_ids.tolist() for each in found] == [
        each.token_ids.tolist() for each in expected
    ]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.finish_reason == theirs.finish_reason
        np.testing.assert_allclose(ours.score, theirs.score, atol=1e-3)


def assert_words_are_those_alone(ours: Any, theirs: Any, texts: Sequence[str]) -> None:
    """Words asked of one model in traffic of all kinds are those of another, asked alone."""
    random = np.random.default_rng(2)
    kinds = [OPTIONS[number % len(OPTIONS)] for number in range(len(texts))]
    asked = list(zip(texts, kinds, strict=True))
    scheduler = by_hand(ours.runner, Limits(rows=24))
    plans = [text_plan(ours, text, **options) for text, options in asked]
    expected = [alone(theirs.runner, text_plan(theirs, text, **kind))[0] for text, kind in asked]
    by_plan = {id(plan): found for plan, found in zip(plans, expected, strict=True)}
    tickets, widest = decoded(scheduler, plans, random, turns=60)
    assert widest > 12
    for ticket, plan in tickets:
        assert_alike(ticket.result(0), by_plan[id(plan)])


def kept_busy(lm: Any, texts: Iterable[str], rows: int) -> Iterator[Load]:
    """The load after each turn of a scheduler that is asked a text more whenever one has ended."""
    scheduler = by_hand(lm.runner)
    for text in texts:
        scheduler.submit(Request(text_plan(lm, text)))
        while scheduler.load.running + scheduler.load.waiting >= rows:
            scheduler.turn()
            yield scheduler.load
    scheduler.close()

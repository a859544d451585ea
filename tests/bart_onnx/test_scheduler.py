"""The scheduler: whatever is mixed, each request gives what it gives alone, and no row stays."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scheduling import IDLE, OPTIONS, Clock, alone, by_hand, decoded, real_plan
from tiny_models import TINY, export_checkpoint, random_checkpoint
from toy_runner import END, ToyRunner, config, random_prompts, some, what_follows

from bart_onnx.bundle import Bundle
from bart_onnx.configured import ConfiguredCall, Plan
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.decoding.prompts import Prompts
from bart_onnx.decoding.scoring import Scoring
from bart_onnx.decoding.tasks import Task
from bart_onnx.errors import (
    DeadlineError,
    DecodingError,
    EngineError,
    InputError,
    QueueFullError,
    RequestCancelledError,
    SchedulerClosedError,
)
from bart_onnx.graphs import LOG_SUM_EXP, LOGITS
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.samplers.draws import Draws
from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM
from bart_onnx.server.limits import Limits
from bart_onnx.server.requests import Request
from bart_onnx.server.scheduler import Scheduler
from bart_onnx.server.waiting import Held

CONFIG = config()


def plan_of(prompts, **options):
    """One row of a call on the toy model."""
    asked = DecodingOptions(**{"max_length": 10, "eos_token_id": END, **options})
    draws = Draws(asked.seed).next_call() if asked.do_sample else None
    scoring = Scoring(asked, CONFIG.vocabulary_size)
    task = Task(asked, scoring, draws=draws, log_probs=True, top_log_probs=2, speculate=False)
    limits = np.array([asked.limit(int(each), 64) for each in prompts.prompt_lengths])
    return Plan(prompts, limits, task, {})


def toy_plan(number, **options):
    return plan_of(some(random_prompts(1, seed=number, width=64), [0]), **options)


def told(hypotheses):
    """All that is known of sequences, to the last bit."""
    return [
        (
            each.token_ids.tolist(),
            each.prompt_length,
            each.finish_reason,
            np.float64(each.score).tobytes(),
            each.log_probs.tobytes(),
            None if each.top_ids is None else each.top_ids.tolist(),
            None if each.top_log_probs is None else each.top_log_probs.tobytes(),
            each.steps,
        )
        for each in hypotheses
    ]


def rows_of(scheduler):
    """The caches that are in use, in rows."""
    lanes = scheduler._engine._lanes.values()
    return sum(len(lane._slots.rows.histories) for lane in lanes)


def mixed_traffic(seed, count):
    """Seeds and options of requests, and the turns at which they come."""
    random = np.random.default_rng(seed)
    for number in range(count):
        options = dict(OPTIONS[random.integers(len(OPTIONS))])
        options["max_length"] = int(random.integers(5, 30))
        yield int(random.integers(0, 60)), 1000 * seed + number, options, random


@pytest.mark.parametrize("seed", range(4))
def test_mixed_traffic_gives_what_each_request_gives_alone(seed):
    runner = ToyRunner(CONFIG)
    limits = Limits(cache_tokens=400, rows=12, encoder_tokens=6)
    scheduler, waiting, tickets = by_hand(runner, limits), [], []
    for turn, number, options, random in mixed_traffic(seed, 60):
        plan = toy_plan(number, **options)
        waiting.append((turn, Request(plan, priority=int(random.integers(3))), random.random()))
    waiting.sort(key=lambda each: each[0])
    turn = 0
    while waiting or scheduler.load != IDLE:
        while waiting and waiting[0][0] <= turn:
            _, request, fate = waiting.pop(0)
            tickets.append((scheduler.submit(request), request, fate, turn))
        scheduler.turn()
        load = scheduler.load
        assert load.cache_tokens <= 400
        assert load.rows <= 12
        for ticket, _, fate, came in tickets:
            if fate < 0.2 and turn == came + int(fate * 50):
                ticket.cancel()
        turn += 1
    scheduler.turn()
    assert rows_of(scheduler) == 0
    finished = 0
    for ticket, request, fate, _ in tickets:
        if fate < 0.2:
            continue
        assert told(ticket.result(0)) == told(alone(ToyRunner(CONFIG), request.plan)[0])
        finished += 1
    assert finished > 30


def test_requests_of_one_kind_share_a_search_and_others_a_step():
    runner = ToyRunner(CONFIG)
    scheduler = by_hand(runner)
    kinds = [{}, {"max_length": 7}, {"repetition_penalty": 1.5}, {"do_sample": True, "seed": 1}]
    for seed in range(16):
        scheduler.submit(Request(toy_plan(seed, eos_token_id=(), **kinds[seed % 4])))
    scheduler.turn()
    (lane,) = scheduler._engine._lanes.values()
    assert len(lane.members) == 3
    assert runner.steps[-1] == (16, 1)
    scheduler.drain()


def test_a_cancelled_request_leaves_before_the_next_step():
    runner = ToyRunner(CONFIG)
    scheduler = by_hand(runner)
    options = {"max_length": 40, "eos_token_id": ()}
    tickets = [scheduler.submit(Request(toy_plan(seed, **options))) for seed in range(6)]
    scheduler.turn()
    assert runner.steps[-1] == (6, 1)
    tickets[1].cancel()
    tickets[4].cancel()
    scheduler.turn()
    assert runner.steps[-1] == (4, 1)
    assert rows_of(scheduler) == 4
    with pytest.raises(RequestCancelledError):
        tickets[1].result(0)
    scheduler.drain()
    for seed in (0, 2, 3, 5):
        expected = alone(ToyRunner(CONFIG), toy_plan(seed, **options))[0]
        assert told(tickets[seed].result(0)) == told(expected)


def test_a_thousand_clients_that_leave_early_leave_no_row_behind():
    scheduler = by_hand(ToyRunner(CONFIG), Limits(waiting=1000, rows=32, encoder_tokens=40))
    random = np.random.default_rng(0)
    plans = [toy_plan(seed, max_length=30, eos_token_id=(), **OPTIONS[seed]) for seed in range(9)]
    tickets, left = [], set()
    while len(left) < 1000:
        for _ in range(min(40, 1000 - len(tickets))):
            tickets.append(scheduler.submit(Request(plans[random.integers(9)])))
        scheduler.turn()
        for number in random.choice(len(tickets), min(60, len(tickets)), replace=False).tolist():
            tickets[number].cancel()
            left.add(number)
        assert scheduler.load.rows <= 32
    scheduler.turn()
    assert scheduler.load == IDLE
    assert rows_of(scheduler) == 0
    assert all(ticket.done for ticket in tickets)


def test_a_late_request_fails_and_frees_its_row():
    clock, runner = Clock(), ToyRunner(CONFIG)
    scheduler = by_hand(runner, Limits(rows=1), clock)
    long = {"max_length": 40, "eos_token_id": ()}
    running = scheduler.submit(Request(toy_plan(1, **long), deadline=5))
    waiting = scheduler.submit(Request(toy_plan(2, **long), deadline=3))
    third = scheduler.submit(Request(toy_plan(3)))
    scheduler.turn()
    clock.now = 4
    scheduler.turn()
    with pytest.raises(DeadlineError, match="3 s, which passed while it waited"):
        waiting.result(0)
    assert not running.done
    clock.now = 5
    scheduler.turn()
    with pytest.raises(TimeoutError, match="being decoded"):
        running.result(0)
    scheduler.drain()
    assert told(third.result(0)) == told(alone(ToyRunner(CONFIG), toy_plan(3))[0])
    assert third.statistics.started == 5


def test_each_deadline_counts_wherever_its_request_is():
    clock = Clock()
    scheduler = by_hand(ToyRunner(CONFIG), Limits(rows=4), clock)
    long = {"max_length": 60, "eos_token_id": ()}
    # The first four run, the others wait.
    deadlines = [5, 9, None, 7, 8, 6, None, 100]
    tickets = [
        scheduler.submit(Request(toy_plan(seed, **long), deadline=deadline))
        for seed, deadline in enumerate(deadlines)
    ]
    scheduler.turn()
    for now in range(1, 12):
        clock.now = now
        scheduler.turn()
        late = {place for place, each in enumerate(deadlines) if each is not None and each <= now}
        assert {place for place, ticket in enumerate(tickets) if ticket.done} == late
    scheduler.drain()
    for place in (2, 6, 7):
        expected = alone(ToyRunner(CONFIG), toy_plan(place, **long))[0]
        assert told(tickets[place].result(0)) == told(expected)


def test_who_is_cancelled_while_others_are_told_leaves_before_the_next_step():
    runner = ToyRunner(CONFIG)
    scheduler = by_hand(runner)
    long = {"max_length": 40, "eos_token_id": ()}
    victims, steps = [], []

    def listener(update):
        if victims and len(update.token_ids) > 8:
            victims.pop().cancel()
            steps.append(len(runner.steps))

    plan = toy_plan(0, **long)
    scheduler.submit(Request(plan, listener=listener))
    tickets = [scheduler.submit(Request(toy_plan(seed, **long))) for seed in range(1, 5)]
    victims += tickets[:3]
    scheduler.drain()
    assert [runner.steps[step][0] for step in steps] == [4, 3, 2]
    assert [ticket.cancelled for ticket in tickets] == [True, True, True, False]
    assert told(tickets[3].result(0)) == told(alone(ToyRunner(CONFIG), toy_plan(4, **long))[0])


@pytest.mark.parametrize("batching", ["leaving", "static"])
def test_rows_of_batches_join_when_none_runs(batching):
    runner = ToyRunner(CONFIG)
    limits = Limits(rows=4, encoder_tokens=1, batching=batching)
    scheduler, tickets = by_hand(runner, limits), []
    plans = [toy_plan(seed, max_length=6 + seed, eos_token_id=()) for seed in range(10)]
    tickets += [scheduler.submit(Request(plan)) for plan in plans[:2]]
    scheduler.turn()
    tickets += [scheduler.submit(Request(plan)) for plan in plans[2:]]
    running, answered = [2], []
    while scheduler.turn():
        running.append(scheduler.load.rows)
        answered.append(sum(ticket.done for ticket in tickets))
    # All of a batch at once, or each when it ends; they are of different lengths.
    counts = [0, 2, 6] if batching == "static" else list(range(1, 10))
    assert sorted(set(answered)) == counts
    # Who ends leaves; who waits joins when the last has left, as many as there is room for.
    starts = [now for before, now in pairwise(running) if now > before]
    assert starts == [4, 4]
    assert 0 in running
    for ticket, plan in zip(tickets, plans, strict=True):
        assert told(ticket.result(0)) == told(alone(ToyRunner(CONFIG), plan)[0])


def test_a_static_batch_that_is_dropped_keeps_no_answers_back():
    runner = ToyRunner(CONFIG)
    scheduler = by_hand(runner, Limits(rows=2, encoder_tokens=64, batching="static"))
    short, long = (
        toy_plan(0, max_length=12, eos_token_id=()),
        toy_plan(1, max_length=40, eos_token_id=()),
    )
    first, last = (scheduler.submit(Request(plan)) for plan in (short, long))
    while scheduler.load.running > 1 or not scheduler.load.running:
        scheduler.turn()
    next_ones = [
        scheduler.submit(Request(toy_plan(seed, max_length=30, eos_token_id=()))) for seed in (2, 3)
    ]
    assert not first.done
    last.cancel()
    scheduler.turn()
    assert told(first.result(0)) == told(alone(ToyRunner(CONFIG), short)[0])
    assert not any(ticket.done for ticket in next_ones)
    scheduler.drain()
    assert all(ticket.done for ticket in next_ones)


def test_shorter_sources_are_encoded_apart_where_that_saves_padding():
    class Noting(ToyRunner):
        def encode(self, token_ids, lengths):
            shapes.append(token_ids.shape)
            return super().encode(token_ids, lengths)

    def plan(length):
        prompts = Prompts(
            np.arange(length)[None] % 13, np.array([length]), np.full((1, 4), 0), np.array([1])
        )
        return plan_of(prompts, max_length=4)

    shapes, scheduler = [], by_hand(Noting(CONFIG))
    for length in (10, 60, 11, 58, 12, 9, 20):
        scheduler.submit(Request(plan(length)))
    scheduler.drain()
    assert shapes == [(2, 60), (5, 20)]


def test_the_smaller_priority_goes_first():
    scheduler = by_hand(ToyRunner(CONFIG), Limits(rows=1))
    tickets = [
        scheduler.submit(Request(toy_plan(seed), priority=priority))
        for seed, priority in enumerate((2, 1, 1, 0))
    ]
    order = []
    while scheduler.turn():
        order += [n for n, ticket in enumerate(tickets) if ticket.done and n not in order]
    order += [n for n, ticket in enumerate(tickets) if n not in order]
    assert order == [3, 1, 2, 0]


def test_a_large_request_is_passed_so_often_and_no_more():
    scheduler = by_hand(ToyRunner(CONFIG), Limits(rows=4))
    plans = [toy_plan(seed, max_length=8 + seed % 9, eos_token_id=()) for seed in range(60)]
    tickets = [scheduler.submit(Request(plans[8]))]
    scheduler.turn()
    large = scheduler.submit(Request(toy_plan(5, num_beams=4, max_length=8)))
    tickets += [scheduler.submit(Request(plan)) for plan in plans]
    while not large.done:
        scheduler.turn()
    # It is passed by 16, and by those that were there before.
    assert sum(ticket.done for ticket in tickets) == 17
    scheduler.drain()


def test_a_full_queue_says_when_to_ask_again():
    clock = Clock()
    scheduler = by_hand(ToyRunner(CONFIG), Limits(waiting=3, rows=1), clock)
    for seed in range(3):
        scheduler.submit(Request(toy_plan(seed)))
    with pytest.raises(QueueFullError, match="3 requests") as refused:
        scheduler.submit(Request(toy_plan(4)))
    assert refused.value.retry_after == 1
    scheduler.turn()
    scheduler.submit(Request(toy_plan(5)))
    while len(scheduler._waiting) > 2:
        clock.now += 10
        scheduler.turn()
    scheduler.submit(Request(toy_plan(6)))
    clock.now += 20
    with pytest.raises(QueueFullError) as refused:
        scheduler.submit(Request(toy_plan(7)))
    assert refused.value.retry_after == 30
    scheduler.drain()
    by_tokens = by_hand(ToyRunner(CONFIG), Limits(waiting_tokens=4))
    three_tokens = next(
        plan for plan in map(toy_plan, range(20)) if plan.prompts.encoder_lengths[0] == 3
    )
    by_tokens.submit(Request(three_tokens))
    with pytest.raises(QueueFullError, match="3 source tokens"):
        by_tokens.submit(Request(three_tokens))


def test_a_request_that_can_never_fit_is_refused():
    scheduler = by_hand(ToyRunner(CONFIG), Limits(cache_tokens=50))
    with pytest.raises(InputError, match="50 in all"):
        scheduler.submit(Request(toy_plan(1, num_beams=8)))
    with pytest.raises(InputError, match="at least 1"):
        Limits(rows=0)


def test_more_rows_than_are_meant_to_run_together_run_alone():
    scheduler = by_hand(ToyRunner(CONFIG), Limits(rows=2))
    ticket = scheduler.submit(Request(toy_plan(1, num_beams=5)))
    other = scheduler.submit(Request(toy_plan(2)))
    scheduler.turn()
    assert scheduler.load.running == 1
    scheduler.drain()
    assert told(ticket.result(0)) == told(alone(ToyRunner(CONFIG), toy_plan(1, num_beams=5))[0])
    assert other.done


def test_encoding_is_bounded_between_steps():
    class Noting(ToyRunner):
        encoded = 0

        def encode(self, token_ids, lengths):
            self.encoded += int(lengths.sum())
            return super().encode(token_ids, lengths)

    runner = Noting(CONFIG)
    scheduler = by_hand(runner, Limits(encoder_tokens=5))
    running = scheduler.submit(Request(toy_plan(0, max_length=50, eos_token_id=())))
    scheduler.turn()
    for seed in range(1, 20):
        scheduler.submit(Request(toy_plan(seed)))
    first, turns = runner.encoded, 0
    while runner.encoded < 30 + first:
        before = runner.encoded
        scheduler.turn()
        turns += 1
        assert runner.encoded - before <= 5 + 3
    assert turns >= 5
    assert not running.done
    scheduler.drain()


class BrokenRunner(ToyRunner):
    """Gives NaN for one source after some steps."""

    def __init__(self, config, source):
        super().__init__(config)
        self.source = source

    def step(self, state, token_ids, wanted):
        outputs = super().step(state, token_ids, wanted)
        for row in range(len(token_ids)):
            if state.source(row)[0] == self.source and len(state.histories[row]) > 4:
                for name in {LOGITS, LOG_SUM_EXP} & set(outputs):
                    outputs[name][row] = np.nan
        return outputs


@pytest.mark.parametrize("options", OPTIONS)
def test_a_poisoned_request_fails_alone(options):
    options = {**options, "max_length": 30, "eos_token_id": ()}
    source = int(toy_plan(2).prompts.encoder_token_ids[0, 0])
    scheduler = by_hand(BrokenRunner(CONFIG, source))
    tickets = [scheduler.submit(Request(toy_plan(seed, **options))) for seed in range(5)]
    forbidding = scheduler.submit(Request(toy_plan(7, suppress_tokens=tuple(range(13)))))
    raising = scheduler.submit(Request(toy_plan(8, logits_processor=lambda ids, scores: 1 / 0)))
    late = scheduler.submit(
        Request(toy_plan(9, max_length=20, eos_token_id=(), logits_processor=raise_at(8)))
    )
    scheduler.drain()
    for seed, ticket in enumerate(tickets):
        expected, failure = alone(BrokenRunner(CONFIG, source), toy_plan(seed, **options))
        if seed == 2:
            assert "not finite" in failure
            with pytest.raises(DecodingError, match="not finite"):
                ticket.result(0)
        else:
            assert told(ticket.result(0)) == told(expected)
    with pytest.raises(DecodingError, match="suppress_tokens"):
        forbidding.result(0)
    for ticket in (raising, late):
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            ticket.result(0)
    assert scheduler.load == IDLE


def raise_at(length):
    def processor(token_ids, scores):
        return 1 / 0 if len(token_ids) == length else scores

    return processor


class FailingRunner(ToyRunner):
    """Raises where it is told to."""

    step_fails = encode_fails = False

    def step(self, state, token_ids, wanted):
        if self.step_fails:
            raise RuntimeError("the device went away")
        return super().step(state, token_ids, wanted)

    def encode(self, token_ids, lengths):
        if self.encode_fails and (token_ids[:, 0] == self.encode_fails).any():
            raise RuntimeError("cannot encode")
        return super().encode(token_ids, lengths)


def test_an_engine_error_ends_what_is_under_way_and_no_more():
    runner = FailingRunner(CONFIG)
    scheduler = by_hand(runner)
    long = {"max_length": 40, "eos_token_id": ()}
    tickets = [scheduler.submit(Request(toy_plan(seed, **long))) for seed in range(3)]
    scheduler.turn()
    runner.step_fails = True
    scheduler.turn()
    for ticket in tickets:
        with pytest.raises(EngineError, match="the device went away"):
            ticket.result(0)
    runner.step_fails = False
    runner.encode_fails = int(toy_plan(4).prompts.encoder_token_ids[0, 0])
    tickets = [scheduler.submit(Request(toy_plan(seed, **long))) for seed in range(3, 6)]
    scheduler.drain()
    with pytest.raises(EngineError, match="cannot encode"):
        tickets[1].result(0)
    for place, seed in ((0, 3), (2, 5)):
        expected = alone(ToyRunner(CONFIG), toy_plan(seed, **long))[0]
        assert told(tickets[place].result(0)) == told(expected)


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[3], OPTIONS[6]])
def test_a_listener_is_told_what_stays(options):
    updates = []
    scheduler = by_hand(ToyRunner(CONFIG))
    options = {**options, "max_length": 25, "eos_token_id": ()}
    ticket = scheduler.submit(Request(toy_plan(3, **options), listener=updates.append))
    for seed in range(5):
        scheduler.submit(Request(toy_plan(seed, **options)))
    scheduler.drain()
    final = ticket.result(0)[0].token_ids.tolist()
    assert updates[-1].hypotheses == ticket.result(0)
    assert len(updates) > 3
    for update in updates:
        assert update.token_ids.tolist() == final[: len(update.token_ids)]
    with pytest.raises(InputError, match="num_return_sequences"):
        Request(toy_plan(1, **OPTIONS[4]), listener=updates.append)


def test_a_listener_that_does_not_follow_is_told_of_the_end_alone():
    updates = []
    scheduler = by_hand(ToyRunner(CONFIG))
    plan = toy_plan(3, max_length=20, **OPTIONS[4])
    request = Request(plan, listener=updates.append, follows=False)
    ticket = scheduler.submit(request)
    scheduler.drain()
    (update,) = updates
    assert update.hypotheses == ticket.result(0)
    assert len(update.hypotheses) == 3


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_listener_that_raises_ends_its_own_request(caplog, kind):
    def listener(update):
        raise kind("no")

    scheduler = by_hand(ToyRunner(CONFIG))
    long = {"max_length": 20, "eos_token_id": ()}
    ticket = scheduler.submit(Request(toy_plan(3, **long), listener=listener))
    other = scheduler.submit(Request(toy_plan(4, **long)))
    scheduler.drain()
    with pytest.raises(EngineError, match=f"listener raised {kind.__name__}: no"):
        ticket.result(0)
    assert told(other.result(0)) == told(alone(ToyRunner(CONFIG), toy_plan(4, **long))[0])
    assert "listener of request 0 raised" in caplog.text


def test_a_listener_may_close_the_scheduler():
    long = {"max_length": 20, "eos_token_id": ()}
    said = []
    scheduler = Scheduler(ToyRunner(CONFIG))

    def listener(update):
        said.append(scheduler.drain())
        scheduler.close()

    ticket = scheduler.submit(Request(toy_plan(3, **long), listener=listener))
    with pytest.raises(RequestCancelledError):
        ticket.result(60)
    scheduler.close()
    assert said[0] is False
    with pytest.raises(SchedulerClosedError):
        scheduler.submit(Request(toy_plan(4)))


@pytest.mark.parametrize(
    ("field", "value"),
    [("row", 1), ("row", -1), ("priority", None), ("deadline", "3"), ("deadline", float("nan"))],
)
def test_a_request_that_makes_no_sense_is_refused(field, value):
    with pytest.raises(InputError, match=field):
        Request(toy_plan(1), **{field: value})


@pytest.mark.parametrize("value", [0, 2.5, True, "8", float("nan")])
def test_a_limit_that_makes_no_sense_is_refused(value):
    with pytest.raises(InputError, match="rows must be a whole number"):
        Limits(rows=value)


@pytest.fixture
def engines():
    """The threads of engines that were started since; servers of other tests have theirs."""
    before = set(threading.enumerate())

    def started():
        threads = set(threading.enumerate()) - before
        return [each for each in threads if each.name == "bart_onnx engine"]

    return started


def test_drain_finishes_what_was_taken_and_takes_no_more(engines):
    plans = [toy_plan(seed, **OPTIONS[seed % 9]) for seed in range(40)]
    scheduler = Scheduler(ToyRunner(CONFIG), Limits(rows=8))
    tickets = [scheduler.submit(Request(plan)) for plan in plans]
    assert scheduler.drain(60)
    with pytest.raises(SchedulerClosedError):
        scheduler.submit(Request(plans[0]))
    for plan, ticket in zip(plans, tickets, strict=True):
        assert told(ticket.result(0)) == told(alone(ToyRunner(CONFIG), plan)[0])
    assert not engines()


def test_two_engines_and_many_threads(engines):
    plans = [toy_plan(seed, **OPTIONS[seed % 9]) for seed in range(60)]
    expected = [told(alone(ToyRunner(CONFIG), plan)[0]) for plan in plans]
    found = [None] * len(plans)

    def ask(scheduler, numbers):
        tickets = {number: scheduler.submit(Request(plans[number])) for number in numbers}
        for number, ticket in tickets.items():
            found[number] = told(ticket.result(60))

    with Scheduler(ToyRunner(CONFIG)) as one, Scheduler(ToyRunner(CONFIG)) as two:
        assert len(engines()) == 2
        threads = [
            threading.Thread(target=ask, args=(scheduler, range(first, 60, 6)))
            for first, scheduler in enumerate((one, two) * 3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == expected
    assert not engines()


def test_closing_cancels_what_is_left(engines):
    entered, leave = threading.Event(), threading.Event()

    class Held(ToyRunner):
        def step(self, state, token_ids, wanted):
            entered.set()
            assert leave.wait(60)
            return super().step(state, token_ids, wanted)

    scheduler = Scheduler(Held(CONFIG), Limits(rows=1))
    tickets = [
        scheduler.submit(Request(toy_plan(seed, max_length=40, eos_token_id=()))) for seed in (1, 2)
    ]
    assert entered.wait(60)
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    while not scheduler._stopped.is_set():
        pass
    leave.set()
    closing.join()
    for ticket in tickets:
        with pytest.raises(RequestCancelledError):
            ticket.result(0)
    assert not engines()


def test_a_runner_whose_rows_cannot_join_is_refused():
    class NoSlots:
        config, batch_tokens = CONFIG, None

    with pytest.raises(InputError, match=r"NoSlots decodes batches only.*cpu or cuda"):
        Scheduler(NoSlots(), threaded=False)


class CopyingRunner(ToyRunner):
    """Looks at the last token only, so that what it says comes again."""

    def __init__(self, config, most=100):
        super().__init__(config)
        self.most = most

    def drafts_pay(self, sources):
        return sources <= self.most

    def follow(self, source, history):
        return super().follow(source, history[-1:])


def looping_plan(speculate, number):
    """A source that the model will repeat: what follows each token is always the same."""
    plan = toy_plan(number, max_length=40, eos_token_id=())
    source, ids = int(plan.prompts.encoder_token_ids[0, 0]), [5]
    for _ in range(20):
        ids.append(int(what_follows(CONFIG, source, ids[-1:])[0].argmax()))
    sources = np.array([[source, *ids]])
    prompts = replace(
        plan.prompts, encoder_token_ids=sources, encoder_lengths=np.array([len(ids) + 1])
    )
    return replace(plan, prompts=prompts, task=replace(plan.task, speculate=speculate))


def test_drafts_give_the_same_tokens_in_fewer_steps():
    runner = CopyingRunner(CONFIG)
    scheduler = by_hand(runner)
    plans = [looping_plan(True, number) for number in range(4)]
    tickets = [scheduler.submit(Request(plan)) for plan in plans]
    scheduler.drain()
    assert max(shape[1] for shape in runner.steps) > 1
    for ticket, plan in zip(tickets, plans, strict=True):
        (found,), (expected,) = ticket.result(0), alone(CopyingRunner(CONFIG), plan)[0]
        assert found.token_ids.tolist() == expected.token_ids.tolist()
        assert ticket.statistics.accepted_tokens > 5
        assert ticket.statistics.steps < len(found.token_ids) - found.prompt_length


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"forced_bos_token_id": 5},
        {"forced_bos_token_id": 5, "forced_eos_token_id": (4, 3)},
        {"forced_eos_token_id": END, "eos_token_id": (END, 7)},
    ],
)
@pytest.mark.parametrize("speculate", [False, True])
def test_the_short_way_gives_what_the_long_one_gives(options, speculate):
    """Without notes of log-probabilities all rows are chosen for at once."""
    plans = [looping_plan(speculate, number) for number in range(6)]
    extra, found = (40, 9, 17, 1, 30, 2), []
    for notes in (False, True):
        scheduler, tickets = by_hand(CopyingRunner(CONFIG)), []
        for plan, more in zip(plans, extra, strict=True):
            length = int(plan.prompts.prompt_lengths[0]) + more
            asked = replace(plan.task.options, max_length=length, **options)
            task = replace(
                plan.task,
                options=asked,
                scoring=Scoring(asked, CONFIG.vocabulary_size),
                log_probs=notes,
                top_log_probs=0,
            )
            whole = replace(plan, task=task, limits=np.array([length]))
            tickets.append(scheduler.submit(Request(whole)))
            assert ticket_is_plain(tickets[-1]) is not notes
        scheduler.drain()
        found.append([ticket.result(0)[0].token_ids.tolist() for ticket in tickets])
    assert found[0] == found[1]
    if options.get("forced_eos_token_id") == (4, 3):
        assert all(ids[-1] == 3 for ids in found[0])


def ticket_is_plain(ticket):
    return ticket.search._is_plain


def test_rows_that_asked_for_no_drafts_keep_others_from_them():
    runner = CopyingRunner(CONFIG)
    scheduler = by_hand(runner)
    for number in range(4):
        scheduler.submit(Request(looping_plan(number > 0, number)))
    scheduler.drain()
    assert {shape[1] for shape in runner.steps if shape[0] == 4} == {1}


def test_drafts_stop_while_more_rows_run_than_they_pay_for():
    runner = CopyingRunner(CONFIG, most=2)
    scheduler = by_hand(runner)
    tickets = [scheduler.submit(Request(looping_plan(True, number))) for number in range(4)]
    scheduler.turn()
    scheduler.turn()
    assert runner.steps[-1] == (4, 1)
    tickets[0].cancel()
    tickets[3].cancel()
    scheduler.drain()
    assert max(shape[1] for shape in runner.steps) > 1


# Bits, on a real runner.


@pytest.fixture(scope="module", params=["fp32", "int8"])
def runner(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("scheduler") / request.param
    return OrtRunner(export_checkpoint(random_checkpoint(TINY), path, request.param), threads=1)


def test_real_traffic_is_bit_equal_to_each_request_alone(runner):
    random = np.random.default_rng(5)
    scheduler = by_hand(runner, Limits(rows=24, encoder_tokens=100))
    plans = [
        real_plan(
            runner,
            random,
            **{**OPTIONS[random.integers(len(OPTIONS))], "max_length": int(random.integers(6, 80))},
        )
        for _ in range(45)
    ]
    tickets, widest = decoded(scheduler, plans, random, turns=40, cancels=True)
    assert widest > 12
    finished = 0
    for ticket, plan in tickets:
        if not ticket.cancelled:
            assert told(ticket.result(0)) == told(alone(runner, plan)[0])
            finished += 1
    assert finished > 25


def test_a_full_memory_shrinks_when_few_are_left(runner):
    random = np.random.default_rng(6)
    scheduler = by_hand(runner)
    plans = [real_plan(runner, random, max_length=90, eos_token_id=()) for _ in range(40)]
    tickets = [scheduler.submit(Request(plan)) for plan in plans]
    scheduler.turn()
    for _ in range(5):
        scheduler.turn()
    (lane,) = scheduler._engine._lanes.values()
    assert lane._slots._memory.rows >= 40
    for ticket in tickets[1:]:
        ticket.cancel()
    scheduler.turn()
    plans.append(real_plan(runner, random, max_length=90))
    last = scheduler.submit(Request(plans[-1]))
    scheduler.drain()
    assert lane._slots._memory.rows <= 8
    assert told(tickets[0].result(0)) == told(alone(runner, plans[0])[0])
    assert told(last.result(0)) == told(alone(runner, plans[-1])[0])


def test_nothing_not_finite_stays_in_a_slot(runner):
    """A row's caches are poisoned; who comes into its place later must not see it."""
    random = np.random.default_rng(7)
    scheduler = by_hand(runner)
    plans = [real_plan(runner, random, max_length=30) for _ in range(6)]
    bad = scheduler.submit(Request(plans[0]))
    good = scheduler.submit(Request(plans[1]))
    scheduler.turn()
    (lane,) = scheduler._engine._lanes.values()
    state = lane._slots.rows
    for array in state.own:
        array[0, :, : int(state.lengths[0])] = np.nan
    while not bad.done:
        scheduler.turn()
    with pytest.raises(DecodingError, match="not finite"):
        bad.result(0)
    tickets = [scheduler.submit(Request(plan)) for plan in plans[2:]]
    scheduler.drain()
    for ticket, plan in zip([good, *tickets], plans[1:], strict=True):
        assert told(ticket.result(0)) == told(alone(runner, plan)[0])


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 4}, {"do_sample": True, "seed": 5, "num_return_sequences": 2}]
)
def test_texts_are_those_of_an_ordinary_call(shipped, options):
    """Rows of one call share its random numbers, and so they do here."""
    words = ["hello", "scheduler", "a", "batching", "phonemes", "continuous"]
    asked = shipped.by_config(options=options)
    call = ConfiguredCall(shipped.runner, shipped.preprocessor, asked)
    plan = call.plan(call.from_texts(words))
    with Scheduler(shipped.runner) as scheduler:
        tickets = [scheduler.submit(Request(plan, row)) for row in range(len(words))]
        found = [call.reporter.texts(ticket.result(60)) for ticket in tickets]
    expected = shipped.answer(words, asked)
    assert [each if len(each) > 1 else each[0] for each in found] == expected
    statistics = tickets[-1].statistics
    times = [statistics.submitted, statistics.started, statistics.encoded, statistics.first_token]
    assert times == sorted(times)
    assert statistics.finished >= times[-1]
    assert statistics.steps > 1


@pytest.fixture(scope="module")
def shipped():
    return OnnxBartSeq2SeqLM.from_preset("bart_tiny_en_g2p")


def test_rows_keep_their_caches_when_memory_grew_for_others_and_a_wider_one_joins(tmp_path):
    """Self caches grow while three rows run; the memory is laid anew when as many as before do."""
    export_checkpoint(random_checkpoint(replace(TINY, max_sequence_length=512)), tmp_path / "long")
    runner = OrtRunner(Bundle.open(tmp_path / "long"), threads=1)

    def plan(seed, source, length):
        random, start = np.random.default_rng(seed), np.zeros((1, length), np.int64)
        start[:, 0] = 2
        ids = random.integers(4, TINY.vocabulary_size, (1, source))
        asked = DecodingOptions(max_length=length, eos_token_id=())
        task = Task(asked, Scoring(asked, TINY.vocabulary_size), log_probs=True, speculate=False)
        prompts = Prompts(ids, np.array([source]), start, np.array([1]))
        return Plan(prompts, np.array([length]), task, {})

    scheduler = by_hand(runner, Limits(encoder_tokens=2000))
    plans = [
        plan(1, 20, 90),
        plan(2, 20, 100),
        plan(3, 20, 100),
        plan(4, 20, 100),
        plan(5, 200, 60),
    ]
    tickets = [scheduler.submit(Request(plans[0]))]
    for _ in range(41):
        scheduler.turn()
    tickets += [scheduler.submit(Request(each)) for each in plans[1:3]]
    for _ in range(8):
        scheduler.turn()
    tickets.append(scheduler.submit(Request(plans[3])))
    while not tickets[0].done:
        scheduler.turn()
    tickets.append(scheduler.submit(Request(plans[4])))
    scheduler.drain()
    for ticket, each in zip(tickets, plans, strict=True):
        assert told(ticket.result(0)) == told(alone(runner, each)[0])


def test_what_was_saved_up_for_a_long_source_is_not_spent_on_others():
    scheduler = by_hand(ToyRunner(CONFIG))
    tickets = [scheduler.submit(Request(toy_plan(seed))) for seed in range(12)]
    tokens = [each.request.source_tokens for each in tickets]
    saved_up, of_others = 400, 5
    assert saved_up > sum(tokens) > tokens[0] + of_others
    taken = scheduler._waiting.take(Held(), 10_000, 64, saved_up, of_others)
    assert taken == tickets[: len(taken)]
    assert len(taken) > 1
    assert sum(tokens[1 : len(taken)]) <= of_others

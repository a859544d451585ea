#!/usr/bin/env python3
"""Measures what the scheduler gains: requests under way together against one at a time.

    python scripts/measure_batching.py [BUNDLE] [--source N] [--new N] [--lengths MIXTURE]
                                       [--requests N] [--rows N] [--rounds N] [--static N]

Requests of random ids, their sources 4 to --source tokens long and their outputs 4 to --new, drawn
from a mixture of request_lengths.py, decode greedily by the bundle's generation config, without end
tokens and drafts. They are all there from the start; the engine is measured, and no queue of
callers:

alone: one at a time. static: in the order of their coming in batches of --static (else --rows), all
of whose rows step until the last has ended. leaving: the same, but rows that end leave their batch,
as in every batch of this package. continuous: the scheduler.

Each round runs all four, in turns of who begins; what comes of each request is compared. Times are
of the process's CPU, so that others on the machine count less; run it pinned to one core with
OMP_NUM_THREADS=1. Output: one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from request_lengths import MIXTURES

from bart_onnx.bundle import Bundle
from bart_onnx.configured import Plan
from bart_onnx.decoding.decode import decode
from bart_onnx.decoding.generation_config import decoding_options
from bart_onnx.decoding.prompts import Prompts
from bart_onnx.decoding.scoring import Scoring
from bart_onnx.decoding.tasks import Task
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.server.limits import Limits
from bart_onnx.server.requests import Request
from bart_onnx.server.scheduler import Scheduler

SHIPPED = Path(__file__).parent.parent / "models" / "bart_tiny_en_g2p"
FIRST_WORD = 4

Found = dict[int, list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument("--source", type=int, default=24, help="longest source, tokens")
    parser.add_argument("--new", type=int, default=24, help="longest output, tokens")
    parser.add_argument("--lengths", choices=MIXTURES, default="uniform")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--rows", type=int, default=32, help="decoded together")
    parser.add_argument("--static", type=int, help="rows of a static batch")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    bundle = Bundle.open(asked.bundle)
    runner = OrtRunner(bundle, threads=1)
    plan = requests_of(bundle, asked)
    ways: dict[str, Callable[[], Found]] = {
        "alone": lambda: in_batches(runner, plan, 1),
        "static": lambda: in_batches(runner, plan, asked.static or asked.rows, stay=True),
        "leaving": lambda: in_batches(runner, plan, asked.static or asked.rows),
        "continuous": lambda: continuous(runner, plan, asked.rows),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    expected: Found = {}
    for round_ in range(-1, asked.rounds):
        for place in range(len(ways)):
            name = list(ways)[(place + round_) % len(ways)]
            begun = time.process_time()
            found = ways[name]()
            # The first round warms up.
            if round_ >= 0:
                times[name].append(time.process_time() - begun)
            expected = expected or found
            check_same(expected, found)
    print(json.dumps(result(bundle, asked, plan, times)))


def requests_of(bundle: Bundle, asked: argparse.Namespace) -> Plan:
    """All requests as the rows of one plan."""
    random, config = np.random.default_rng(0), bundle.config
    options = decoding_options(bundle.generation_config, config, {"eos_token_id": ()})
    count = asked.requests
    drawn = MIXTURES[asked.lengths]
    lengths = drawn(random, asked.source, count)
    limits = 1 + drawn(random, asked.new, count)
    sources = random.integers(FIRST_WORD, config.vocabulary_size, (count, asked.source))
    token_ids = np.full((count, int(limits.max())), options.decoder_start_token_id)
    prompts = Prompts(sources, lengths, token_ids, np.ones(count, np.int64))
    scoring = Scoring(options, config.vocabulary_size)
    return Plan(prompts, limits, Task(options, scoring, speculate=False), {})


def in_batches(runner: OrtRunner, plan: Plan, size: int, stay: bool = False) -> Found:
    """So many requests at a time; where all stay to the end, what comes too much is cut."""
    found: Found = {}
    whole = plan.prompts
    for first in range(0, len(plan.limits), size):
        some = slice(first, first + size)
        batch = Prompts(
            whole.encoder_token_ids[some],
            whole.encoder_lengths[some],
            whole.decoder_token_ids[some],
            whole.prompt_lengths[some],
        )
        limits = plan.limits[some]
        ends = np.full_like(limits, limits.max()) if stay else limits
        for search in decode(runner, batch, ends, plan.task):
            for row, (best, *_) in search.finished.items():
                found[first + row] = best.token_ids[: limits[row]].tolist()
    return found


def continuous(runner: OrtRunner, plan: Plan, rows: int) -> Found:
    """As the scheduler decodes them."""
    count = len(plan.limits)
    scheduler = Scheduler(runner, Limits(rows=rows, waiting=count), threaded=False)
    tickets = [scheduler.submit(Request(plan, row)) for row in range(count)]
    scheduler.drain()
    return {row: ticket.result(0)[0].token_ids.tolist() for row, ticket in enumerate(tickets)}


def check_same(expected: Found, found: Found) -> None:
    if expected != found:
        raise SystemExit("Requests together gave other tokens than alone.")


def result(
    bundle: Bundle, asked: argparse.Namespace, plan: Plan, times: Mapping[str, list[float]]
) -> dict[str, Any]:
    """Medians of each way, and by how much each round's continuous was the faster."""
    tokens = int((plan.limits - plan.prompts.prompt_lengths).sum())

    def faster_than(name: str) -> dict[str, float]:
        ratios = [slow / fast for slow, fast in zip(times[name], times["continuous"], strict=True)]
        return {
            "median": round(statistics.median(ratios), 2),
            "least": round(min(ratios), 2),
            "most": round(max(ratios), 2),
        }

    return {
        "bundle": asked.bundle.name,
        "precision": bundle.precision,
        **{
            name: getattr(asked, name)
            for name in ("source", "new", "lengths", "requests", "rows", "rounds")
        },
        "output tokens": tokens,
        "requests a second": {
            name: round(asked.requests / statistics.median(own), 1) for name, own in times.items()
        },
        "tokens a second": {
            name: round(tokens / statistics.median(own), 1) for name, own in times.items()
        },
        "over one at a time": faster_than("alone"),
        "over static": faster_than("static"),
        "over static with rows leaving": faster_than("leaving"),
    }


if __name__ == "__main__":
    main()

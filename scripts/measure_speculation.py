#!/usr/bin/env python3
"""Measures what drafts from the source gain: generation with them against without, in pairs.

    python scripts/measure_speculation.py copying [--train SECONDS] [--every N]
    python scripts/measure_speculation.py trace BUNDLE COPY_TRACE.json [--articles N] [--together N]
    python scripts/measure_speculation.py nothing BUNDLE [--articles N]
    python scripts/measure_speculation.py drafting

copying: a small model, trained here to copy its source, all of it or all but every Nth token (needs
torch).
trace: a real shape with outputs forced to copy as recorded: counts of matched, drafted and
accepted tokens of real summaries are made into ids that match so. nothing: outputs that copy
nothing: every draft fails; no two tokens stand in the source in their order; no token is shared.
drafting: the time of drafting alone, no model.

Pairs alternate in who begins. Times are of the process's CPU, so that others on the machine count
less; run it pinned to one core with OMP_NUM_THREADS=1. The encoder is not in them, except where
it is said. Output: a line of JSON for each pair, then medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from forced_runner import ForcedRunner

from bart_onnx.bundle import Bundle
from bart_onnx.decoding.decode import decode
from bart_onnx.decoding.drafts import SourceDrafts
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.decoding.prompts import Prompts
from bart_onnx.decoding.scoring import Scoring
from bart_onnx.decoding.tasks import Hypothesis, Task
from bart_onnx.runners.ort import OrtRunner

START, BOS = 2, 0
FIRST_WORD = 4

Rows = Sequence[tuple[list[int], list[int]]]  # of a source and what it becomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    copying = kinds.add_parser("copying")
    copying.add_argument("--train", type=float, default=90, help="seconds")
    copying.add_argument("--every", type=int, default=0, help="which tokens it changes; 0: none")
    for name in ("trace", "nothing"):
        forced = kinds.add_parser(name)
        forced.add_argument("bundle", type=Path)
        if name == "trace":
            forced.add_argument("trace", type=Path)
            forced.add_argument("--together", type=int, default=1, help="articles in a batch")
        forced.add_argument("--articles", type=int, default=10)
        forced.add_argument("--source", type=int, default=1022, help="tokens")
    kinds.add_parser("drafting")
    options = parser.parse_args()
    if options.kind == "drafting":
        print(json.dumps(time_of_drafting()))
        return
    pairs = list(_printed(_COMMANDS[options.kind](options)))
    groups: dict[str, list[dict[str, Any]]] = {}
    for pair in pairs:
        groups.setdefault(pair["case"], []).append(pair)
    for case, own in groups.items():
        medians = {
            name: statistics.median(pair[name] for pair in own)
            for name in ("speed-up", "tokens a step", "drafted a step", "plain step ms")
        }
        spread = [min(pair["speed-up"] for pair in own), max(pair["speed-up"] for pair in own)]
        print(json.dumps({"case": case, "pairs": len(own), **medians, "spread": spread}))


def of_trace(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    runner = _opened(options.bundle)
    articles = json.loads(options.trace.read_text(encoding="utf-8"))["articles"]
    size = runner.config.vocabulary_size
    for number in range(options.articles // options.together):
        first = number * options.together
        rows = [
            _as_ids(article["steps"]["10"], size, options.source - place)
            for place, article in enumerate(articles[first : first + options.together])
        ]
        yield _pair("trace", ForcedRunner(runner, _by_length(rows)), rows, number)


def of_nothing(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    runner = _opened(options.bundle)
    size = runner.config.vocabulary_size
    for number in range(options.articles):
        random = np.random.default_rng(number)
        words = random.permutation(np.arange(FIRST_WORD, size))[: options.source + 78].tolist()
        rest, strange = words[:-80], words[-80:]
        shuffled = random.permutation(rest)[:80].tolist()
        # a b is followed by another than in the source, and so is a by itself.
        lured = [word for first in range(0, 240, 6) for word in rest[first : first + 2]]
        for first in range(0, 240, 6):
            a, b, *others = rest[first : first + 5]
            rest[first : first + 6] = [a, others[0], a, b, *others[1:]]
        for case, said in (("fails", lured), ("no two in order", shuffled), ("strange", strange)):
            rows = [([BOS, *rest, START], [START, *said])]
            yield _pair(case, ForcedRunner(runner, _by_length(rows)), rows, number)


def of_copying(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Pairs of a model that has just been trained to copy."""
    from bart_onnx import BartBackbone, OnnxBartSeq2SeqLM
    from bart_onnx.training_options import OptimizerOptions

    size, words = 500, 60
    backbone = BartBackbone(size, 2, 4, 128, 256, 0.0, 64, seed=1)
    lm = OnnxBartSeq2SeqLM(backbone, preprocessor=None)
    lm.compile(OptimizerOptions("muon", 2e-3, matrix_rate=7.0, weight_decay=0.01), sampler="greedy")
    random, ends = np.random.default_rng(0), time.monotonic() + options.train
    while time.monotonic() < ends:
        sources, targets = _copied(random, 2048, words, size, options.every)
        inputs = {
            "encoder_token_ids": sources,
            "encoder_padding_mask": np.ones(sources.shape, bool),
            "decoder_token_ids": targets[:, :-1],
            "decoder_padding_mask": np.ones((len(targets), targets.shape[1] - 1), bool),
        }
        history = lm.fit(inputs, targets[:, 1:], batch_size=64, verbose=0).history
        print(json.dumps({name: round(values[-1], 4) for name, values in history.items()}))
    # Its steps are too short for drafts to pay, so the runner is told to take them.
    runner = lm.runner
    runner.drafts_pay = lambda sources: True  # type: ignore[method-assign]
    sources, targets = _copied(np.random.default_rng(9), 20, words, size, options.every)
    for number, (source, target) in enumerate(zip(sources.tolist(), targets, strict=True)):
        case = (
            f"trained to copy all but every {options.every}th" if options.every else "to copy all"
        )
        yield _pair(case, runner, [(source, target.tolist())], number, times=5)


def time_of_drafting() -> dict[str, float]:
    """Microseconds a row and step, and of the first, of a source of 1,022 tokens."""
    random = np.random.default_rng(0)
    words = np.array(random.zipf(1.3, 1022) % 5000)
    said = np.concatenate([words[100:130], random.permutation(words)[:110], words[500:560]])
    firsts, others = [], []
    for _ in range(20):
        drafts = SourceDrafts(words)
        for length in range(1, 200):
            started = time.perf_counter()
            drafts.after(said[:length], 20)
            (others if length > 1 else firsts).append(time.perf_counter() - started)
    found = {"first": statistics.median(firsts), "each": statistics.median(others)}
    return {name: round(seconds * 1e6, 1) for name, seconds in found.items()}


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "copying": of_copying,
    "trace": of_trace,
    "nothing": of_nothing,
}


def _printed(pairs: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for pair in pairs:
        print(json.dumps(pair), flush=True)
        yield pair


def _opened(path: Path) -> OrtRunner:
    return OrtRunner(Bundle.open(path, verify=False), threads=1)


def _by_length(rows: Rows) -> dict[int, list[int]]:
    return {len(source): target for source, target in rows}


def _pair(case: str, runner: Any, rows: Rows, number: int, times: int = 1) -> dict[str, Any]:
    """Sources with drafts and without, the order by the number; of targets the lengths count."""
    seconds = {True: 0.0, False: 0.0}
    found: dict[bool, list[Hypothesis]] = {}
    _generated(runner, rows, False, most=3)
    for _ in range(times):
        for speculate in (True, False) if number % 2 else (False, True):
            took, found[speculate] = _generated(runner, rows, speculate)
            seconds[speculate] += took
    pairs = zip(found[True], found[False], strict=True)
    if any(one.token_ids.tolist() != other.token_ids.tolist() for one, other in pairs):
        case = f"{case}, differs"
    generated = sum(len(each.token_ids) - 1 for each in found[True])
    steps = sum(each.steps for each in found[True])
    longest = max(each.steps for each in found[False])
    return {
        "case": case,
        "speed-up": round(seconds[False] / seconds[True], 3),
        "tokens": generated,
        "tokens a step": round(generated / steps, 2),
        "drafted a step": round(sum(each.drafted_tokens for each in found[True]) / steps, 2),
        "plain step ms": round(1e3 * seconds[False] / times / longest, 2),
    }


def _generated(
    runner: Any, rows: Rows, speculate: bool, most: int = 1 << 20
) -> tuple[float, list[Hypothesis]]:
    """CPU seconds from the first token on, and what was generated."""
    options = DecodingOptions(max_length=1024)
    scoring = Scoring(options, runner.config.vocabulary_size)
    task = Task(options, scoring, speculate=speculate)
    sources = np.full((len(rows), max(len(source) for source, _ in rows)), START, np.int64)
    for line, (source, _) in zip(sources, rows, strict=True):
        line[: len(source)] = source
    lengths = np.array([len(source) for source, _ in rows])
    limits = np.array([min(len(target), most) for _, target in rows])
    starts = np.full((len(rows), int(limits.max())), START, np.int64)
    prompts = Prompts(sources, lengths, starts, np.ones(len(rows), np.int64))
    searches = decode(runner, prompts, limits, task)
    finished = dict(next(searches).finished)
    started = time.process_time()
    for search in searches:
        finished |= search.finished
    seconds = time.process_time() - started
    return seconds, [finished[row][0] for row in range(len(rows))]


def _as_ids(
    steps: Sequence[tuple[int, int, int]], vocabulary_size: int, length: int
) -> tuple[list[int], list[int]]:
    """A source and an output that match as recorded: [matched, drafted, accepted] of every step.

    Every match gets a piece of the source of its own: the matched tokens, those that were accepted,
    and strangers around them.
    """
    fresh = iter(np.random.default_rng(0).permutation(np.arange(FIRST_WORD, vocabulary_size)))
    source, target = [BOS], [START]
    for matched, _, accepted in steps:
        if matched:
            run = [int(next(fresh)) for _ in range(accepted)]
            piece = [int(next(fresh)), *target[-matched:], *run, int(next(fresh))]
            if len(source) + len(piece) < length:
                source += piece
            target += run
        target.append(int(next(fresh)))
    source += [int(next(fresh)) for _ in range(length - 1 - len(source))]
    return [*source, START], target


def _copied(
    random: np.random.Generator, rows: int, words: int, size: int, every: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sources, and outputs that copy them but for every Nth token, N being `every` (0: none)."""
    sources = random.integers(FIRST_WORD, size, (rows, words))
    sources[:, 0], sources[:, -1] = BOS, START
    targets = sources.copy()
    if every:
        changed = targets[:, every - 1 :: every]
        changed[:] = (changed + 100 - FIRST_WORD) % (size - FIRST_WORD) + FIRST_WORD
    return sources, np.concatenate([np.full((rows, 1), START), targets], axis=1)


if __name__ == "__main__":
    main()

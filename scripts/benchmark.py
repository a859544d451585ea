#!/usr/bin/env python3
"""Times bart_onnx against other engines, pair by pair, on pinned cores, one thread on each.

    python scripts/make_random_checkpoint.py base CHECKPOINT
    python -m bart_onnx.export --preset CHECKPOINT --output BUNDLE
    python scripts/benchmark.py setup ENVIRONMENTS
    python scripts/benchmark.py run ENVIRONMENTS --checkpoint CHECKPOINT --bundle BUNDLE \\
        --work WORK --name bart-base --source 512

Each engine is a process in an environment of its own. In each pair both are given the same ids and
give as many tokens; who goes first alternates. Pairs are appended to WORK/pairs.jsonl as they come,
and what stands there is not run again. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark_environments import ENGINES, ROOT, python, set_up, versions
from benchmark_ratios import CLOCKS, KEY, markdown, summary

WORKER = ROOT / "scripts" / "benchmark_worker.py"
OURS = "bart_onnx"
SPECIAL_TOKENS = 4
END_TOKEN = 2


class EngineError(RuntimeError):
    """An engine said that it could not."""


@dataclass(frozen=True)
class Shape:
    """One thing to time, beside lengths."""

    batch: int
    beams: int


SHAPES = {"greedy": Shape(1, 1), "beams": Shape(1, 4), "batch": Shape(8, 1)}


class Worker:
    """A running engine; see scripts/benchmark_worker.py."""

    def __init__(self, engine: str, environments: Path, cores: Sequence[int]) -> None:
        self.engine = engine
        interpreter = python(environments, ENGINES[engine])
        self._process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores)), str(interpreter), str(WORKER), engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # What asks for cores in ways of its own finds as many threads too.
            env={**os.environ, "OMP_NUM_THREADS": str(len(cores)), "HF_HUB_OFFLINE": "1"},
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Its answer.

        Raises:
            EngineError: it could not, or has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            raise EngineError(f"{self.engine}: {answer['error']}")
        return dict(answer)

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "setup":
        failed = set_up(options.environments)
        print(json.dumps({"failed": failed}))
        return 1 if failed else 0
    pairs = options.work / "pairs.jsonl"
    failures: dict[str, str] = {}
    if options.command == "run":
        options.work.mkdir(parents=True, exist_ok=True)
        try:
            failures = run(options, pairs)
        except EngineError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    rows = summary(map(json.loads, pairs.read_text().splitlines()))
    for clock in CLOCKS:
        print(f"Ratios of {clock} time:\n\n{markdown(rows, clock)}\n")
    print(json.dumps({"summary": rows, "failures": failures}))
    return 1 if failures else 0


def run(options: argparse.Namespace, pairs: Path) -> dict[str, str]:
    """Run the pairs that are not there yet; the peers that could not, and why."""
    failures = {}
    pairs.touch()
    with running(OURS, options) as ours:
        ours.ask("load", model=str(options.bundle), threads=len(options.cores))
        for peer in options.peers:
            try:
                with running(peer, options) as theirs, pairs.open("a") as file:
                    _run_peer(options, ours, theirs, file, _counted(pairs))
            except EngineError as error:
                if str(error).startswith(OURS):
                    raise
                failures[peer] = str(error)
                _say(str(error))
    return failures


@contextmanager
def running(engine: str, options: argparse.Namespace) -> Iterator[Worker]:
    worker = Worker(engine, options.environments, options.cores)
    try:
        yield worker
    finally:
        worker.close()


def _counted(pairs: Path) -> Counter[tuple[Any, ...]]:
    found = map(json.loads, pairs.read_text().splitlines())
    return Counter(tuple(pair[name] for name in KEY) for pair in found)


def _run_peer(
    options: argparse.Namespace, ours: Worker, theirs: Worker, file: Any, done: Counter[Any]
) -> None:
    peer = theirs.engine
    asked = {
        name: {
            "model": options.name,
            "source": options.source,
            "tokens": options.tokens,
            "batch": SHAPES[name].batch,
            "beams": SHAPES[name].beams,
            "threads": len(options.cores),
            "peer": peer,
        }
        for name in options.shapes
    }
    left = {name: options.pairs - done[tuple(each[k] for k in KEY)] for name, each in asked.items()}
    if not any(count > 0 for count in left.values()):
        return
    model = options.work / f"{options.name}.{peer}"
    # Converting takes more memory than running, so that another process does it.
    with running(peer, options) as converter:
        converter.ask("prepare", checkpoint=str(options.checkpoint), model=str(model))
    theirs.ask("load", model=str(model), threads=len(options.cores))
    found = versions(options.environments, peer)
    for name, head in asked.items():
        for number in range(max(0, left[name])):
            if not number:
                # As long as what is timed: torch.compile compiles anew as caches grow.
                for worker in (ours, theirs):
                    worker.ask("generate", **_given(options, SHAPES[name], options.tokens))
            pair = _pair(options, ours, theirs, SHAPES[name], swapped=bool(number % 2))
            _say(f"{options.name} {name} {peer} {number + 1} of {left[name]}")
            record = {**head, "versions": found, "load": os.getloadavg()[0], **pair}
            print(json.dumps(record), file=file, flush=True)


def _pair(
    options: argparse.Namespace, ours: Worker, theirs: Worker, shape: Shape, swapped: bool
) -> dict[str, dict[str, Any]]:
    """Both engines in turn: all tokens, then one."""
    sides = [("ours", ours), ("theirs", theirs)]
    pair: dict[str, dict[str, Any]] = {"ours": {}, "theirs": {}}
    for name, tokens in (("all", options.tokens), ("one", 1)):
        for side, worker in reversed(sides) if swapped else sides:
            pair[side][name] = worker.ask("generate", **_given(options, shape, tokens))
    return pair


def _given(options: argparse.Namespace, shape: Shape, tokens: int) -> dict[str, Any]:
    """What both engines are asked: words at random, the same in every pair."""
    chosen = random.Random(options.source)
    vocabulary = json.loads((options.checkpoint / "config.json").read_text())["vocab_size"]
    ids = [
        [chosen.randrange(SPECIAL_TOKENS, vocabulary) for _ in range(options.source - 1)]
        for _ in range(shape.batch)
    ]
    return {"ids": [[*row, END_TOKEN] for row in ids], "beams": shape.beams, "tokens": tokens}


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    setup = commands.add_parser("setup", help="make an environment for each engine, with pip")
    setup.add_argument("environments", type=Path)
    table = commands.add_parser("table", help="print what has been run")
    table.add_argument("--work", type=Path, required=True)
    runs = commands.add_parser("run", help="run pairs, and print all that has been run")
    runs.add_argument("environments", type=Path)
    runs.add_argument("--checkpoint", type=Path, required=True, help="transformers' directory")
    runs.add_argument("--bundle", type=Path, required=True, help="ours, of any precision")
    runs.add_argument("--work", type=Path, required=True, help="converted models and results")
    runs.add_argument("--name", required=True, help="of checkpoint and bundle, for the table")
    runs.add_argument("--source", type=int, default=512, help="tokens of every source")
    runs.add_argument("--tokens", type=int, default=64, help="new tokens; at least 2")
    runs.add_argument("--pairs", type=int, default=5)
    runs.add_argument("--cores", type=int, nargs="+", default=[1])
    runs.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    peers = [engine for engine in ENGINES if engine != OURS]
    runs.add_argument("--peers", nargs="+", choices=peers, default=peers)
    return parser


if __name__ == "__main__":
    sys.exit(main())

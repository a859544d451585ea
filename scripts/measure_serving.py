#!/usr/bin/env python3
"""Measures the server under load: the most requests a second whose 95th percentile keeps a limit.

    python scripts/measure_serving.py [BUNDLE] --environment DIRECTORY [--source N] [--new N]
                                      [--lengths MIXTURE] [--rows N] [--seconds N]
                                      [--times N ...] [--ways WAY ...] [--cores SERVER CLIENT]
                                      [--overload N [--overload-seconds N]]

The server runs on one core, locust (serving_load.py, in an environment of its own, made at the
first use) on another. First one client asks again and again: each limit is so many --times the 95th
percentile of its answers. Then requests come at random times, at rates that grow until a limit is
passed, or any answer is not 200, and shrink again: each rate with a server that is warm, its first
fifth not counted. At last, if asked, --overload times the highest of these rates. The ways:

one: --rows 1. static, leaving, continuous: --batching; the last is what the server does by default,
static what a queue before a call of `generate` does.

The shipped preset is sent the words of tests/data/words.txt, and ends by itself; other bundles get
random ids, and exactly as many tokens are asked for as a mixture of request_lengths.py says.
Output: a line of JSON for each rate, and one for all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from request_lengths import MIXTURES

from bart_onnx.bundle import Bundle

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "models" / "bart_tiny_en_g2p"
WORDS = ROOT / "tests" / "data" / "words.txt"
LOCUST = "locust==2.47.0"
FIRST_WORD = 4
WAYS = {
    "one": ("--rows", "1"),
    "static": ("--batching", "static"),
    "leaving": ("--batching", "leaving"),
    "continuous": ("--batching", "continuous"),
}
# Rates grow and shrink by this.
FACTOR = 1.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument("--environment", type=Path, required=True, help="where locust is, or goes")
    parser.add_argument("--source", type=int, default=64, help="longest source, tokens")
    parser.add_argument("--new", type=int, default=64, help="longest output, tokens")
    parser.add_argument("--lengths", choices=MIXTURES, default="skewed")
    parser.add_argument("--rows", type=int, default=64, help="decoded together")
    parser.add_argument("--seconds", type=float, default=20, help="of each rate")
    parser.add_argument("--times", type=float, nargs="+", default=[2, 3, 5], help="limits")
    parser.add_argument("--overload", type=float, help="at last, so many times the highest rate")
    parser.add_argument("--overload-seconds", type=float, default=200)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["one", "static", "continuous"])
    parser.add_argument("--begin", type=float, nargs="*", default=[], help="a first rate each")
    parser.add_argument("--cores", type=int, nargs=2, default=(0, 1))
    asked = parser.parse_args()
    locust = set_up(asked.environment)
    with tempfile.TemporaryDirectory() as directory:
        load = Load(asked, locust, Path(directory))
        load.bodies.write_text("".join(f"{json.dumps(each)}\n" for each in requests_of(asked)))
        alone: dict[str, Any] = {}
        best: dict[str, dict[str, Any]] = {}
        rate = 0.0
        for place, way in enumerate(asked.ways):
            with serving(asked, way, Path(directory)) as server:
                first = load.run(server, 0)
                if not alone:
                    alone, rate = first, 0.7 / first["mean"]
                    print(json.dumps({"alone": alone}), flush=True)
                rate = asked.begin[place] if place < len(asked.begin) else rate
                tried = Tried(load, server, way)
                for times in sorted(asked.times):
                    found = tried.most(rate, times * alone["p95"])
                    best.setdefault(str(times), {})[way] = found
                    # What one way can do, the next is first asked for.
                    rate = found or rate
                if asked.overload:
                    overload = load.run(server, asked.overload * rate, asked.overload_seconds)
                    print(json.dumps({"way": way, "overload": overload}), flush=True)
    print(json.dumps(summary(asked, alone, best)))


def set_up(directory: Path) -> Path:
    """The locust of an environment, which is made where it is not there."""
    locust = directory / "bin" / "locust"
    if not locust.exists():
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        python = str(directory / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", LOCUST], check=True)
    return locust


def requests_of(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Bodies of requests, a thousand."""
    random, name, count = np.random.default_rng(0), asked.bundle.name, 1000
    if asked.bundle == SHIPPED:
        words = [line.split("\t")[0] for line in WORDS.read_text(encoding="utf-8").splitlines()]
        for word in random.permutation(words).tolist():
            yield {"model": name, "prompt": word}
        return
    vocabulary, drawn = Bundle.open(asked.bundle).config.vocabulary_size, MIXTURES[asked.lengths]
    sources, outputs = drawn(random, asked.source, count), drawn(random, asked.new, count)
    for source, output in zip(sources.tolist(), outputs.tolist(), strict=True):
        ids = random.integers(FIRST_WORD, vocabulary, source).tolist()
        yield {"model": name, "prompt": ids, "max_tokens": output, "min_tokens": output - 1}


class Server:
    """A started server's process and address."""

    def __init__(self, process: int, url: str) -> None:
        self.process, self.url = process, url

    def used(self) -> tuple[float, int]:
        """Seconds of CPU, and MiB of memory."""
        stat = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        ticks = int(stat[11]) + int(stat[12])
        status = Path(f"/proc/{self.process}/status").read_text()
        return ticks / os.sysconf("SC_CLK_TCK"), int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) >> 10


@contextmanager
def serving(asked: argparse.Namespace, way: str, directory: Path) -> Iterator[Server]:
    """A server on its core, until it has ended."""
    flags = ["--rows", str(asked.rows), *WAYS[way], "--port", "0", "--threads", "1", "--offline"]
    flags += ["--precision", Bundle.open(asked.bundle).precision, "--drain-delay", "0"]
    command = [sys.executable, "-m", "bart_onnx.serve", "--preset", str(asked.bundle), *flags]
    log = directory / f"{way}.log"
    with log.open("w") as told:
        process = subprocess.Popen(
            ["taskset", "-c", str(asked.cores[0]), *command], cwd=ROOT, stderr=told
        )
        try:
            until = time.monotonic() + 120
            while not (found := re.findall(r"http://127.0.0.1:\d+", log.read_text())):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"The server did not start:\n{log.read_text()}")
                time.sleep(0.1)
            yield Server(process.pid, found[0])
        finally:
            process.terminate()
            process.wait(60)


class Load:
    """What locust sends, and what it is answered."""

    def __init__(self, asked: argparse.Namespace, locust: Path, directory: Path) -> None:
        self.bodies, self._answers = directory / "bodies", directory / "answers"
        core = str(asked.cores[1])
        self._command = ["taskset", "-c", core, str(locust), "--headless", "--users", "1"]
        self._command += ["-f", str(ROOT / "scripts" / "serving_load.py"), "--only-summary"]
        self._command += ["--bodies", str(self.bodies), "--answers", str(self._answers)]
        self._seconds = asked.seconds

    def run(self, server: Server, rate: float, seconds: float | None = None) -> dict[str, Any]:
        """What became of requests at this rate; at 0, of those of one client."""
        lasting = seconds or self._seconds
        times = ["--rate", str(rate), "--seconds", str(lasting)]
        cpu, before = server.used()
        # It says 1 where an answer was no 200, which is looked at here.
        subprocess.run(
            [*self._command, "--host", server.url, *times], check=False, capture_output=True
        )
        told = json.loads(self._answers.read_text())
        self._answers.unlink()
        later, memory = server.used()
        counted = [each for each in told["answers"] if each[0] >= lasting / 5]
        taken = np.array([each[1] for each in counted if each[2] == 200])
        statuses = [each[2] for each in counted]
        return {
            "rate": round(rate, 3),
            "asked": len(counted),
            "statuses": {str(each): statuses.count(each) for each in sorted(set(statuses))},
            "told when to ask again": sum(each[3] is not None for each in counted),
            "mean": round(float(taken.mean()), 5) if len(taken) else None,
            "p50": _percentile(taken, 50),
            "p95": _percentile(taken, 95),
            "server ms of CPU a request": round(1e3 * (later - cpu) / len(told["answers"]), 3),
            "client's share of its core": round(told["client_cpu"] / lasting, 2),
            "MiB before": before,
            "MiB": memory,
        }


def _percentile(seconds: Any, which: int) -> float | None:
    return round(float(np.percentile(seconds, which)), 5) if len(seconds) else None


class Tried:
    """The rates that were tried of one way, and what became of them."""

    def __init__(self, load: Load, server: Server, way: str) -> None:
        self._load, self._server, self._way = load, server, way
        self._points: dict[float, dict[str, Any]] = {}

    def most(self, rate: float, limit: float) -> float | None:
        """The highest rate that keeps a limit: rates grow or shrink until both sides are known,
        then one between them.
        """
        passed: float | None = None
        failed: float | None = None
        for known in sorted(self._points):
            if not self._keeps(known, limit):
                failed = known
                break
            passed = known
        while passed is None or failed is None:
            rate = failed / FACTOR if failed else passed * FACTOR if passed else rate
            if rate < 1e-3:
                return None
            if self._keeps(rate, limit):
                passed = rate
            else:
                failed = rate
        if failed / passed > FACTOR**0.6:
            between = (passed * failed) ** 0.5
            passed = between if self._keeps(between, limit) else passed
        return passed

    def _keeps(self, rate: float, limit: float) -> bool:
        if rate not in self._points:
            self._points[rate] = point = self._load.run(self._server, rate)
            print(json.dumps({"way": self._way, **point}), flush=True)
        point = self._points[rate]
        return set(point["statuses"]) == {"200"} and bool(point["p95"] <= limit)


def summary(
    asked: argparse.Namespace, alone: dict[str, Any], best: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """What all came to, for each limit."""
    names = ("source", "new", "lengths", "rows", "seconds")
    limits = {}
    for times, rates in best.items():
        fastest = rates.get("continuous")
        over = {f"over {way}": round(fastest / rate, 2) for way, rate in rates.items() if fastest}
        limits[times] = {
            "limit": round(float(times) * alone["p95"], 4),
            "requests a second": {way: rate and round(rate, 2) for way, rate in rates.items()},
            **over,
        }
    settings = {name: getattr(asked, name) for name in names}
    return {"bundle": asked.bundle.name, **settings, "alone": alone, "times the 95th": limits}


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measures the server under load: the most requests a second whose 95th percentile keeps a limit.

    python scripts/measure_serving.py [BUNDLE] --environment DIRECTORY [--source N] [--new N]
                                      [--lengths MIXTURE] [--rows N] [--seconds N] [--times N]
                                      [--ways WAY ...] [--cores SERVER CLIENT]

The server runs on one core, locust (serving_load.py, in an environment of its own, made at the
first use) on another. First one client asks again and again: the limit is --times the 95th
percentile of its answers. Then requests come at random times, at rates that grow until the limit is
passed, or any answer is not 200, and shrink again: each rate with a server that is warm, its first
fifth not counted. The ways:

one: --rows 1. static: rows join when none runs. continuous: as the server does by default.

The shipped preset is sent the words of tests/data/words.txt, and ends by itself; other bundles get
random ids, and exactly as many tokens are asked for as a mixture of request_lengths.py says. Output: a line
of JSON for each rate, and one for all.
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
    parser.add_argument("--times", type=float, default=5, help="limit over one request alone")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--begin", type=float, nargs="*", default=[], help="a first rate each")
    parser.add_argument("--cores", type=int, nargs=2, default=(0, 1))
    asked = parser.parse_args()
    locust = set_up(asked.environment)
    with tempfile.TemporaryDirectory() as directory:
        load = Load(asked, locust, Path(directory))
        load.bodies.write_text("".join(f"{json.dumps(each)}\n" for each in requests_of(asked)))
        alone, limit, rate, best = {}, None, 0.0, {}
        for place, way in enumerate(asked.ways):
            with serving(asked, way, Path(directory)) as server:
                first = load.run(server, 0)
                if limit is None:
                    alone, limit = first, asked.times * first["p95"]
                    rate = 0.7 / alone["mean"]
                    print(json.dumps({"alone": alone, "limit": limit}), flush=True)
                begin = asked.begin[place] if place < len(asked.begin) else rate
                best[way] = search(load, server, way, begin, limit)
                # What one way can do the next is first asked for.
                rate = (best[way] or {"rate": rate})["rate"]
    print(json.dumps(summary(asked, alone, limit, best)))


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

    def run(self, server: Server, rate: float) -> dict[str, Any]:
        """What became of requests at this rate; at 0, of those of one client."""
        times = ["--rate", str(rate), "--seconds", str(self._seconds)]
        cpu, _ = server.used()
        # It says 1 where an answer was no 200, which is looked at here.
        subprocess.run(
            [*self._command, "--host", server.url, *times], check=False, capture_output=True
        )
        told = json.loads(self._answers.read_text())
        self._answers.unlink()
        later, memory = server.used()
        counted = [each for each in told["answers"] if each[0] >= self._seconds / 5]
        seconds = np.array([each[1] for each in counted if each[2] == 200])
        statuses = [each[2] for each in counted]
        return {
            "rate": round(rate, 3),
            "asked": len(counted),
            "statuses": {str(each): statuses.count(each) for each in sorted(set(statuses))},
            "mean": round(float(seconds.mean()), 5) if len(seconds) else None,
            "p50": _percentile(seconds, 50),
            "p95": _percentile(seconds, 95),
            "server ms of CPU a request": round(1e3 * (later - cpu) / len(told["answers"]), 3),
            "client's share of its core": round(told["client_cpu"] / self._seconds, 2),
            "MiB": memory,
        }


def _percentile(seconds: Any, which: int) -> float | None:
    return round(float(np.percentile(seconds, which)), 5) if len(seconds) else None


def search(
    load: Load, server: Server, way: str, rate: float, limit: float
) -> dict[str, Any] | None:
    """The highest rate tried that keeps the limit: rates grow or shrink until both sides are known,
    then one between them.
    """
    passed: dict[str, Any] | None = None
    failed: float | None = None
    while passed is None or failed is None:
        point, kept = tried(load, server, way, rate, limit)
        if kept:
            passed, rate = point, rate * FACTOR
        else:
            failed, rate = rate, rate / FACTOR
        if rate < 1e-3:
            return None
    point, kept = tried(load, server, way, (passed["rate"] * failed) ** 0.5, limit)
    return point if kept else passed


def tried(
    load: Load, server: Server, way: str, rate: float, limit: float
) -> tuple[dict[str, Any], bool]:
    """What became of a rate, and whether it keeps the limit."""
    point = load.run(server, rate)
    kept = set(point["statuses"]) == {"200"} and point["p95"] <= limit
    print(json.dumps({"way": way, **point, "kept": kept}), flush=True)
    return point, kept


def summary(
    asked: argparse.Namespace, alone: dict[str, Any], limit: Any, best: dict[str, Any]
) -> dict[str, Any]:
    """What all came to."""
    rates = {way: point["rate"] for way, point in best.items() if point is not None}
    fastest = rates.get("continuous")
    over = {f"over {way}": round(fastest / rates[way], 2) for way in rates} if fastest else {}
    names = ("source", "new", "lengths", "rows", "seconds", "times")
    return {
        "bundle": asked.bundle.name,
        **{name: getattr(asked, name) for name in names},
        "alone": alone,
        "limit": limit,
        "requests a second": rates,
        **over,
    }


if __name__ == "__main__":
    main()

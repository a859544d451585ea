#!/usr/bin/env python3
"""Measures what exporting a checkpoint costs, and what opening and running the bundle costs.

    python scripts/make_random_checkpoint.py large /tmp/large
    python scripts/measure_export.py /tmp/large

Each runs in a child process, which is watched from outside: memory is the sum over the child and
its own children, looked at twenty times a second in /proc, so this needs Linux. It prints a table
and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
INTERVAL = 0.05  # seconds between two looks at the memory
FLOAT32_BYTES = 4

# Run in the child that has only the runtime: what a first user waits for.
GENERATE = """
import json, sys, time
started = time.perf_counter()
from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM
imported = time.perf_counter()
lm = OnnxBartSeq2SeqLM.from_preset(sys.argv[1], offline=True)
lm.compile(sampler="greedy")
opened = time.perf_counter()
lm.generate(sys.argv[2], max_length=int(sys.argv[3]))
first = time.perf_counter()
lm.generate(sys.argv[2], max_length=int(sys.argv[3]))
times = (started, imported, opened, first, time.perf_counter())
names = ("import_seconds", "open_seconds", "first_generate_seconds", "generate_seconds")
print(json.dumps({n: b - a for n, a, b in zip(names, times, times[1:])}))
"""


@dataclass
class Memory:
    """Highest sums over a process and its descendants, in bytes."""

    resident: int = 0
    anonymous: int = 0  # without the pages of mapped files, which the system can take back


@dataclass(frozen=True)
class Run:
    """One finished child."""

    seconds: float
    memory: Memory
    output: str


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    weight_bytes = float32_bytes(options.checkpoint)
    figures: dict[str, object] = {
        "checkpoint": options.checkpoint.name,
        "weight_bytes": weight_bytes,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        bundle = options.output or Path(work) / "bundle"
        try:
            figures |= measure_export(options.checkpoint, bundle, weight_bytes)
            figures |= measure_generate(bundle, options.text, options.max_length, weight_bytes)
        except subprocess.CalledProcessError as error:
            print(f"The child ended with status {error.returncode}: {error.cmd}", file=sys.stderr)
            return 1
    print_table(figures)
    rounded = {n: round(v, 3) if isinstance(v, float) else v for n, v in figures.items()}
    print(json.dumps(rounded))
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="a directory with *.safetensors")
    parser.add_argument("--output", type=Path, help="keep the bundle here; it must not exist")
    parser.add_argument("--work", type=Path, help="where temporary files go, if not the default")
    parser.add_argument("--text", default="The quick brown fox jumps over the lazy dog. " * 8)
    parser.add_argument("--max-length", type=int, default=32, help="decoder tokens to generate")
    options = parser.parse_args(arguments)
    if not any(options.checkpoint.glob("*.safetensors")):
        parser.error(f"{options.checkpoint} has no *.safetensors")
    if options.output and options.output.exists():
        parser.error(f"{options.output} exists; an export there would measure nothing")
    return options


def float32_bytes(checkpoint: Path) -> int:
    """What all tensors of a checkpoint take in float32, from the headers of its files."""
    total = 0
    for path in checkpoint.glob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        entries = (entry for name, entry in header.items() if name != "__metadata__")
        total += sum(math.prod(entry["shape"]) for entry in entries) * FLOAT32_BYTES
    return total


def measure_export(checkpoint: Path, bundle: Path, weight_bytes: int) -> dict[str, object]:
    run = watch(
        *("-m", "bart_onnx.export", "--preset", str(checkpoint)), *("--output", str(bundle))
    )
    bundle_bytes = size_on_disk(bundle)
    return {
        "export_seconds": run.seconds,
        "export_peak_bytes": run.memory.resident,
        "export_peak_anonymous_bytes": run.memory.anonymous,
        "export_peak_over_weights": run.memory.resident / weight_bytes,
        "bundle_bytes": bundle_bytes,
        "bundle_over_weights": bundle_bytes / weight_bytes,
    }


def measure_generate(
    bundle: Path, text: str, max_length: int, weight_bytes: int
) -> dict[str, object]:
    run = watch("-c", GENERATE, str(bundle), text, str(max_length))
    return {
        **json.loads(run.output.splitlines()[-1]),
        "max_length": max_length,
        "runtime_peak_bytes": run.memory.resident,
        "runtime_peak_anonymous_bytes": run.memory.anonymous,
        "runtime_peak_over_weights": run.memory.resident / weight_bytes,
    }


def watch(*arguments: str) -> Run:
    """Runs this Python with arguments, its messages going where ours go.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    memory = Memory()
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as child:
        done = threading.Event()
        watcher = threading.Thread(target=_sample, args=(child.pid, memory, done))
        watcher.start()
        assert child.stdout is not None
        output = child.stdout.read()
        # The kernel's own mark sees a peak between two looks, but only one process at a time.
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        done.set()
        watcher.join()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, [sys.executable, *arguments])
    memory.resident = max(memory.resident, usage.ru_maxrss * 1024)
    return Run(seconds, memory, output)


def _sample(pid: int, memory: Memory, done: threading.Event) -> None:
    while not done.wait(INTERVAL):
        looks = [_resident(each) for each in _family(pid)]
        memory.resident = max(memory.resident, sum(resident for resident, _ in looks))
        memory.anonymous = max(memory.anonymous, sum(anonymous for _, anonymous in looks))


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # it ended between the two looks
            continue
        for child in children:
            yield from _family(int(child))


def _resident(pid: int) -> tuple[int, int]:
    """Resident and anonymous bytes of one process; zeros if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    kibibytes = (int(fields.get(name, "0 kB").split()[0]) for name in ("VmRSS", "RssAnon"))
    resident, anonymous = (value * 1024 for value in kibibytes)
    return resident, anonymous


def size_on_disk(directory: Path) -> int:
    """Bytes of every file once, however many names it has."""
    files = _files(directory)
    return sum({(stat.st_dev, stat.st_ino): stat.st_size for stat in files}.values())


def _files(directory: Path) -> Iterable[os.stat_result]:
    return (path.stat() for path in directory.rglob("*") if path.is_file())


def print_table(figures: Mapping[str, object]) -> None:
    for name, value in figures.items():
        shown = value
        if isinstance(value, int) and name.endswith("_bytes"):
            name, shown = name.removesuffix("_bytes"), f"{value / MIB:,.1f} MiB"
        elif isinstance(value, float):
            unit = " s" if name.endswith("_seconds") else " x"
            shown = f"{value:.2f}{unit}"
        print(f"{name.removesuffix('_seconds').replace('_', ' '):<32} {shown:>16}")


if __name__ == "__main__":
    sys.exit(main())

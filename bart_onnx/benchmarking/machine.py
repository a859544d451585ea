"""The machine: which cores a run may use, and how fast one reads memory."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import numpy as np

from bart_onnx.runners.providers import stay_silent

# Far larger than the caches of any core.
_BUFFER_BYTES = 512 << 20
# What one vector keeps in the nearest cache while the buffer streams past it.
_COLUMNS = 2048


def pin(cores: list[int]) -> bool:
    """Hold this process and its children to these cores; False where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    os.sched_setaffinity(0, cores)
    return True


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def read_bandwidth(buffer_bytes: int = _BUFFER_BYTES, rounds: int = 5) -> float:
    """Bytes that this process reads from memory in a second of one core, the best of some rounds.

    The best and not the median: what a step could reach, were the machine its own.
    """
    buffer = np.ones((max(1, buffer_bytes // 4 // _COLUMNS), _COLUMNS), np.float32)
    vector = np.ones(_COLUMNS, np.float32)
    readers = (lambda: buffer @ vector, buffer.max)
    fastest = float("inf")
    for _ in range(rounds):
        for read in readers:
            started = time.process_time()
            read()
            fastest = min(fastest, time.process_time() - started)
    return buffer.nbytes / fastest


def description() -> dict[str, str | int | float]:
    """What figures depend on, besides the code."""
    stay_silent()
    import onnxruntime

    return {
        "processor": _processor(),
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": str(onnxruntime.__version__),
        "cores_of_machine": os.cpu_count() or 1,
    }


def load_average() -> float | None:
    """Processes that wanted a core in the last minute, this one included; None if not known."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def peak_bytes() -> int | None:
    """The most memory that this process has held at once; None where the system does not say.

    Not what `getrusage` says, which in a child begins with its parent's.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    peak = next((line for line in lines if line.startswith("VmHWM:")), None)
    return None if peak is None else int(peak.split()[1]) * 1024


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())

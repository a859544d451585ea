"""Cases run one after the other, each in a child process, and what is reported of each."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bart_onnx.benchmarking.cases import Case
from bart_onnx.errors import BartOnnxError, InputError

_CHILD = "bart_onnx.benchmarking.child"


@dataclass(frozen=True)
class Opening:
    """How a child opens the model; see `BartBackbone.from_preset`."""

    preset: str
    precision: str
    device: str
    threads: int
    offline: bool


def measure(
    opening: Opening, case: Case, repetitions: int, bandwidth: float | None
) -> dict[str, Any]:
    """The figures of one case.

    Args:
        repetitions: timed generations, after one that is not.
        bandwidth: bytes that memory gives in a second of one core, against which a step's core
            time is held: both leave out the time that a core spent on other processes. None where
            steps do not read it.

    Raises:
        InputError: the preset cannot be opened, or the case is longer than the model's positions.
        BartOnnxError: the child ended without an answer.
    """
    asked = {**asdict(opening), "case": asdict(case), "repetitions": repetitions}
    command = [sys.executable, "-m", _CHILD, json.dumps(asked)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    answer = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
    if "error" in answer:
        raise InputError(answer["error"])
    if done.returncode or not answer:
        raise BartOnnxError(f"The process that measured {case} ended with {done.returncode}.")
    return _reported(answer, bandwidth)


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Least, median and most; None where there are no values."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _reported(found: Mapping[str, Any], bandwidth: float | None) -> dict[str, Any]:
    case = found["case"]
    timed = {name: spread(found[name]) for name in found if name.endswith("_seconds")}
    tokens = case["batch"] * case["tokens"]
    step = timed["step_cpu_seconds"]
    bound = found["step_bytes"] / bandwidth if bandwidth else None
    end_to_end = timed["end_to_end_seconds"]
    assert end_to_end is not None
    return {
        **case,
        **timed,
        "tokens_per_second": tokens / end_to_end["median"],
        "bytes_per_second": bandwidth,
        "step_bytes": found["step_bytes"],
        "step_bound_seconds": bound,
        "share_of_bandwidth": bound / step["median"] if step and bound else None,
        "share_of_core": found["share_of_core"],
        "peak_bytes": found["peak_bytes"],
        "bundle_bytes": found["bundle_bytes"],
        "precision": found["precision"],
        "device": found["device"],
    }

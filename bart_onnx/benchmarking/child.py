"""One case in a process of its own, so that its peak memory is its own and nothing is warm.

Started by `benchmarking.children`; it reads one JSON object from its arguments and prints another.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bart_onnx.backbone import BartBackbone
from bart_onnx.benchmarking.cases import Case, check_fits
from bart_onnx.benchmarking.clock import Trial, run_once
from bart_onnx.benchmarking.machine import peak_bytes
from bart_onnx.benchmarking.roofline import step_cache_bytes, step_weight_bytes
from bart_onnx.errors import BartOnnxError
from bart_onnx.graphs import cache_names, decoder_step_graph
from bart_onnx.runners.opening import BundleRunner


def main() -> int:
    """Measure, and print what was found; an error is said as {"error": ...}."""
    asked = json.loads(sys.argv[1])
    case = Case(**asked["case"])
    try:
        started = time.perf_counter()
        backbone = BartBackbone.from_preset(
            asked["preset"],
            precision=asked["precision"],
            device=asked["device"],
            threads=asked["threads"],
            offline=asked["offline"],
        )
        backbone.open()
        load = time.perf_counter() - started
        check_fits(case, backbone.config)
        run_once(backbone.runner, case)
        trials = [run_once(backbone.runner, case) for _ in range(asked["repetitions"])]
    except BartOnnxError as error:
        print(json.dumps({"error": str(error)}))
        return 1
    print(json.dumps(figures(case, backbone.runner, trials) | {"load_seconds": [load]}))
    return 0


def figures(case: Case, runner: BundleRunner, trials: Sequence[Trial]) -> dict[str, Any]:
    """What `children` puts together: lists of seconds, and what they are to be held against."""
    steps = [step for trial in trials for step in trial.steps]
    return {
        "case": asdict(case),
        "precision": runner.bundle.precision,
        "device": runner.device,
        "end_to_end_seconds": [trial.seconds for trial in trials],
        "first_token_seconds": [trial.first_token for trial in trials],
        "encoder_seconds": [trial.encoder for trial in trials],
        "encoder_cpu_seconds": [trial.cpu_encoder for trial in trials],
        "step_seconds": [step.seconds for step in steps],
        "step_cpu_seconds": [step.cpu_seconds for step in steps],
        "step_outside_runner_cpu_seconds": [s.cpu_seconds - s.cpu_in_runner for s in steps],
        "share_of_core": sum(trial.cpu_seconds for trial in trials)
        / sum(trial.seconds for trial in trials),
        "step_bytes": _step_bytes(case, runner, trials),
        "peak_bytes": peak_bytes(),
        "bundle_bytes": sum(
            path.stat().st_size for path in runner.bundle.path.rglob("*") if path.is_file()
        ),
    }


def _step_bytes(case: Case, runner: BundleRunner, trials: Sequence[Trial]) -> float:
    """What a step must read, on average."""
    config = runner.config
    graph = decoder_step_graph(config, runner.bundle.precision)
    dtypes = {spec.name: spec.dtype for spec in graph.inputs}
    names = cache_names(0)
    weights = step_weight_bytes(config, runner.bundle.precision)
    caches = [
        step_cache_bytes(
            config,
            cross=_number_bytes(dtypes[names.cross_key]) * (step.rows // case.beams) * case.source,
            own=_number_bytes(dtypes[names.self_key]) * step.rows * (step.past + 1),
        )
        for trial in trials
        for step in trial.steps
    ]
    return weights + (statistics.fmean(caches) if caches else 0.0)


def _number_bytes(dtype: str) -> int:
    """Bytes of one number; numpy has no bfloat16."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


if __name__ == "__main__":
    sys.exit(main())

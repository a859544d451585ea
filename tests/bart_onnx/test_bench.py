"""python -m bart_onnx.bench on the shipped preset: what it prints, not how long that took."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bart_onnx.backbone import BartBackbone
from bart_onnx.benchmarking.cases import Case
from bart_onnx.benchmarking.clock import run_once
from bart_onnx.benchmarking.roofline import step_cache_bytes, step_weight_bytes
from bart_onnx.presets import PRESETS

PRESET = "bart_tiny_en_g2p"
SMALL = ("--source", "8", "--tokens", "3", "--repetitions", "1", "--buffer-mib", "4")
RUN_KEYS = {
    *("preset", "processor", "system", "python", "numpy", "onnxruntime", "cores_of_machine"),
    *("cores", "threads", "repetitions", "load_average_before", "load_average_after"),
    *("device", "cases"),
}
CASE_KEYS = {
    *("source", "tokens", "beams", "batch", "precision", "tokens_per_second", "share_of_core"),
    *("end_to_end_seconds", "first_token_seconds", "load_seconds", "encoder_seconds"),
    *("encoder_cpu_seconds", "step_seconds", "step_cpu_seconds", "step_outside_runner_cpu_seconds"),
    *(
        "bytes_per_second",
        "step_bytes",
        "step_bound_seconds",
        "share_of_bandwidth",
        "peak_bytes",
        "bundle_bytes",
        "device",
    ),
}


def bench(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "bart_onnx.bench", "--preset", PRESET, "--offline", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_last_line_is_json_with_every_figure():
    done = bench(*SMALL, "--beams", "1", "2", "--batch", "2")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert set(report) == RUN_KEYS
    assert [(case["beams"], case["batch"]) for case in report["cases"]] == [(1, 2), (2, 2)]
    for case in report["cases"]:
        assert set(case) == CASE_KEYS
        for name in (name for name in case if name.endswith("_seconds") and "bound" not in name):
            assert 0 < case[name]["min"] <= case[name]["median"] <= case[name]["max"]


def test_a_case_of_one_token_has_no_step():
    done = bench(*SMALL, "--tokens", "1", "--beams", "1", "--batch", "1")
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(done.stdout.splitlines()[-1])["cases"]
    assert case["step_seconds"] is None
    assert case["share_of_bandwidth"] is None


def test_another_device_is_not_held_against_the_cpus_memory():
    done = bench(*SMALL, "--beams", "1", "--batch", "1", "--device", "auto")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    (case,) = report["cases"]
    assert report["device"] == "auto"
    assert case["device"] in ("cpu", "cuda")
    assert case["bytes_per_second"] is None is case["share_of_bandwidth"]
    assert case["step_seconds"]["median"] > 0


def test_a_device_that_is_not_there_is_said():
    done = bench(*SMALL, "--device", "tpu")
    assert done.returncode == 1
    assert "Device 'tpu' is unknown" in done.stderr
    done = bench(*SMALL, "--device", "cuda", "--plot", "steps.png")
    assert done.returncode == 1
    assert "--plot draws a core's time" in done.stderr


def test_what_is_too_long_for_the_model_is_refused():
    done = bench(*SMALL, "--source", "4096")
    assert done.returncode == 1
    assert "positions" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("--tokens", "0"), ("--cores", "one"), ("--no-such-flag",)])
def test_wrong_usage_exits_with_2(arguments):
    assert bench(*arguments).returncode == 2


def test_a_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "steps.png"
    done = bench(*SMALL, "--beams", "1", "--batch", "1", "--plot", str(path))
    assert done.returncode == 0, done.stderr
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("beams", "batch"), [(1, 1), (3, 2)])
def test_every_step_is_timed_and_the_length_is_exact(beams, batch):
    runner = BartBackbone.from_preset(PRESET, offline=True).runner
    trial = run_once(runner, Case(source=8, tokens=5, beams=beams, batch=batch))
    assert [(step.rows, step.past) for step in trial.steps] == [
        (beams * batch, past) for past in (1, 2, 3, 4)
    ]
    assert 0 < trial.encoder < trial.first_token < trial.seconds


def test_bytes_of_a_step_are_those_worked_out_by_hand():
    config = PRESETS["bart_large_en_cnn"].config
    # 12 decoder layers with their biases and norms, less cross keys and values, and the projection.
    assert step_weight_bytes(config, "fp32") == pytest.approx(911e6, rel=0.01)
    assert step_weight_bytes(config, "int8") == pytest.approx(228e6, rel=0.01)
    cache = step_cache_bytes(config, cross=4 * 1024, own=4 * 64)
    assert cache == 2 * 12 * 1024 * 4 * (1024 + 64)

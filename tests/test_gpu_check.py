"""scripts/gpu_check where there is no GPU: what it measures on a CPU, and what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bart_onnx.findings import findings

ROOT = Path(__file__).resolve().parents[1]
PRESET = ROOT / "models" / "bart_tiny_en_g2p"


def gpu_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "scripts" / "gpu_check"), *arguments]
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_on_a_cpu_it_measures_and_says_what_it_left_out(tmp_path: Path) -> None:
    asked = ("--device", "cpu", "--bundle", str(PRESET), "--batches", "1 2", "--source", "20")
    done = gpu_check(*asked, "--tokens", "4", "--repetitions", "1", "--output", str(tmp_path))
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["failed"]) == (0, True, [])
    assert "tests marked gpu" in report["skipped"][0]
    (bench,) = report["benchmarks"]
    assert [case["batch"] for case in bench["cases"]] == [1, 2]
    assert report["doctor"]["devices"]["cpu"]
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_without_a_gpu_it_fails_with_what_is_missing() -> None:
    if findings()["devices"]["cuda"]:
        pytest.skip("a GPU runs here")
    done = gpu_check()
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (1, False)
    assert "cuda does not run here" in report["failed"][0]
    assert report["benchmarks"] == []
    assert any(each["device"] == "cuda" for each in report["doctor"]["missing"])


def test_a_bundle_that_is_not_there_is_a_failure() -> None:
    done = gpu_check("--device", "cpu", "--bundle", "/nowhere")
    assert done.returncode == 1
    assert json.loads(done.stdout)["failed"] == ["the benchmark of /nowhere: it is no bundle"]


@pytest.mark.parametrize("arguments", [("--nothing", "1"), ("--bundle",)])
def test_wrong_usage_is_told(arguments: tuple[str, ...]) -> None:
    assert gpu_check(*arguments).returncode == 2

"""scripts/benchmark*.py: what its workers answer, and what is made of that; no engine but ours."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WORKER = ROOT / "scripts" / "benchmark_worker.py"
PRESET = ROOT / "models" / "bart_tiny_en_g2p"


def ask(*lines):
    done = subprocess.run(
        [sys.executable, str(WORKER), "bart_onnx"],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_worker_gives_as_many_tokens_as_asked_and_says_how_long_that_took():
    loaded, *answers = ask(
        {"do": "load", "model": str(PRESET), "threads": 1},
        {"do": "generate", "ids": [[5, 6, 2], [7, 8, 2]], "beams": 1, "tokens": 4},
        {"do": "generate", "ids": [[5, 6, 2]], "beams": 2, "tokens": 1},
    )
    assert "error" not in loaded, loaded
    for answer in answers:
        assert answer["wall"] > 0, answer
        assert answer["cpu"] > 0
        assert answer["peak_bytes"] > 1 << 20


def test_a_worker_says_what_it_could_not():
    (answer,) = ask({"do": "load", "model": "/no/such/place", "threads": 1})
    assert "error" in answer


def test_ratios_are_taken_pair_by_pair():
    ratios = runpy.run_path(str(ROOT / "scripts" / "benchmark_ratios.py"))
    (row,) = ratios["summary"]([pair(slowness) for slowness in (1, 2, 9)])
    assert row["pairs"] == 3
    for clock in ("cpu", "wall"):
        # Both sides slow down alike, so no ratio sees it.
        assert row[f"step {clock}"]["ratio"] == pytest.approx(0.5)
        assert row[f"step {clock}"]["least"] == pytest.approx(0.5)
        assert row[f"step {clock}"]["most"] == pytest.approx(0.5)
        assert row[f"step {clock}"]["ours"] == pytest.approx(0.02)
        assert row[f"encoder {clock}"]["ratio"] == pytest.approx(1.02)
    assert "0.50 (0.50 to 0.50)" in ratios["markdown"]([row], "cpu")


def pair(slowness):
    """11 tokens: steps of 10 ms against 20 ms."""

    def run(seconds):
        return {"cpu": seconds * slowness, "wall": seconds * slowness, "peak_bytes": 1 << 20}

    head = {
        "model": "m",
        "source": 8,
        "tokens": 11,
        "batch": 1,
        "beams": 1,
        "threads": 1,
        "peer": "other",
    }
    return {
        **head,
        "load": 1.0,
        "versions": {},
        "ours": {"one": run(1.03), "all": run(1.13)},
        "theirs": {"one": run(1.02), "all": run(1.22)},
    }


def test_a_checkpoint_gets_what_version_5_leaves_out(tmp_path):
    worker = runpy.run_path(str(WORKER))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text('{"normalize_before": true, "d_model": 8}')
    (tmp_path / "a" / "model.safetensors").write_bytes(b"weights")
    for _ in range(2):
        made = worker["as_version_4"](tmp_path / "a", tmp_path / "b")
    config = json.loads((made / "config.json").read_text())
    assert config["normalize_before"] is True
    assert config["normalize_embedding"] is True
    assert config["d_model"] == 8
    assert (made / "model.safetensors").read_bytes() == b"weights"

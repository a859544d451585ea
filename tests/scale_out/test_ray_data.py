"""A corpus on a real Ray Data, whose driver is killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from scale_out.ray_cluster import ray_on_loopback

from bart_onnx import OnnxBartSeq2SeqLM, generate
from bart_onnx.ray_data import Predictor

# What warns is Ray's own code.
pytestmark = [pytest.mark.scale_out, pytest.mark.filterwarnings("ignore")]

NAME = "bart_tiny_en_g2p"
MODEL = ("--preset", NAME, "--offline", "--chunk-tokens", "400", "--num-beams", "4")
STARTS = ("onnx", "banana", "knight", "zebra", "summary", "relation", "through", "cloud")
ROWS = 1200


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "words.jsonl"
    rows = [{"id": f"row-{n}", "text": f"{STARTS[n % 8]}{n}"} for n in range(ROWS)]
    rows[700]["text"] = "x" * 100  # too long for the model: its line says so
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def started(corpus, output):
    command = [sys.executable, "-m", "bart_onnx.ray_data", *MODEL]
    command += ["--input", str(corpus), "--output", str(output)]
    command += ["--actors", "2", "--actor-cpus", "0.5"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def parts(output):
    return sorted(output.glob("part-*.jsonl"))


def test_a_killed_run_goes_on_and_each_row_has_one_result(corpus, tmp_path, capsys):
    output = tmp_path / "out"
    killed = started(corpus, output)
    while len(parts(output)) < 5:
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    kept = {path: path.stat().st_ino for path in parts(output)}
    began = time.monotonic()
    again = started(corpus, output)
    said = again.communicate(timeout=300)[1]
    assert again.returncode == 1, said  # one text is too long
    assert "error: 1 of 1200 texts failed" in said

    whole = tmp_path / "whole.jsonl"
    flags = [*MODEL, "--input", str(corpus), "--output", str(whole), "--no-progress"]
    assert generate.main(flags) == 1
    assert b"".join(path.read_bytes() for path in parts(output)) == whole.read_bytes()
    assert len(kept) < len(parts(output))
    assert all(path.stat().st_ino == kept[path] for path in kept)
    with capsys.disabled():
        print(
            f"\nRay Data: killed with {len(kept)} of {len(parts(output))} files there; gone on in "
            f"{time.monotonic() - began:.1f} s: the same bytes as one process writes"
        )


def test_batches_of_a_dataset(tmp_path):
    words = [f"{STARTS[n % 8]}{n}" for n in range(64)]
    with ray_on_loopback():
        import ray

        dataset = ray.data.from_items([{"text": word, "n": n} for n, word in enumerate(words)])
        found = dataset.map_batches(
            Predictor,
            fn_constructor_args=([*MODEL, "--threads", "1"],),
            batch_size=16,
            concurrency=1,
            num_cpus=1,
        ).take_all()
    lm = OnnxBartSeq2SeqLM.from_preset(NAME, offline=True, threads=1)
    rows = sorted(found, key=lambda row: row["n"])
    assert [row["generated"] for row in rows] == lm.generate(words, num_beams=4)
    assert {row["error"] for row in rows} == {""}

"""scripts/verify_real_weights.py as it is run, against a loopback Kaggle and a loopback hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from keras_files import GOLDEN, PRESET
from loopback_hub import loopback_hub
from loopback_kaggle import kaggle_for_tests
from tiny_checkpoints import golden_config, random_tensors, write_checkpoint

from bart_onnx.presets import PRESETS

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "verify_real_weights.py"
CNN = PRESETS["bart_large_en_cnn"]
# The tiny model has 48 positions, and the config asks for more tokens.
OPTIONS = ["--limit", "3", "--num-beams", "3", "--option", "max_length=24"]
OPTIONS += ["--option", "min_length=4"]

Run = Callable[..., subprocess.CompletedProcess[str]]


def finished(child: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert "Traceback" not in child.stderr, child.stderr
    return child


def with_generation_config(directory: Path) -> Path:
    own = {name: value for name, value in CNN.generation_config.items() if name != "prefix"}
    (directory / "generation_config.json").write_text(json.dumps(own))
    config = json.loads((directory / "config.json").read_text())
    config["prefix"] = CNN.generation_config["prefix"]
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The script with a published preset, and "someone/else", whose weights are others."""
    same = shutil.copytree(GOLDEN / "hf_checkpoint", tmp_path / "same")
    other = shutil.copytree(GOLDEN / "hf_checkpoint", tmp_path / "other")
    write_checkpoint(other, golden_config(), random_tensors(golden_config()))
    with loopback_hub() as hub, kaggle_for_tests(monkeypatch, tmp_path / "cache") as kaggle:
        kaggle.variants["keras/bart/bart_large_en_cnn"] = {3: PRESET}
        hub.add("facebook/bart-large-cnn", with_generation_config(same))
        hub.add("someone/else", with_generation_config(other))
        environment = {
            **os.environ,
            "LOOPBACK_KAGGLE": kaggle.url,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "BART_ONNX_HOME": str(tmp_path / "store"),
            "PYTHONPATH": str(ROOT),
        }

        def finished_run(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, str(ROOT / "tests" / "loopback_child.py"), str(SCRIPT)]
            command += [*OPTIONS, *arguments]
            child = subprocess.run(command, env=environment, capture_output=True, text=True)
            return finished(child)

        yield finished_run


def test_a_source_against_itself_and_transformers(run: Run) -> None:
    passed = run("--kaggle", CNN.sources[1], "--limit", "1", "--no-int8")
    assert passed.returncode == 0, passed.stdout + passed.stderr
    lines = passed.stdout.splitlines()
    assert lines[0] == f"1 documents; {CNN.sources[1]}; {CNN.sources[1]}"
    assert lines[2] == "logits, Kaggle and hub: equal, largest difference 0 of 0.0001"
    assert lines[5] == "tokens, hub and transformers: equal"
    assert lines[6].startswith("fp32: rouge1 ")
    assert '"length_penalty": 2.0' in lines[7]
    assert '"num_beams": 3' in lines[7]
    assert '"prefix"' not in lines[7]
    assert len(lines) == 8


@pytest.mark.heavy
def test_equal_sources_pass_and_others_fail(run: Run) -> None:
    passed = run()
    assert passed.returncode == 0, passed.stdout + passed.stderr
    lines = passed.stdout.splitlines()
    assert lines[0] == f"3 documents; {CNN.sources[0]}; {CNN.sources[1]}"
    assert lines[1] == "source ids, Kaggle and hub: equal"
    assert lines[2] == "logits, Kaggle and hub: equal, largest difference 0 of 0.0001"
    assert lines[5] == "tokens, hub and transformers: equal"
    assert lines[8].startswith("int8: rouge1 ")
    failed = run("--hub", "hf://someone/else", "--limit", "2", "--no-int8")
    assert failed.returncode == 1
    assert "logits, Kaggle and hub: DIFFERENT" in failed.stdout
    assert "tokens, Kaggle and hub: DIFFERENT" in failed.stdout
    assert "tokens, hub and transformers: equal" in failed.stdout


def test_what_differs_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    monkeypatch.syspath_prepend(SCRIPT.parent)
    from verify_real_weights import Outcome, check, same

    ids = [np.array([2, 0, 7, 2]), np.array([2, 0, 5, 2])]
    assert same("tokens", ids, [ids[0], ids[1].copy()])
    assert not same("tokens", ids, [ids[0], np.array([2, 0, 6, 2])])
    assert not same("tokens", ids, [ids[0], np.array([2, 0, 2])])
    said = capsys.readouterr().out
    assert "document 1: from place 2 on" in said
    assert "document 1: 4 and 3" in said
    found = Outcome(ids, [np.zeros((2, 3), np.float32)] * 2, ids, ["a", "b"], "")
    assert check(found, found, ids, ids)
    assert not check(found, found, ids, ids[::-1])
    assert not check(found, found, ids[::-1], ids)

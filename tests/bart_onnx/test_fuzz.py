"""Readers and what nobody wrote: a short run of `scripts/fuzz`, and what holds of every input."""

from __future__ import annotations

import collections
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fuzz_apart import outcomes_apart
from fuzz_readers import READERS
from fuzz_trial import Reader, TrialError, Trials

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
KEPT = TESTS / "data" / "fuzz"
INPUTS, SECONDS = 1000, 2


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a process of its own said of each reader: there memory can be measured."""
    found = tmp_path_factory.mktemp("fuzz")
    script = ROOT / "scripts" / "run_fuzz.py"
    limits = [f"--inputs={INPUTS}", f"--seconds={SECONDS}", f"--found={found}"]
    done = subprocess.run(
        [sys.executable, str(script), "--plain", *limits],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode in (0, 1), done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {line["reader"]: line for line in lines}


@pytest.mark.parametrize("name", READERS)
def test_reads_or_refuses(outcomes: dict[str, dict[str, Any]], name: str) -> None:
    outcome = outcomes[name]
    assert "failure" not in outcome, outcome
    kept = len(list((KEPT / name).glob("*")))
    assert outcome["inputs"] > kept + len(READERS[name].seeds())
    assert outcome["read"] > 0, "no input was read: its honest ones are none"


def test_what_is_kept_is_small_and_of_readers() -> None:
    files = [path for path in KEPT.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= {*READERS}
    assert sum(path.stat().st_size for path in files) < 300_000


def _writes(data: bytes, directory: Path) -> None:
    (directory / "x").write_bytes(data)


def _connects(data: bytes, directory: Path) -> None:
    import socket

    with socket.socket() as opened:
        opened.connect(("127.0.0.1", 1))


def _unpickles(data: bytes, directory: Path) -> None:
    import pickle

    pickle.loads(b"cos\nsystem\n(S'true'\ntR.")


def _spins(data: bytes, directory: Path) -> None:
    import time

    started = time.process_time()
    while time.process_time() - started < 1.1:
        pass


def _never_ends(data: bytes, directory: Path) -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (_writes, "to write"),
        (_connects, r"socket\."),
        (_unpickles, "pickle.find_class"),
        (_spins, r"it took 1\.\d s"),
        (_never_ends, "had not ended"),
        (lambda data, directory: bytearray(5 << 20), "bytes were taken for an input of 1"),
        (lambda data, directory: [][0], "IndexError"),
        (lambda data, directory: int("x" * 5000), "ValueError"),
    ],
)
def test_what_a_reader_must_not_do_is_seen(
    read: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuzz_trial.SECONDS", 1.0 if read is not _never_ends else 0.1)
    trials = Trials("x", Reader(read, lambda: [b"x"]), tmp_path)
    with pytest.raises(TrialError, match=said):
        trials.try_input(b"x")


_ENDLESS = """
import collections, itertools, pathlib, sys
import fuzz_trial

fuzz_trial.SECONDS = 0.05
reader = fuzz_trial.Reader(
    lambda data, directory: collections.deque(itertools.repeat(0), maxlen=0), lambda: [b"x"]
)
fuzz_trial.Trials("x", reader, pathlib.Path(sys.argv[1])).try_input(b"x")
"""


def test_a_library_that_does_not_end_is_ended(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ENDLESS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGPROF, done.stderr
    assert "in _was_read" in done.stderr


def _reads_dies_or_spins(data: bytes, directory: Path) -> None:
    if data == b"dies":
        signal.raise_signal(signal.SIGKILL)
    if data == b"spins":
        collections.deque(itertools.repeat(0), maxlen=0)
    if data == b"fails":
        raise LookupError("a fault of ours")


def test_trials_apart_name_what_ends_a_child_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuzz_trial.SECONDS", 0.1)
    trials = Trials("x", Reader(_reads_dies_or_spins, lambda: [b"x"]), tmp_path)
    inputs = [b"a", b"spins", b"b", b"dies", b"fails", b"c"]
    found = list(outcomes_apart(trials, iter(inputs)))
    assert [data for data, _ in found] == inputs
    failures = {data: failure for data, failure in found if failure}
    assert failures.keys() == {b"spins", b"dies", b"fails"}
    assert failures[b"spins"] == f"it did not end (status -{signal.SIGPROF:d})"
    assert failures[b"dies"] == f"it ended the process (status -{signal.SIGKILL:d})"
    assert "LookupError: a fault of ours" in failures[b"fails"]
    assert (trials.count, trials.read) == (6, 3)

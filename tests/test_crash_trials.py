"""What finds faults of crash safety does find them: tests/crash_*.py and faulty_files.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from crash_downloads import KaggleDownload
from crash_exports import Export
from crash_trial import digest
from crash_watch import Watch
from faulty_files import Fault, Faults


def written(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return {str(path) for path in paths}


def test_what_an_export_left_over_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("BART_ONNX_HOME", "set by the scenario")
    export = Export.__new__(Export)  # without the graphs that it puts in the place of traced ones
    place = export.place(tmp_path)
    written(place / "weights.bin", place / "tokenizer" / "vocab.json")
    assert export.leftovers(tmp_path) == []
    unfinished = place.with_name(".fp32.unfinished") / "weights.bin"
    strays = written(tmp_path / "home" / "a", place.parent / "b", unfinished)
    assert strays <= set(export.leftovers(tmp_path))


def test_what_a_download_from_kaggle_left_over_is_seen(tmp_path):
    kaggle = KaggleDownload.__new__(KaggleDownload)  # without the server
    kaggle.files = {"config.json": b""}
    variant = tmp_path / "cache" / "models" / "keras" / "bart" / "keras" / "tiny"
    written(variant / "1" / "config.json", variant / ".complete" / "1" / "config.json.complete")
    assert kaggle.leftovers(tmp_path) == []
    strays = written(variant / "1.archive", variant / "1" / "config.json.part")
    assert set(kaggle.leftovers(tmp_path)) == strays


FULL = """
import sys
from pathlib import Path
from faulty_files import Fault, Faults
root = Path(sys.argv[1])
faults = Faults(root, Fault(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
faults.install()
(root / "first").write_text("x" * 100)
(root / "second").write_text("y" * 100)
"""


@pytest.mark.parametrize(
    ("kind", "at", "says", "left"),
    [
        ("EFBIG", 0, "File too large", {"first": 60}),
        ("EFBIG", 3, "File too large", {"first": 100, "second": 60}),
        ("SIGXFSZ", 0, "", {"first": 60}),
        ("EIO", 0, "", {"first": 100, "second": 100}),
        ("EIO", 1, "Input/output error", {}),
        # Python writes once more what is left when it lets go of the file.
        ("EIO", 2, "Input/output error", {"first": 100}),
        # Of a write that was interrupted, as PEP 475 says, nobody hears.
        ("EINTR", 2, "", {"first": 100, "second": 100}),
        ("EINTR", 3, "Interrupted system call", {"first": 100}),
        ("ENOSPC", 3, "No space left on device", {"first": 100}),
        ("ENOSPC", 4, "No space left on device", {"first": 100, "second": 0}),
        ("interrupt", 3, "KeyboardInterrupt", {"first": 100}),
        ("kill", 2, "", {"first": 50}),
    ],
)
def test_the_faults_are_what_they_say(tmp_path, kind, at, says, left):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", FULL, str(tmp_path), kind, str(at), "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert says in done.stderr
    assert (done.returncode == 0) == (left == {"first": 100, "second": 100})
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == left


def test_a_name_before_the_content_is_on_the_disk_is_seen(tmp_path):
    watch = Watch(tmp_path)
    for name in ("early", "late", "again"):
        (tmp_path / f"{name}.part").write_text(name)
    watch(1, "fsync", tmp_path / "late.part")
    watch(2, "fsync", tmp_path / "again.part")
    watch(3, "write", tmp_path / "again.part")
    watch(4, "rename", tmp_path / "early")
    for name in ("early", "late", "again"):
        (tmp_path / f"{name}.part").rename(tmp_path / name)
    unconfirmed = watch.unconfirmed(4)
    named = {line.rpartition("/")[2] for line in watch.unsynced}
    assert named == {"early", "again"}
    assert set(unconfirmed) == {str(tmp_path), *(str(tmp_path / name) for name in named)}
    watch(6, "fsync", tmp_path)
    assert str(tmp_path) not in watch.unconfirmed(6)


def test_a_directory_gets_its_name_after_what_it_holds(tmp_path):
    watch = Watch(tmp_path)
    (tmp_path / "staging").mkdir()
    watch(1, "fsync", tmp_path / "staging")
    (tmp_path / "staging" / "file").write_text("x")
    watch(2, "fsync", tmp_path / "staging" / "file")
    (tmp_path / "staging").rename(tmp_path / "place")
    watch(3, "fsync", tmp_path)
    assert len(watch.unsynced) == 1
    assert watch.unsynced[0].endswith("staging became " + str(tmp_path / "place"))
    assert watch.unconfirmed(3) == [str(tmp_path / "place")]


def test_states_that_differ_are_judged_apart(tmp_path):
    (tmp_path / "a").write_text("x")
    first = digest(tmp_path)
    os.utime(tmp_path / "a", (1, 1))
    assert digest(tmp_path) == first
    (tmp_path / "a").write_text("y")
    second = digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, digest(tmp_path)}) == 3


def test_what_lies_elsewhere_does_not_fail(tmp_path):
    faults = Faults(tmp_path / "here", Fault("EIO", 1))
    faults.operation("open", tmp_path / "elsewhere")
    faults.operation("open", tmp_path / "here2")
    assert faults.count == 0
    with pytest.raises(OSError, match="Input/output"):
        faults.operation("open", tmp_path / "here" / "deep" / "file")

"""A fault at operations on files: afterwards there is what was, or what was to be.

Here a sample of the operations fails; all of them, one after the other: scripts/crash_safety.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from crash_downloads import KaggleDownload
from crash_exports import Export
from crash_scenarios import SCENARIOS
from faulty_files import Faults

from bart_onnx.errors import ExportError
from bart_onnx.locks import held_if_free
from bart_onnx.publish import claim, publish, remove_abandoned, staged
from bart_onnx.verification import faults

CHILD = Path(__file__).resolve().parents[1] / "crash_child.py"


def interrupted(directory, *arguments):
    """What tests/crash_child.py found."""
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    command.insert(3, str(directory))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("scenario", "every", "least"),
    [
        ("export", 90, 150),
        ("triton", 20, 80),
        ("checkpoint", 1, 7),
        ("download", 50, 60),
        ("kaggle", 20, 30),
    ],
)
def test_a_fault_leaves_the_old_state_or_the_new(tmp_path, tiny_bundle, scenario, every, least):
    if scenario in ("download", "kaggle"):
        pytest.importorskip("kagglehub", reason="the [hub] extra is not installed")
    arguments = ["--every", every, "--graphs", tiny_bundle]
    found = interrupted(tmp_path / "work", scenario, *arguments)
    assert found["failures"] == []
    assert found["operations"] >= least
    assert found["trials"] >= 5
    assert found["states"]["old"] > 0


def test_eight_exports_at_once_build_once(tmp_path, tiny_bundle):
    found = interrupted(tmp_path / "work", "race", "--graphs", tiny_bundle)
    assert found["statuses"] == [0] * 8
    assert (found["builds"], found["state"]) == (1, "new")


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
    kaggle._files = {"config.json": b""}
    variant = tmp_path / "cache" / "models" / "keras" / "bart" / "keras" / "tiny"
    written(variant / "1" / "config.json", variant / ".complete" / "1" / "config.json.complete")
    assert kaggle.leftovers(tmp_path) == []
    strays = written(variant / "1.archive", variant / "1" / "config.json.part")
    assert set(kaggle.leftovers(tmp_path)) == strays


@pytest.mark.heavy
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_operation_of_every_kind(tmp_path, tiny_bundle, scenario, capsys):
    found = interrupted(tmp_path / "work", scenario, "--graphs", tiny_bundle)
    with capsys.disabled():
        print(f"\n{json.dumps(found)}")
    assert found["failures"] == []
    assert found["states"]["old"] > 0


FULL = """
import sys
from pathlib import Path
from faulty_files import Faults
root = Path(sys.argv[1])
faults = Faults(root, sys.argv[2], int(sys.argv[3]))
faults.install()
(root / "first").write_text("x" * 100)
(root / "second").write_text("y" * 100)
"""


@pytest.mark.parametrize(
    ("kind", "at", "says", "left"),
    [
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
    environment = {**os.environ, "PYTHONPATH": str(CHILD.parent)}
    command = [sys.executable, "-c", FULL, str(tmp_path), kind, str(at)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert says in done.stderr
    assert (done.returncode == 0) == (left == {"first": 100, "second": 100})
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == left


def test_what_lies_elsewhere_does_not_fail(tmp_path):
    faults = Faults(tmp_path / "here", "EIO", 1)
    faults.operation("open", tmp_path / "elsewhere")
    faults.operation("open", tmp_path / "here2")
    assert faults.count == 0
    with pytest.raises(OSError, match="Input/output"):
        faults.operation("open", tmp_path / "here" / "deep" / "file")


def test_a_name_that_the_disk_does_not_confirm_is_told_as_it_is(tmp_path, monkeypatch):
    target = tmp_path / "bundle"

    def broken(path):
        if path == tmp_path:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("bart_onnx.publish._sync", broken)
    with (
        pytest.raises(ExportError, match=r"was published, but .*bart_onnx\.verify") as told,
        staged(target) as staging,
    ):
        (staging / "a").write_text("x")
    assert "Nothing was published" not in str(told.value)
    assert (target / "a").exists()


def test_abandoned_directories_of_a_store_are_removed_and_live_ones_are_not(tmp_path):
    store = tmp_path / "bundles"
    for name in ("one/.fp32.unfinished/tokenizer", "two/.int8.unfinished", "two/int8"):
        (store / name).mkdir(parents=True)
        (store / name / "file").write_text("x")
    with claim(store / "three" / "fp32") as live:
        (live / "file").write_text("x")
        remove_abandoned(store)
        assert (live / "file").exists()
        publish(live, store / "three" / "fp32")
    left = sorted(path.relative_to(store).as_posix() for path in store.glob("*/*"))
    assert left == ["three/fp32", "two/int8"]


def test_a_lock_is_free_or_not(tmp_path):
    with claim(tmp_path / "bundle") as staging, held_if_free(staging) as free:
        assert not free
    with held_if_free(staging) as free:
        assert not free, "what is not there is not free"
    (tmp_path / "file").write_text("x")
    with held_if_free(tmp_path / "file") as free, held_if_free(tmp_path / "file") as again:
        assert (free, again) == (True, False)


def test_unfinished_downloads_that_nobody_holds_are_removed(tmp_path):
    import fcntl

    from bart_onnx.hub.abandoned import remove_abandoned as remove_downloads

    repository = tmp_path / "models--someone--tiny"
    locks = tmp_path / ".locks" / repository.name
    (repository / "blobs").mkdir(parents=True)
    locks.mkdir(parents=True)
    for name in ("aa.11111111.incomplete", "bb.22222222.incomplete", "cc.3.incomplete", "dd"):
        (repository / "blobs" / name).write_text("x")
    for name in ("aa.lock", "bb.lock"):
        (locks / name).write_text("")
    with (locks / "bb.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_downloads(repository)
    left = sorted(path.name for path in (repository / "blobs").iterdir())
    assert left == ["bb.22222222.incomplete", "dd"]
    remove_downloads(tmp_path / "never downloaded")


def test_a_killed_export_is_cleaned_up_by_the_next_one_of_something_else(tmp_path, tiny_bundle):
    """The hidden directory of a killed export whose checkpoint is not exported again."""
    store = tmp_path / "bundles"
    script = (
        "import os, sys; from pathlib import Path; from bart_onnx.publish import claim\n"
        "with claim(Path(sys.argv[1])) as staging:\n"
        "    (staging / 'half').write_text('x'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(store / "gone" / "fp32")], check=False)
    assert (store / "gone" / ".fp32.unfinished" / "half").exists()
    remove_abandoned(store)
    assert list((store / "gone").iterdir()) == []
    assert list(faults(tiny_bundle)) == []

"""A fault at operations on files: afterwards there is what was, or what was to be.

Here a sample of the operations fails; all of them, one after the other: scripts/crash_safety.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from crash_scenarios import SCENARIOS
from faulty_files import KINDS

from bart_onnx.durable import make_directory
from bart_onnx.errors import ExportError, TrainingStateError
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


DOWNLOADS = ("download", "kaggle")


@pytest.mark.parametrize(
    ("scenario", "every", "least"),
    [
        ("export", 120, 150),
        ("engines", 12, 25),
        ("triton", 30, 80),
        ("save-huggingface", 40, 50),
        ("save-keras", 200, 300),
        ("checkpoint", 6, 9),
        ("download", 90, 60),
        ("kaggle", 20, 30),
    ],
)
def test_a_fault_leaves_the_old_state_or_the_new(tmp_path, tiny_bundle, scenario, every, least):
    if scenario in DOWNLOADS:
        pytest.importorskip("kagglehub", reason="the [hub] extra is not installed")
    arguments = ["--every", every, "--graphs", tiny_bundle]
    found = interrupted(tmp_path / "work", scenario, *arguments)
    assert found["failures"] == []
    assert found["operations"] >= least
    assert set(found["trials"]) == set(KINDS)
    assert found["states"]["old"] > 0
    # Names come after contents, so that nobody who loses power finds one with other bytes.
    assert scenario in DOWNLOADS or found["unsynced"] == []
    assert scenario in DOWNLOADS or found["unconfirmed"] == []


def test_eight_exports_at_once_build_once(tmp_path, tiny_bundle):
    found = interrupted(tmp_path / "work", "race", "--graphs", tiny_bundle)
    assert found["statuses"] == [0] * 8
    assert (found["builds"], found["state"]) == (1, "new")


@pytest.mark.heavy
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_operation_of_every_kind(tmp_path, tiny_bundle, scenario, capsys):
    found = interrupted(tmp_path / "work", scenario, "--graphs", tiny_bundle)
    with capsys.disabled():
        print(f"\n{json.dumps(found)}")
    assert found["failures"] == []
    assert found["states"]["old"] > 0


@pytest.fixture
def saved(tmp_path):
    """A directory with a training state, and how one of another step is saved there."""
    torch = pytest.importorskip("torch", reason="the [export] extra is not installed")
    from exporters.training.checkpoint import SavedRun, load_run, save_run

    def save(step):
        save_run(tmp_path / "new" / "run", SavedRun({"v": torch.ones(9)}, {"steps": step}, {}))

    def steps():
        return load_run(tmp_path / "new" / "run", torch.device("cpu")).position["steps"]

    def left():
        return [path.name for path in (tmp_path / "new" / "run").iterdir()]

    save(1)
    return save, steps, left


def test_a_training_state_that_the_disk_cannot_hold_says_so(saved, monkeypatch):
    from safetensors import SafetensorError

    save, steps, left = saved

    def full(tensors, path, metadata):
        (path.parent / ".tmpAbCdEf").write_text("half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("exporters.training.checkpoint.save_file", full)
    with pytest.raises(TrainingStateError, match="36 bytes, could not be saved") as told:
        save(2)
    for words in ("bytes are free", "No space left", "is as it was", "call fit again"):
        assert words in str(told.value)
    assert steps() == 1
    assert left() == ["training_state.safetensors"]


def test_an_error_is_told_though_nothing_more_is_known(saved, monkeypatch):
    save, steps, _ = saved

    def full(*given, **named):
        raise OSError(28, "No space left on device")

    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("exporters.training.checkpoint.save_file", full)
    monkeypatch.setattr("exporters.training.checkpoint.shutil.disk_usage", refused)
    with pytest.raises(TrainingStateError, match="No space left on device"):
        save(2)
    assert steps() == 1


def test_a_directory_is_made_where_names_may_be_written_and_not_listed(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("bart_onnx.durable.sync", refused)
    make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_training_state_whose_name_the_disk_does_not_confirm(saved, monkeypatch):
    save, steps, _ = saved

    def broken(path):
        if path.is_dir():
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("exporters.training.checkpoint.sync", broken)
    with pytest.raises(TrainingStateError, match=r"was saved in .* did not\sconfirm its name"):
        save(2)
    assert steps() == 2


def test_a_name_that_the_disk_does_not_confirm_is_told_as_it_is(tmp_path, monkeypatch):
    target = tmp_path / "bundle"

    def broken(path):
        if path == tmp_path:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("bart_onnx.publish.sync", broken)
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

"""Publishing: whole or not at all, by one writer at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bart_onnx.errors import ExportError
from bart_onnx.publish import claim, publish, staged


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_the_directory_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "bundle"
    with staged(target) as staging:
        (staging / "a").write_text("x")
        (staging / "sub").mkdir()
        assert not target.exists()
    assert names(target) == ["a", "sub"]
    assert names(target.parent) == ["bundle"]


def test_an_empty_directory_may_be_the_target(tmp_path):
    (tmp_path / "bundle").mkdir()
    with staged(tmp_path / "bundle") as staging:
        (staging / "a").write_text("x")
    assert names(tmp_path / "bundle") == ["a"]


def test_nothing_is_left_of_a_block_that_fails(tmp_path):
    def fail():
        with staged(tmp_path / "bundle") as staging:
            (staging / "a").write_text("x")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_there_is_not_overwritten(tmp_path, kind):
    target = tmp_path / "bundle"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")
    with pytest.raises(ExportError, match="already has something in it"), staged(target):
        raise AssertionError("the block must not run")
    assert names(tmp_path) == ["bundle"]


def test_a_full_disk_is_named(tmp_path):
    with (
        pytest.raises(ExportError, match=r"The disk is full: [\d,]+ bytes are free"),
        staged(tmp_path / "bundle"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExportError, match="could not be written"), staged(tmp_path / "file" / "b"):
        raise AssertionError("the block must not run")


KILLED = """
import os, sys
from pathlib import Path
from bart_onnx.publish import staged
with staged(Path(sys.argv[1])) as staging:
    (staging / "half").write_text("x")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("name", ["bundle", "out[1]", "bundle.2026"])
def test_what_a_killed_writer_left_is_removed(tmp_path, name):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / name], check=False)
    assert names(tmp_path) == [f".{name}.unfinished"]
    with staged(tmp_path / name) as staging:
        assert names(staging) == []
    assert names(tmp_path) == [name]


def test_writers_to_other_places_are_left_alone(tmp_path):
    with staged(tmp_path / "bart.2026") as other:
        (other / "a").write_text("x")
        with staged(tmp_path / "bart") as staging:
            (staging / "b").write_text("x")
    assert (names(tmp_path / "bart.2026"), names(tmp_path / "bart")) == (["a"], ["b"])


def test_a_second_writer_waits_and_finds_what_the_first_published(tmp_path):
    target, found = tmp_path / "bundle", []
    claimed = threading.Event()

    def second():
        claimed.wait()
        with claim(target):
            found.append(names(target) if target.exists() else None)

    threads = [threading.Thread(target=second) for _ in range(4)]
    for thread in threads:
        thread.start()
    with claim(target) as staging:
        claimed.set()
        (staging / "a").write_text("x")
        threads[0].join(0.2)
        assert found == []
        publish(staging, target)
    for thread in threads:
        thread.join()
    assert found == [["a"]] * 4
    assert names(tmp_path) == ["bundle"]


def test_a_link_in_place_of_the_hidden_directory_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / ".bundle.unfinished")
    with pytest.raises(ExportError), staged(tmp_path / "bundle"):
        raise AssertionError("the block must not run")


def test_a_claim_that_ends_while_another_begins(tmp_path, monkeypatch):
    """The directory is there when it is to be made, and gone right after."""
    original, calls = Path.mkdir, []

    def vanishing(self, *arguments, **options):
        if self.name.endswith(".unfinished") and not calls:
            calls.append(self)
            raise FileExistsError(17, "File exists", str(self))
        return original(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", vanishing)
    with claim(tmp_path / "bundle") as staging:
        assert staging.is_dir()
    assert calls

"""Publishing: whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from bart_onnx.errors import ExportError
from bart_onnx.publish import staged


def leftovers(directory):
    return sorted(path.name for path in directory.iterdir())


def test_the_directory_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "bundle"
    with staged(target) as staging:
        (staging / "a").write_text("x")
        (staging / "sub").mkdir()
        assert not target.exists()
    assert leftovers(target) == ["a", "sub"]
    assert leftovers(target.parent) == ["bundle"]


def test_an_empty_directory_may_be_the_target(tmp_path):
    (tmp_path / "bundle").mkdir()
    with staged(tmp_path / "bundle") as staging:
        (staging / "a").write_text("x")
    assert leftovers(tmp_path / "bundle") == ["a"]


def test_nothing_is_left_of_a_block_that_fails(tmp_path):
    def fail():
        with staged(tmp_path / "bundle") as staging:
            (staging / "a").write_text("x")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert leftovers(tmp_path) == []


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
    assert leftovers(tmp_path) == ["bundle"]


def test_a_full_disk_is_named(tmp_path):
    with (
        pytest.raises(ExportError, match=r"The disk is full: [\d,]+ bytes are free"),
        staged(tmp_path / "bundle"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert leftovers(tmp_path) == []


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExportError, match="could not be written"), staged(tmp_path / "file" / "b"):
        raise AssertionError("the block must not run")


def test_what_a_killed_process_left_is_removed_and_others_are_not(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / f".bundle.{dead.pid}.abc.unfinished").mkdir()
    (tmp_path / f".bundle.{os.getpid()}.abc.unfinished").mkdir()
    (tmp_path / f".other.{dead.pid}.abc.unfinished").mkdir()
    with staged(tmp_path / "bundle"):
        pass
    assert leftovers(tmp_path) == sorted(
        [f".bundle.{os.getpid()}.abc.unfinished", f".other.{dead.pid}.abc.unfinished", "bundle"]
    )

"""A process of its own: what it imports, and that it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exporters.checkpoints import child
from exporters.checkpoints.child import run_child


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module that can be imported here."""
    directory = tmp_path / "modules"
    directory.mkdir()
    monkeypatch.syspath_prepend(directory)
    return directory / "asked_of_a_child.py"


def test_it_imports_what_its_parent_would_and_reads_what_it_is_given(module: Path) -> None:
    module.write_text("import sys; print(sys.argv[1:], sys.stdin.read(), __name__)")
    ended = run_child(module.stem, ["-a", "b"], seconds=60, given="c")
    assert (ended.status, ended.fault) == (0, "")
    assert ended.said == "['-a', 'b'] c __main__\n"


def test_nothing_comes_from_the_working_directory_or_the_environment(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    for name in ("json.py", "sitecustomize.py", "exporters.py"):
        (strange / name).write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')")
    module.write_text("import json, exporters; print(exporters.__file__)")
    monkeypatch.chdir(strange)
    monkeypatch.syspath_prepend("")
    monkeypatch.setenv("PYTHONPATH", f"{strange}:")
    monkeypatch.setenv("PYTHONINSPECT", "1")
    ended = run_child(module.stem, seconds=60)
    assert ended.fault == ""
    assert Path(ended.said.strip()) == Path(child.exporters.__file__)
    assert not (tmp_path / "it-ran").exists()


def test_it_ends_though_nobody_waits_for_it(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module.write_text("import collections, itertools\ncollections.deque(itertools.repeat(0), 0)")
    run = subprocess.run

    def patiently(*arguments: Any, timeout: float, **options: Any) -> Any:
        return run(*arguments, timeout=timeout + 100, **options)

    monkeypatch.setattr(child.subprocess, "run", patiently)
    assert run_child(module.stem, seconds=0.5).status == -signal.SIGALRM


def test_it_takes_no_more_memory_than_it_may(module: Path) -> None:
    module.write_text("print(len(bytearray(1 << 30)))")
    assert "MemoryError" in run_child(module.stem, seconds=60, memory=1 << 29).fault
    assert run_child(module.stem, seconds=60, memory=1 << 31).said == f"{1 << 30}\n"


@pytest.mark.parametrize(
    ("executable", "said"),
    [("/no/such/python", "could not be started: .*No such file"), ("", "does not say where")],
)
def test_no_python_to_start(
    module: Path, monkeypatch: pytest.MonkeyPatch, executable: str, said: str
) -> None:
    module.write_text("")
    monkeypatch.setattr(sys, "executable", executable)
    ended = run_child(module.stem, seconds=60)
    assert ended.status is None
    assert re.search(said, ended.fault)

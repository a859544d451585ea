"""One fault in a process of its own: what it left, judged by whoever comes next."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crash_scenario import Scenario
from crash_watch import Watch
from faulty_files import NO_FAULT, Fault, Faults

# Seconds after which a child that hangs is ended.
_LONGEST = 300

# What a message says of a fault, so that who reads it knows.
_WORDS = {
    "ENOSPC": ("No space left on device", "The disk is full", "The disk was full"),
    "EIO": ("Input/output error",),
    "EINTR": ("Interrupted system call",),
    "EFBIG": ("File too large",),
}
_ENDS = {"kill": signal.SIGKILL, "SIGXFSZ": signal.SIGXFSZ}


@dataclass(frozen=True)
class Recorded:
    """A run that nothing disturbed.

    Attributes:
        names: its operations.
        written: of each file, the operation before it is opened, its size, and whether Python
            opened it.
        unsynced, unconfirmed: see `Watch`.
    """

    names: list[str]
    written: list[tuple[int, int, bool]]
    unsynced: list[str]
    unconfirmed: list[str]


@dataclass(frozen=True)
class Verdict:
    """What lies there: its state, what the next run did, and what that left."""

    seen: str
    state: Any
    rerun: str = ""
    left: Any = None


def in_child(work: Callable[[], Any]) -> tuple[str, Any]:
    """What a forked process says of some work: "done" and its answer, "raised", or "killed"."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            os.write(writing, json.dumps(_said(work)).encode())
        finally:
            os._exit(0)  # what is to be done at the end is the parent's business
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return tuple(json.loads(content)) if content else ("killed", -status)


def _said(work: Callable[[], Any]) -> tuple[str, Any]:
    """What came of some work in this process, which is quiet from now on."""
    signal.alarm(_LONGEST)
    # A limit on sizes is one on what a log takes, too.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        return "done", work()
    except BaseException as error:
        frames = traceback.format_exc().splitlines()[-6:]
        names = [kind.__name__ for kind in type(error).__mro__]
        return "raised", {"kinds": names, "says": str(error), "trace": frames}


def fresh(scenario: Scenario, directory: Path) -> Path:
    """The old state, and nothing else."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    scenario.prepare(directory)
    return directory


def recorded(scenario: Scenario, directory: Path) -> Recorded:
    """What an undisturbed run does."""
    root = fresh(scenario, directory)

    def work() -> list[Any]:
        watch = Watch(root)
        faults = Faults(root, NO_FAULT, watch)
        faults.install()
        scenario.act(root)
        opened = ["", *faults.names]
        written = [
            (entry.first - 1, entry.size, opened[entry.first - 1] == "open for writing")
            for entry in watch.written(faults.count)
        ]
        return [faults.names, written, watch.unsynced, watch.unconfirmed(faults.count)]

    how, found = in_child(work)
    assert how == "done", found
    return Recorded(*found)


class Trials:
    """Trials of one scenario in one directory.

    Attributes:
        judged: how many different states were judged.
    """

    def __init__(self, scenario: Scenario, directory: Path) -> None:
        self._scenario, self._directory = scenario, directory
        self._known: dict[str, Verdict] = {}
        self.judged = 0

    def trial(self, fault: Fault) -> tuple[str, str]:
        """One fault: the state that it left, and what is wrong, "" for nothing."""
        root = fresh(self._scenario, self._directory)

        def disturbed() -> None:
            Faults(root, fault).install()
            self._scenario.act(root)

        how, answer = in_child(disturbed)
        verdict = self._verdict(root)
        if verdict.seen != "done":
            return "neither", f"{how} {answer}: neither old nor new: {verdict.state}"
        wrong = _wrong(self._scenario, fault.kind, how, answer, verdict.state)
        if wrong:
            return verdict.state, wrong
        if verdict.rerun != "done":
            return verdict.state, f"after {how} {answer}, the next run failed: {verdict.left}"
        return verdict.state, f"after {how}, the next run left {verdict.left}" * bool(verdict.left)

    def _verdict(self, root: Path) -> Verdict:
        """What the next ones find; what is the same to the last byte is judged once."""
        if not self._scenario.timeless:
            return self._judge(root)
        key = digest(root)
        if key not in self._known:
            self._known[key] = self._judge(root)
        return self._known[key]

    def _judge(self, root: Path) -> Verdict:
        self.judged += 1

        def again() -> list[str]:
            self._scenario.act(root)
            assert self._scenario.state(root) == "new", "the next run did not bring the new state"
            return self._scenario.leftovers(root)

        seen, state = in_child(lambda: self._scenario.state(root))
        return Verdict(seen, state, *in_child(again)) if seen == "done" else Verdict(seen, state)


def digest(root: Path) -> str:
    """Of every name, kind, mode and byte under a directory."""
    found = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = b""
        if path.is_symlink():
            content = os.fsencode(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        name = path.relative_to(root).as_posix()
        told = f"{name}\0{status.st_mode}\0{status.st_nlink}\0{len(content)}\0"
        found.update(told.encode() + content)
    return found.hexdigest()


def _wrong(scenario: Scenario, kind: str, how: str, answer: Any, state: str) -> str:
    """What an end may not be like, whatever the state."""
    if how == "killed":
        return "" if answer == _ENDS.get(kind) else f"the process ended by signal {answer}"
    if state == "half":
        return f"half of it is there, though nobody was killed: {answer}"
    if how == "done":
        kept = state == "new" or not scenario.kept
        return "" if kept else "it said that it was done, and the state is old"
    if "KeyboardInterrupt" in answer["kinds"]:
        return "" if kind == "interrupt" else f"interrupted by nobody: {answer}"
    if not {error.__name__ for error in scenario.errors} & set(answer["kinds"]):
        return f"an error that callers do not expect: {answer}"
    if kind in _WORDS and not any(words in answer["says"] for words in _WORDS[kind]):
        return f"an error that does not say what happened: {answer}"
    if "Nothing was published" in answer["says"] and state != "old":
        return f"it said that nothing was published, and there it is: {answer}"
    return ""

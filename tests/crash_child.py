"""Interrupts an operation at every operation on files, and looks at what is left.

    python crash_child.py SCENARIO DIRECTORY [--kinds KIND ...] [--every N] [--graphs BUNDLE]

A child is forked for each fault, so that libraries are imported and graphs traced once. Prints one
line of JSON: how many operations there were, and what was found that should not be. With
SCENARIO=race, eight processes export at once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crash_scenario import Scenario
from crash_scenarios import SCENARIOS
from faulty_files import KINDS, TAKES_ROOM, Faults

# Seconds after which a child that hangs is ended.
_LONGEST = 300


def in_child(work: Callable[[], Any]) -> tuple[str, Any]:
    """What a forked process says of some work: "done" and its answer, "raised", or "killed"."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        signal.alarm(_LONGEST)
        try:
            said = ("done", work())
        except BaseException as error:
            frames = traceback.format_exc().splitlines()[-6:]
            names = [kind.__name__ for kind in type(error).__mro__]
            said = ("raised", {"kinds": names, "says": str(error), "trace": frames})
        os.write(writing, json.dumps(said).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    os.waitpid(pid, 0)
    return tuple(json.loads(content)) if content else ("killed", None)


def operations(scenario: Scenario, directory: Path) -> list[str]:
    """The operations of an undisturbed run, by name."""
    root = fresh(scenario, directory)

    def work() -> list[str]:
        faults = Faults(root, "EIO", 0)
        scenario.arm(faults)
        faults.install()
        scenario.act(root)
        return faults.names

    how, names = in_child(work)
    assert how == "done", names
    return list(names)


def fresh(scenario: Scenario, directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    scenario.prepare(directory)
    return directory


def trial(scenario: Scenario, directory: Path, kind: str, at: int) -> tuple[str, str]:
    """One fault: the state that it left, and what is wrong, "" for nothing."""
    root = fresh(scenario, directory)

    def disturbed() -> None:
        faults = Faults(root, kind, at)
        scenario.arm(faults)
        faults.install()
        scenario.act(root)

    def looked_at() -> str:
        return scenario.state(root)

    def again() -> list[str]:
        scenario.act(root)
        assert scenario.state(root) == "new", "the next run did not bring the new state"
        return scenario.leftovers(root)

    how, answer = in_child(disturbed)
    seen, state = in_child(looked_at)
    if seen != "done":
        return "neither", f"{how} {answer}: neither old nor new: {state}"
    wrong = _wrong(scenario, kind, how, answer, state)
    if wrong:
        return state, wrong
    rerun, left = in_child(again)
    if rerun != "done":
        return state, f"after {how} {answer}, the next run failed: {left}"
    return state, f"after {how}, the next run left {left}" if left else ""


def _wrong(scenario: Scenario, kind: str, how: str, answer: Any, state: str) -> str:
    """What an end may not be like, whatever the state."""
    if how == "killed":
        return "" if kind == "kill" else "the process ended without a word"
    if state == "half":
        return f"half of it is there, though nobody was killed: {answer}"
    if how == "done":
        return "" if state == "new" else "it said that it was done, and the state is old"
    if "KeyboardInterrupt" in answer["kinds"]:
        return "" if kind == "interrupt" else f"interrupted by nobody: {answer}"
    if not {error.__name__ for error in scenario.errors} & set(answer["kinds"]):
        return f"an error that callers do not expect: {answer}"
    if "Nothing was published" in answer["says"] and state != "old":
        return f"it said that nothing was published, and there it is: {answer}"
    return ""


def race(scenario: Scenario, directory: Path, count: int = 8) -> dict[str, Any]:
    """So many processes that do it at once, and how many of them built."""
    from exporters import assembly

    root = fresh(scenario, directory)
    build = assembly.build

    def counted(*arguments: Any, **options: Any) -> Any:
        with (root / "builds").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return build(*arguments, **options)

    assembly.build = counted  # type: ignore[assignment]
    start, begin = os.pipe()
    children = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            try:
                os.close(begin)
                os.read(start, 1)  # which ends when the other end is closed
                scenario.act(root)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(pid)
    os.close(begin)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    builds = (root / "builds").read_text().split()
    return {"statuses": statuses, "builds": len(builds), "state": scenario.state(root)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenario", choices=(*SCENARIOS, "race"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--graphs", type=Path)
    options = parser.parse_args()
    os.environ["BART_ONNX_HOME"] = str(options.directory / "home")
    name = "export" if options.scenario == "race" else options.scenario
    scenario = SCENARIOS[name](options.graphs)
    try:
        if options.scenario == "race":
            found = race(scenario, options.directory)
        else:
            found = _tried(scenario, options)
    finally:
        getattr(scenario, "close", lambda: None)()
    print(json.dumps({"scenario": options.scenario, **found}))


def _tried(scenario: Scenario, options: argparse.Namespace) -> dict[str, Any]:
    names = operations(scenario, options.directory)
    states: Counter[str] = Counter()
    failures = []
    for number, kind in enumerate(options.kinds):
        print(f"{kind}: {sum(states.values())} trials before", file=sys.stderr)
        for at in range(1 + number % options.every, len(names) + 1, options.every):
            if kind == "ENOSPC" and names[at - 1] not in TAKES_ROOM:
                continue
            state, wrong = trial(scenario, options.directory, kind, at)
            states[state] += 1
            if wrong:
                failures.append(f"{kind} at {at} ({names[at - 1]}): {wrong}")
                print(failures[-1], file=sys.stderr)
    return {
        "operations": len(names),
        "of_each": dict(Counter(names)),
        "trials": sum(states.values()),
        "states": dict(states),
        "failures": failures,
    }


if __name__ == "__main__":
    main()

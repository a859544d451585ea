"""Interrupts an operation at every operation on files, and looks at what is left.

    python crash_child.py SCENARIO DIRECTORY [--kinds KIND ...] [--every N] [--graphs BUNDLE]

A child is forked for each fault, so that libraries are imported, graphs traced and references
computed once. Prints one line of JSON: how many operations there were, and what was found that
should not be. With SCENARIO=race, eight processes export at once.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crash_scenario import Scenario
from crash_scenarios import SCENARIOS
from crash_trial import Recorded, Trials, fresh, recorded
from faulty_files import BY_SIZE, KINDS, TAKES_ROOM, Fault

# At how many bytes a file is cut off: what Python writes has operations of its own besides.
_CUTS, _CUTS_OF_OTHERS = 3, 16


def faults(run: Recorded, kind: str) -> Iterator[Fault]:
    """Every fault of a kind that a run can meet."""
    if kind not in BY_SIZE:
        for at, name in enumerate(run.names, 1):
            if kind != "ENOSPC" or name in TAKES_ROOM:
                yield Fault(kind, at)
        return
    for at, size, by_python in run.written:
        cuts = (_CUTS if by_python else _CUTS_OF_OTHERS) - 1
        for cut in sorted({(size - 1) * number // cuts for number in range(cuts + 1)}):
            yield Fault(kind, at, cut)


def tried(
    scenario: Scenario, directory: Path, kinds: Sequence[str], every: int = 1
) -> dict[str, Any]:
    """What came of each kind's every so manieth fault."""
    run = recorded(scenario, directory)
    trials, started = Trials(scenario, directory), time.monotonic()
    counts: Counter[str] = Counter()
    states: Counter[str] = Counter()
    failures = []
    for number, kind in enumerate(kinds):
        for fault in list(faults(run, kind))[number % every :: every]:
            state, wrong = trials.trial(fault)
            states[state] += 1
            counts[kind] += 1
            if wrong:
                name = ["", *run.names][fault.at]
                failures.append(f"{fault} ({name}): {wrong}")
                print(failures[-1], file=sys.stderr, flush=True)
        seconds = time.monotonic() - started
        print(f"{kind}: {counts[kind]} trials, {seconds:.0f} s", file=sys.stderr, flush=True)
    return {
        "operations": len(run.names),
        "of_each": dict(Counter(run.names)),
        "files": len(run.written),
        "unsynced": run.unsynced if scenario.synced else "not looked at",
        "unconfirmed": run.unconfirmed if scenario.synced else "not looked at",
        "trials": dict(counts),
        "states": dict(states),
        "judged": trials.judged,
        "failures": failures,
    }


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
        options.directory.mkdir(parents=True, exist_ok=True)
        scenario.warm_up(options.directory)
        gc.freeze()  # a collection in a child would copy all that was warmed up
        if options.scenario == "race":
            found = race(scenario, options.directory)
        else:
            found = tried(scenario, options.directory, options.kinds, options.every)
    finally:
        getattr(scenario, "close", lambda: None)()
    shutil.rmtree(options.directory)
    print(json.dumps({"scenario": options.scenario, **found}))


if __name__ == "__main__":
    main()

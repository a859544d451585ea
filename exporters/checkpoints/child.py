"""Runs a module in a process of its own: for files that their library may not survive, or run.

It knows no format.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import exporters

# The clock is the child's own too: whoever waits for it may be killed. `-I` lets nothing of the
# environment tell Python what to import or to print; the child imports what its parent would.
_START = """
import json, resource, runpy, signal, sys
asked = json.loads(sys.argv[1])
signal.alarm(asked["seconds"])
if asked["bytes"]:
    resource.setrlimit(resource.RLIMIT_DATA, (asked["bytes"], asked["bytes"]))
sys.path[:], sys.argv[1:] = asked["path"], sys.argv[2:]
runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
"""
# Libraries take memory for each of their threads, of which a reader has no use.
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        status: its exit status; below 0 the signal that ended it, None where it took too long or
            could not be started.
        said: what it wrote to stdout.
        fault: why `said` is no answer; "" where it is one.
    """

    status: int | None
    said: str = ""
    fault: str = ""


def run_child(
    module: str,
    arguments: Sequence[str] = (),
    *,
    seconds: float,
    given: str = "",
    memory: int | None = None,
    directory: Path | None = None,
    answers: Collection[int] = (0,),
) -> Ended:
    """`python -m MODULE ARGUMENTS`, and how that ended.

    Args:
        seconds: after which it is ended.
        given: what it may read from stdin.
        memory: bytes that it may take; None for as many as there are.
        directory: where it runs; None for here.
        answers: exit statuses with which it has said what was asked.
    """
    if not sys.executable:
        return Ended(None, fault="Python does not say where it lies, so it cannot be started anew")
    asked = {"module": module, "path": _path(), "seconds": int(seconds) + 1, "bytes": memory}
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-c", _START, json.dumps(asked), *arguments],
            env={**os.environ, **(_ONE_THREAD if memory else {})},
            cwd=directory,
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return Ended(None, fault=f"reading it took over {seconds} seconds")
    except OSError as error:
        return Ended(None, fault=f"the process that reads it could not be started: {error}")
    if child.returncode in answers:
        return Ended(child.returncode, child.stdout)
    last = child.stderr.strip().splitlines()[-1:] or ["it said nothing"]
    fault = f"the child ended with status {child.returncode}: {last[0]}"
    return Ended(child.returncode, child.stdout, fault)


def _path() -> list[str]:
    """Where to import from: as here, but nothing of the working directory, where strangers' files
    may lie, unless this package does.
    """
    here, own = {"", os.curdir, os.getcwd()}, str(Path(exporters.__path__[0]).parent)
    found = [entry for entry in sys.path if entry == own or entry not in here]
    return found if own in found else [*found, own]

"""Runs a module in a process of its own: for files that their library may not survive, or run.

It knows no format.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import exporters


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        status: its exit status; below 0 the signal that ended it, None where it took too long.
        said: what it wrote to stdout.
        fault: why `said` is no answer; "" where it is one.
    """

    status: int | None
    said: str = ""
    fault: str = ""


def run_child(
    module: str,
    arguments: Sequence[str],
    seconds: float,
    directory: Path | None = None,
    answers: Collection[int] = (0,),
) -> Ended:
    """`python -m MODULE ARGUMENTS`, and how that ended.

    Args:
        seconds: after which it is ended.
        directory: where it runs; None for here.
        answers: exit statuses with which it has said what was asked.
    """
    # -P and the package's own directory: nothing of the working directory is imported.
    paths = [str(Path(exporters.__path__[0]).parent), os.environ.get("PYTHONPATH", "")]
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", module, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return Ended(None, fault=f"reading it took over {seconds} seconds")
    if child.returncode in answers:
        return Ended(child.returncode, child.stdout)
    last = child.stderr.strip().splitlines()[-1:] or ["it said nothing"]
    fault = f"the child ended with status {child.returncode}: {last[0]}"
    return Ended(child.returncode, child.stdout, fault)

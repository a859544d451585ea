"""Keeps the smallest of a fuzzer's inputs that reach lines which no honest or kept one reaches.

    python scripts/keep_inputs.py --found fuzz-found

They go to tests/data/fuzz/READER under the beginning of their sha256.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "tests" / "data" / "fuzz"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

Lines = set[tuple[str, int]]


def main() -> int:
    """Go through every reader that a run left inputs of."""
    from fuzz_readers import READERS

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"))
    parser.add_argument("--most", type=int, default=12, help="inputs of a reader")
    parser.add_argument("--largest", type=int, default=2048, help="bytes of an input")
    options = parser.parse_args()
    for name, reader in READERS.items():
        paths = (options.found / "corpus" / name).glob("*")
        found = (path.read_bytes() for path in paths if path.stat().st_size <= options.largest)
        kept = keep(name, reader, sorted(found, key=len), options.most)
        print(f"{name}: {kept} more")
    return 0


def keep(name: str, reader: Any, candidates: list[bytes], most: int) -> int:
    """Write those that reach something new, the smallest first; how many there are."""
    from fuzz_trial import Trials

    directory = CORPUS / name
    with tempfile.TemporaryDirectory() as scratch:
        trials = Trials(name, reader, Path(scratch))
        reached: Lines = set()
        for data in (*reader.seeds(), *(path.read_bytes() for path in directory.glob("*"))):
            reached |= lines_of(trials, data)
        kept = 0
        for data in candidates:
            more = lines_of(trials, data) - reached
            if more and kept < most:
                directory.mkdir(parents=True, exist_ok=True)
                (directory / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
                reached |= more
                kept += 1
    return kept


def lines_of(trials: Any, data: bytes) -> Lines:
    """The lines of the packages that reading an input runs."""
    reached: Lines = set()
    with traced(reached):
        trials.warm(data)
    return reached


@contextmanager
def traced(reached: Lines) -> Iterator[None]:
    """Note every line of the packages that runs."""
    packages = (str(ROOT / "bart_onnx"), str(ROOT / "exporters"))

    def local(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            reached.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def called(frame: FrameType, event: str, argument: object) -> Any:
        return local if frame.f_code.co_filename.startswith(packages) else None

    sys.settrace(called)
    try:
        yield
    finally:
        sys.settrace(None)


if __name__ == "__main__":
    sys.exit(main())

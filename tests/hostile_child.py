"""Opens each of the paths that a JSON object on its input names. Prints, as JSON, the error and by
how much memory grew, and what the largest of its own children had. It is a process of its own
because the peak of another tells nothing.

A bundle is opened with its sessions, as for generation; what is called NAME.tokenizer is opened as
one; all else is opened as for an export.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bart_onnx.bundle import Bundle, is_bundle
from bart_onnx.errors import BartOnnxError


def memory(field: str) -> float:
    """MB that this process has ("VmRSS") or had at most ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def open_path(path: Path) -> None:
    """Open one, as who uses it does."""
    if is_bundle(path):
        from bart_onnx.decoding.generation_config import decoding_options
        from bart_onnx.runners.ort import OrtRunner

        bundle = Bundle.open(path)
        decoding_options(bundle.generation_config, bundle.config, {})
        OrtRunner(bundle, threads=1)
    elif path.suffix == ".tokenizer":
        from bart_onnx.tokenizer import BartTokenizer

        BartTokenizer.from_files(path)
    else:
        from exporters.progress import Progress
        from exporters.sources import open_checkpoint

        open_checkpoint(str(path), False, True, Progress(shown=False))


def open_all(paths: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Open each path; the error's kind and message, and MB above those in use before."""
    outcomes = {}
    for name, path in paths.items():
        # Forgets the peak so far. `ru_maxrss` would begin with that of the parent process.
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
        try:
            open_path(Path(path))
            outcome = {"error": "none", "message": "it was read"}
        except Exception as error:
            ours = isinstance(error, BartOnnxError)
            outcome = {"error": type(error).__name__, "message": str(error), "ours": ours}
        outcomes[name] = {**outcome, "megabytes": memory("VmHWM") - before}
    before = memory("VmRSS")
    taken = np.ones(8 << 20)
    outcomes["control"] = {"megabytes": memory("VmHWM") - before, "taken": taken.nbytes >> 20}
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    outcomes["children"] = {"megabytes": largest}
    return outcomes


if __name__ == "__main__":
    json.dump(open_all(json.loads(sys.stdin.read())), sys.stdout)

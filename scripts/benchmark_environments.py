"""The environments of scripts/benchmark.py: one for each engine, so that no pin meets another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
CONSTRAINTS = ROOT / "constraints.txt"

# Environment -> what is installed there, and whether what this repository is tested with binds it.
PACKAGES: dict[str, tuple[tuple[str, ...], bool]] = {
    "bart_onnx": (("--editable", f"{ROOT}[cpu]"), True),
    "ctranslate2": (("ctranslate2", "transformers", TORCH), True),
    "transformers": (("transformers", TORCH), True),
    # It pins an older transformers.
    "optimum-onnx": (("optimum-onnx[onnxruntime]", TORCH), False),
}

# Engine -> its environment.
ENGINES = {
    "bart_onnx": "bart_onnx",
    "ctranslate2-fp32": "ctranslate2",
    "ctranslate2-int8": "ctranslate2",
    "transformers": "transformers",
    "transformers-compiled": "transformers",
    "optimum-onnx": "optimum-onnx",
}

VERSIONS = ("bart_onnx", "onnxruntime", "ctranslate2", "transformers", "torch", "optimum-onnx")


def set_up(directory: Path) -> list[str]:
    """Make what is missing; the environments that could not be made."""
    failed = []
    for name, (packages, bound) in PACKAGES.items():
        place = directory / name
        if (place / "installed").exists():
            continue
        print(f"installing {name}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        constraints = ["--constraint", str(CONSTRAINTS)] if bound else []
        command = [str(python(directory, name)), "-m", "pip", "install", "--quiet"]
        if subprocess.run([*command, *constraints, *packages], check=False).returncode:
            failed.append(name)
        else:
            (place / "installed").touch()
    return failed


def python(directory: Path, environment: str) -> Path:
    """An environment's interpreter."""
    return directory / environment / "bin" / "python"


def versions(directory: Path, engine: str) -> dict[str, str]:
    """What an engine's environment holds of the packages that decide its speed."""
    program = (
        "import importlib.metadata as m, json, sys\n"
        "found = {d.metadata['Name']: d.version for d in m.distributions()}\n"
        "print(json.dumps({n: found[n] for n in sys.argv[1:] if n in found}))"
    )
    command = [str(python(directory, ENGINES[engine])), "-c", program, *VERSIONS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found

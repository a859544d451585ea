"""`python -m bart_onnx.doctor`: what this machine can run, and what mends the rest. Prints."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bart_onnx.findings import findings

_GIGABYTE = 1e9


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0 where something can run, else 1."""
    options = _parser().parse_args(arguments)
    found = findings()
    print(json.dumps(found) if options.json else "\n".join(lines(found)))
    return 0 if any(found["devices"].values()) else 1


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What was found, for people."""
    yield f"bart_onnx {found['bart_onnx']}"
    for device, runs in found["devices"].items():
        precisions = ", ".join(found["precisions"].get(device, ()))
        yield f"{device:<10}{'runs ' + precisions if runs else 'does not run'}"
    yield ""
    for name, said in _SAID.items():
        value: Any = found.get(name)
        failed = isinstance(value, Mapping) and "error" in value
        yield f"{name:<13}{'could not be asked: ' + value['error'] if failed else said(value)}"
    if found["missing"]:
        yield "\nmissing"
    for each in found["missing"]:
        yield f"  {each['device']}: {each['what']}\n      {each['remedy']}"
    for note in found["notes"]:
        yield f"\nnote: {note}"


def _python(value: Mapping[str, Any]) -> str:
    return f"{value['version']}, {value['system']}"


def _onnxruntime(value: Mapping[str, Any]) -> str:
    if not value["version"]:
        return "none"
    cuda = f", built with CUDA {value['cuda']}" if value["cuda"] else ""
    flavours = " and ".join(value["installed"]) or "of unknown origin"
    return f"{value['version']} ({flavours}{cuda}): {', '.join(value['providers'])}"


def _processor(value: Mapping[str, Any]) -> str:
    flags = ", ".join(value["flags"]) or "none of the flags that matter"
    return f"{value['name']}; {value['cores']} cores for this process; {flags}"


def _memory(value: Mapping[str, Any]) -> str:
    free = f", {value['free_bytes'] / _GIGABYTE:.1f} GB free" if value["free_bytes"] else ""
    return f"{value['bytes'] / _GIGABYTE:.1f} GB{free}"


def _driver(value: Mapping[str, Any] | None) -> str:
    return "none" if value is None else f"{value['version']}, runs CUDA up to {value['cuda']}"


def _libraries(value: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{name} {'/'.join(majors)}" for name, majors in value.items() if majors) or (
        "none of CUDA's"
    )


def _gpus(value: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(_gpu(gpu) for gpu in value) or "none"


def _gpu(gpu: Mapping[str, Any]) -> str:
    total, free = gpu["memory_bytes"] / _GIGABYTE, gpu["free_bytes"] / _GIGABYTE
    capability = gpu["compute_capability"]
    return f"{gpu['index']}: {gpu['name']} ({capability}), {total:.1f} GB, {free:.1f} GB free"


def _tensorrt(value: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" for name, version in value.items() if version) or "none"


_SAID: Mapping[str, Callable[[Any], str]] = {
    "python": _python,
    "onnxruntime": _onnxruntime,
    "processor": _processor,
    "memory": _memory,
    "driver": _driver,
    "libraries": _libraries,
    "gpus": _gpus,
    "tensorrt": _tensorrt,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bart_onnx.doctor",
        description="What this machine can run, what is missing, and what mends it.",
        epilog="The exit status is 0 where something can run, and 1 else.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())

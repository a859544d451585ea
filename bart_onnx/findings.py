"""What this machine can run, found out by looking: packages, processor, driver, GPUs, memory.

Each probe stands alone: one that fails on an odd machine says so in place of what it would have
found, and the others go on. Nothing here needs more than the package's core.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bart_onnx.devices import CPU, CUDA, PRECISIONS, TENSORRT
from bart_onnx.errors import BartOnnxError
from bart_onnx.runners.cuda_libraries import Lack, lacks, library_majors
from bart_onnx.runners.gpus import driver, gpus
from bart_onnx.runners.providers import (
    available_cores,
    installed_flavours,
    open_session,
    stay_silent,
)
from bart_onnx.runners.row_moves import GRAPH
from bart_onnx.version import __version__

# What int8 and bfloat16 kernels look for in a processor.
_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_VNNI = ("avx_vnni", "avx512_vnni", "amx_int8")
_LIBRARIES = ("libcuda", "libcudart", "libcublas", "libcudnn", "libnvinfer")
_TENSORRT = ("tensorrt", "tensorrt_rtx")
# The card that TensorRT-RTX does not serve.
_HOPPER = "9.0"
_SMI = "index,name,compute_cap,memory.total,memory.free"
_SMI_SECONDS = 20

Probe = Callable[[], Any]


@dataclass(frozen=True)
class Missing:
    """What keeps a device from running, and the one command or step that mends it."""

    device: str
    what: str
    remedy: str


def findings(probes: Mapping[str, Probe] | None = None) -> dict[str, Any]:
    """What every probe found, which devices run, and what the others miss.

    Args:
        probes: by name; None for `PROBES`.

    Returns:
        Numbers, strings, lists and mappings, as JSON holds them. A probe that failed has
        {"error": why} for its value.
    """
    found = {name: _tried(probe) for name, probe in (probes or PROBES).items()}
    missing = [*_missing_on_cpu(found), *_missing_on_cuda(found), *_missing_for_tensorrt(found)]
    lacking = {each.device for each in missing}
    devices = {name: name not in lacking for name in (CPU, CUDA, TENSORRT)}
    return {
        "bart_onnx": __version__,
        **found,
        "devices": devices,
        "precisions": {name: list(PRECISIONS[name]) for name, runs in devices.items() if runs},
        "missing": [asdict(each) for each in missing],
        "notes": _notes(found),
    }


def _tried(probe: Probe) -> Any:
    try:
        return probe()
    except Exception as error:  # a probe may fail in whatever way a machine is odd
        return {"error": f"{type(error).__name__}: {error}"}


def _python() -> dict[str, str]:
    return {
        "version": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "executable": sys.executable,
    }


def _onnxruntime() -> dict[str, Any]:
    """What is installed, and what comes when it is imported."""
    found: dict[str, Any] = {"installed": installed_flavours(), "version": None, "providers": []}
    stay_silent()
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as error:
        return {**found, "reason": str(error)}
    found |= {"version": str(module.__version__), "providers": module.get_available_providers()}
    return {**found, "cuda": str(getattr(module, "cuda_version", "") or "")}


def _processor() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if _has("/proc/cpuinfo") else []
    fields = dict(reversed([line.split(":", 1) for line in lines if ":" in line]))
    known = {name.strip(): value.strip() for name, value in fields.items()}
    flags = known.get("flags", "").split()
    return {
        "name": known.get("model name") or platform.processor() or platform.machine(),
        "cores": available_cores(),
        "flags": [flag for flag in _FLAGS if flag in flags],
    }


def _memory() -> dict[str, int]:
    """Bytes of the machine, and of them what could be had now."""
    if _has("/proc/meminfo"):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
        return {"bytes": sizes["MemTotal"] << 10, "free_bytes": sizes["MemAvailable"] << 10}
    page = os.sysconf("SC_PAGE_SIZE")
    return {"bytes": page * os.sysconf("SC_PHYS_PAGES"), "free_bytes": 0}


def _driver() -> dict[str, str] | None:
    found = driver()
    return None if found is None else asdict(found)


def _libraries() -> dict[str, list[str]]:
    return {name: library_majors(name) for name in _LIBRARIES}


def _gpus() -> list[dict[str, Any]]:
    return [asdict(gpu) for gpu in gpus()] or _gpus_of_smi()


def _gpus_of_smi() -> list[dict[str, Any]]:
    """From the driver's own program, where its library does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={_SMI}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SECONDS)
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.count(", ") == 4]
    return [
        {
            "index": int(index),
            "name": name,
            "compute_capability": capability,
            "memory_bytes": int(total) << 20,
            "free_bytes": int(free) << 20,
        }
        for index, name, capability, total, free in rows
    ]


def _tensorrt() -> dict[str, str | None]:
    """The versions that are installed; they are not imported, for that takes a second."""
    return {name: _version(name) for name in _TENSORRT}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda_session() -> dict[str, Any]:
    """Whether a session runs on the GPU: the only proof that there is."""
    try:
        if "CUDAExecutionProvider" not in _onnxruntime()["providers"]:
            return {"runs": False, "reason": "onnxruntime has no CUDA provider"}
        open_session(GRAPH, CUDA, 1)
    except BartOnnxError as error:
        return {"runs": False, "reason": str(error)}
    return {"runs": True, "reason": ""}


def _missing_on_cpu(found: Mapping[str, Any]) -> list[Missing]:
    runtime = _mapping(found, "onnxruntime")
    if not runtime.get("version"):
        reason = runtime.get("reason") or runtime.get("error") or "it is not installed"
        return [Missing(CPU, f"onnxruntime: {reason}", 'pip install "bart_onnx[cpu]"')]
    if "CPUExecutionProvider" not in runtime["providers"]:
        what = f"onnxruntime {runtime['version']} has no CPU provider"
        return [Missing(CPU, what, 'pip install --force-reinstall "bart_onnx[cpu]"')]
    return []


def _missing_on_cuda(found: Mapping[str, Any]) -> list[Missing]:
    runtime, session = _mapping(found, "onnxruntime"), _mapping(found, "cuda_session")
    missing = []
    if "CUDAExecutionProvider" not in runtime.get("providers", []):
        installed = runtime.get("installed", [])
        remove = f"pip uninstall -y {' '.join(installed)} && " if installed else ""
        what = f"onnxruntime with CUDA; installed: {', '.join(installed) or 'none'}"
        missing.append(Missing(CUDA, what, f'{remove}pip install "bart_onnx[gpu]"'))
    if not found.get("gpus") or "error" in _mapping(found, "gpus"):
        missing.append(_no_gpu(CUDA))
    needed = str(runtime.get("cuda") or "")
    if needed:
        missing += [_of(lack) for lack in found_lacks(needed)]
    if not missing and not session.get("runs"):
        reason = session.get("reason") or session.get("error") or "no session was opened"
        remedy = "python -m bart_onnx.doctor --json, and look at cuda_session"
        missing.append(Missing(CUDA, f"a session that runs: {reason}", remedy))
    return missing


def found_lacks(cuda_version: str) -> list[Lack]:
    """What the CUDA provider lacks, or that this could not be found out."""
    listed = _tried(lambda: lacks(cuda_version))
    if isinstance(listed, list):
        return listed
    return [Lack(f"what the CUDA provider needs could not be listed: {listed['error']}", "none")]


def _missing_for_tensorrt(found: Mapping[str, Any]) -> list[Missing]:
    versions, cards = _mapping(found, "tensorrt"), found.get("gpus")
    cards = cards if isinstance(cards, list) else []
    hopper = any(card["compute_capability"] == _HOPPER for card in cards)
    missing = []
    if hopper and not versions.get("tensorrt"):
        missing.append(Missing(TENSORRT, "TensorRT for an H100 or H200", "pip install tensorrt"))
    elif not any(versions.get(name) for name in _TENSORRT):
        missing.append(Missing(TENSORRT, "TensorRT", 'pip install "bart_onnx[tensorrt]"'))
    return missing if cards else [*missing, _no_gpu(TENSORRT)]


def _no_gpu(device: str) -> Missing:
    remedy = "install NVIDIA's driver on a machine that has one: https://www.nvidia.com/drivers"
    return Missing(device, "an NVIDIA GPU that the driver knows", remedy)


def _of(lack: Lack) -> Missing:
    return Missing(CUDA, lack.what, lack.remedy)


def _notes(found: Mapping[str, Any]) -> list[str]:
    """What runs, but not as it should."""
    notes = []
    installed = _mapping(found, "onnxruntime").get("installed", [])
    if len(installed) > 1:
        both = " ".join(installed)
        notes.append(
            f"{' and '.join(installed)} overwrite each other's files; keep one: "
            f'pip uninstall -y {both} && pip install "bart_onnx[gpu]"'
        )
    flags = _mapping(found, "processor").get("flags")
    if flags is not None and not any(flag in flags for flag in _VNNI):
        notes.append("This processor has no VNNI: int8 is slower on it, and may lose more.")
    return notes


def _mapping(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = found.get(name)
    return value if isinstance(value, Mapping) else {}


def _has(path: str) -> bool:
    return Path(path).is_file()


PROBES: Mapping[str, Probe] = {
    "python": _python,
    "onnxruntime": _onnxruntime,
    "processor": _processor,
    "memory": _memory,
    "driver": _driver,
    "libraries": _libraries,
    "gpus": _gpus,
    "tensorrt": _tensorrt,
    "cuda_session": _cuda_session,
}

"""Which onnxruntime is installed, which provider a device needs, and how a session is opened.

It knows no BART: a path goes in, a session comes out.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from bart_onnx.errors import BundleDamagedError, DeviceError, InputError, MissingPackageError
from bart_onnx.graph_files import check_graph_file
from bart_onnx.runners.cuda_libraries import lacks, preload
from bart_onnx.runners.device_errors import device_error, is_of_memory

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_INSTALL = {"cpu": 'pip install "bart_onnx[cpu]"', "cuda": 'pip install "bart_onnx[gpu]"'}
_FLAVOURS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
)
# What onnxruntime says when it is the device, and not the graph, that a session fails for.
_OF_THE_DEVICE = re.compile(r"CUDA|CUDNN|cublas|graph capture", re.IGNORECASE)


# Between operators a thread looks for work so many microseconds, and then sleeps. With a busy
# neighbour on one of two cores, steps of two threads take half as long again as one thread's under
# onnxruntime's own setting (a millisecond), and as long as one thread's with this one.
_SPIN_MICROSECONDS = 25
# Asked for on a machine of few cores: as many as a large one has use for.
_MOST_THREADS = 64


def open_session(
    path: Path,
    device: str,
    threads: int | None,
    provider_options: Mapping[str, str] | None = None,
    shapes_repeat: bool = True,
) -> Any:
    """An onnxruntime session of the graph at `path` on `device`.

    Args:
        device: "cpu" or "cuda".
        threads: threads within an operator; None means `available_cores()`.
        provider_options: onnxruntime's options of the device's provider.
        shapes_repeat: whether to plan the memory of each new shape as one block. For shapes that
            rarely come again that block is memory beside what is there already.

    Raises:
        InputError: more threads than a machine has use for, or none.
        DeviceError: onnxruntime has no provider for the device, or did not activate it; what the
            machine lacks is named.
        BundleError: the graph refers to what no bundle's does; see `check_graph_file`.
        BundleDamagedError: onnxruntime cannot read the graph.
        MissingPackageError: no onnxruntime is installed.
    """
    onnxruntime = _onnxruntime()
    provider = _provider(onnxruntime, device)
    check_graph_file(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores() if threads is None else _checked(threads)
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_MICROSECONDS))
    options.enable_mem_pattern = shapes_repeat
    options.log_severity_level = 3
    if device != "cpu":
        preload(onnxruntime)
    try:
        # Without its own fallback, which prints and goes on with another provider.
        session = onnxruntime.InferenceSession(
            path, options, [provider], [dict(provider_options or {})], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        if device != "cpu" and is_of_memory(error):
            index = int((provider_options or {}).get("device_id", 0))
            raise device_error(error, device, index, f"opening {path.name}") from error
        if device != "cpu" and _OF_THE_DEVICE.search(str(error)):
            raise DeviceError(_not_opened(onnxruntime, device, str(error))) from error
        raise BundleDamagedError(
            f"onnxruntime {onnxruntime.__version__} cannot open {path}: {error}. Verify the "
            "bundle, or export it again."
        ) from error
    if provider not in session.get_providers():
        opened = f"onnxruntime opened {path.name} with {', '.join(session.get_providers())} instead"
        raise DeviceError(_not_opened(onnxruntime, device, opened))
    return session


def _not_opened(onnxruntime: ModuleType, device: str, reason: str) -> str:
    missing = [str(lack) for lack in lacks(str(getattr(onnxruntime, "cuda_version", "")))]
    said = "; ".join(missing) or "nothing that can be seen: run python -m bart_onnx.doctor"
    return (
        f"Device {device!r} needs {_PROVIDERS[device]}, which is not active: "
        f"{' '.join(reason.split())[:300]}. Missing here: {said}"
    )


def available_providers() -> list[str]:
    """The providers of the installed onnxruntime.

    Raises:
        MissingPackageError: no onnxruntime is installed.
    """
    return list(_onnxruntime().get_available_providers())


def available_cores() -> int:
    """Cores that this process may use: its affinity, and the cgroup's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, _cgroup_quota(Path("/sys/fs/cgroup"))))


def _cgroup_quota(root: Path) -> int:
    """Whole cores of the CPU quota of control group version 2 or 1; a large number if none."""
    unlimited = 1 << 20
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        if quota == "max" or int(quota) <= 0:
            return unlimited
        return max(1, int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return unlimited


def _checked(threads: int) -> int:
    # onnxruntime starts as many as it is told, until the machine has no more.
    cores = os.cpu_count() or 1
    most = max(_MOST_THREADS, 4 * cores)
    if threads < 1:
        raise InputError(f"threads must be at least 1, found {threads}.")
    if threads > most:
        raise InputError(
            f"threads must be at most {most}, found {threads}; this machine has {cores} cores. "
            "Leave it out to use those that this process may."
        )
    return threads


def _provider(onnxruntime: ModuleType, device: str) -> str:
    if device not in _PROVIDERS:
        raise DeviceError(f"Device {device!r} is unknown; devices: {', '.join(_PROVIDERS)}.")
    provider = _PROVIDERS[device]
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise DeviceError(
            f"Device {device!r} needs {provider}, but the imported package "
            f"{_imported_flavour()} {onnxruntime.__version__} has {', '.join(available)}. "
            f"Install it with: {_INSTALL[device]}"
        )
    return provider


def stay_silent() -> None:
    """Keep onnxruntime from reporting to its maker; to be called before it is first imported.

    From 1.29 on its builds keep an identifier of the machine under the user's cache, and send what
    sessions, models and devices there are to Microsoft, unless the environment says otherwise
    (Privacy.md, in its package). Who has set the variable is not overruled.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@cache
def _onnxruntime() -> ModuleType:
    stay_silent()
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            f"Generation needs onnxruntime, which is not installed. For a CPU: {_INSTALL['cpu']}; "
            f"for an NVIDIA GPU: {_INSTALL['cuda']}"
        ) from error
    installed = installed_flavours()
    if len(installed) > 1:
        warnings.warn(
            f"{' and '.join(installed)} are both installed and overwrite each other's files; "
            f"the one imported is {_imported_flavour()} {onnxruntime.__version__}. Uninstall all "
            "and install the one you want.",
            stacklevel=2,
        )
    module: ModuleType = onnxruntime
    return module


def installed_flavours() -> list[str]:
    """Distributions that provide the module onnxruntime, by their names on the package index."""
    found = []
    for flavour in _FLAVOURS:
        try:
            importlib.metadata.version(flavour)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(flavour)
    return found


def _imported_flavour() -> str:
    from onnxruntime.capi import build_and_package_info

    return str(getattr(build_and_package_info, "package_name", "onnxruntime"))

"""Which NVIDIA GPUs and which driver there are, asked of the driver's own library.

It opens no CUDA context, takes no GPU memory, and raises nothing: no driver, no GPUs.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_NAME_BYTES = 96


@dataclass(frozen=True)
class Gpu:
    """One GPU, as the driver counts them, whatever CUDA_VISIBLE_DEVICES says.

    Attributes:
        compute_capability: for example "9.0".
    """

    index: int
    name: str
    compute_capability: str
    memory_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Driver:
    """The driver's version, and the newest CUDA version that it runs."""

    version: str
    cuda: str


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def gpus() -> list[Gpu]:
    """The GPUs that the driver knows; empty where there is no driver."""
    library = _opened()
    if library is None:
        return []
    try:
        count = ctypes.c_uint()
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return []
        found = (_gpu(library, index) for index in range(count.value))
        return [gpu for gpu in found if gpu is not None]
    except AttributeError:  # a library that lacks a function is too old to say
        return []
    finally:
        library.nvmlShutdown()


def driver() -> Driver | None:
    """The driver's versions, or None where there is none."""
    library = _opened()
    if library is None:
        return None
    try:
        text, number = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_int()
        failed = library.nvmlSystemGetDriverVersion(text, _NAME_BYTES)
        failed = failed or library.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(number))
    except AttributeError:
        return None
    finally:
        library.nvmlShutdown()
    if failed:
        return None
    # 12040 is CUDA 12.4.
    return Driver(text.value.decode(), f"{number.value // 1000}.{number.value % 1000 // 10}")


def _opened() -> Any | None:
    try:
        library = ctypes.CDLL(_LIBRARY)
        return None if library.nvmlInit_v2() else library
    except (OSError, AttributeError):
        return None


def _gpu(library: Any, index: int) -> Gpu | None:
    handle, memory = ctypes.c_void_p(), _Memory()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    calls = (
        (library.nvmlDeviceGetHandleByIndex_v2, (ctypes.c_uint(index), ctypes.byref(handle))),
        (library.nvmlDeviceGetName, (handle, name, ctypes.c_uint(_NAME_BYTES))),
        (library.nvmlDeviceGetMemoryInfo, (handle, ctypes.byref(memory))),
        (
            library.nvmlDeviceGetCudaComputeCapability,
            (handle, ctypes.byref(major), ctypes.byref(minor)),
        ),
    )
    if any(call(*arguments) for call, arguments in calls):
        return None
    capability = f"{major.value}.{minor.value}"
    text = name.value.decode(errors="replace")
    return Gpu(index, text, capability, memory.total, memory.free)

"""Device memory, one stream and captured graphs through NVIDIA's driver, with ctypes alone.

The driver is where a GPU is, so nothing has to be installed; TensorRT shares its primary context.
**Not run**: no GPU was at hand. The calls are those of the CUDA driver API, 12 and later.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from numpy.typing import NDArray

from bart_onnx.errors import DeviceError, DeviceMemoryError

_LIBRARY = "libcuda.so.1"
_OUT_OF_MEMORY = 2
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED


def compute_capability_here(number: int = 0, library: str = _LIBRARY) -> str:
    """The compute capability of a GPU, as in "sm89".

    Raises:
        DeviceError: there is no driver or no GPU.
    """
    return _capability(_Driver(_loaded(library)), number)


class CudaDriver:
    """`runners.device_memory.DeviceMemory` on a GPU.

    Raises:
        DeviceError: there is no driver, no GPU, or no memory for a context.
    """

    def __init__(self, number: int = 0, library: Any = None) -> None:
        self._call = _Driver(_loaded(_LIBRARY) if library is None else library)
        self.compute_capability = _capability(self._call, number)
        context, stream = c_void_p(), c_void_p()
        self._call("cuDevicePrimaryCtxRetain", byref(context), c_int(number))
        self._context = context
        self._enter()
        self._call("cuStreamCreate", byref(stream), c_uint(_NON_BLOCKING))
        self._stream = stream

    @property
    def stream(self) -> int:
        """The stream that everything is put on, as TensorRT takes it; asked before TensorRT is
        called, which works in the context of the calling thread.
        """
        self._enter()
        return int(self._stream.value or 0)

    def allocate(self, size: int) -> int:
        """See `DeviceMemory`."""
        self._enter()
        address = c_uint64()
        status = self._call.status("cuMemAlloc_v2", byref(address), c_size_t(size))
        if status == _OUT_OF_MEMORY:
            free, total = c_size_t(), c_size_t()
            self._call("cuMemGetInfo_v2", byref(free), byref(total))
            raise DeviceMemoryError(
                f"Out of device memory: {size:,} bytes were asked for, {free.value:,} of "
                f"{total.value:,} are free. Decode fewer rows at a time, or build engines with a "
                "smaller --max-batch or --max-tokens."
            )
        self._call.check("cuMemAlloc_v2", status)
        self.clear(int(address.value), size)
        return int(address.value)

    def free(self, address: int) -> None:
        """See `DeviceMemory`."""
        self.wait()
        self._call("cuMemFree_v2", c_uint64(address))

    def clear(self, address: int, size: int) -> None:
        """See `DeviceMemory`."""
        self._enter()
        arguments = (c_uint64(address), ctypes.c_ubyte(0), c_size_t(size), self._stream)
        self._call("cuMemsetD8Async", *arguments)

    def to_device(self, address: int, array: NDArray[Any]) -> None:
        """See `DeviceMemory`."""
        self._enter()
        source = c_void_p(array.ctypes.data)
        size = c_size_t(array.nbytes)
        self._call("cuMemcpyHtoDAsync_v2", c_uint64(address), source, size, self._stream)

    def to_host(self, address: int, array: NDArray[Any]) -> None:
        """See `DeviceMemory`."""
        self._enter()
        target = c_void_p(array.ctypes.data)
        size = c_size_t(array.nbytes)
        self._call("cuMemcpyDtoHAsync_v2", target, c_uint64(address), size, self._stream)
        self.wait()

    def copy(self, target: int, source: int, size: int) -> None:
        """See `DeviceMemory`."""
        self._enter()
        places = (c_uint64(target), c_uint64(source))
        self._call("cuMemcpyDtoDAsync_v2", *places, c_size_t(size), self._stream)

    def wait(self) -> None:
        """See `DeviceMemory`."""
        self._enter()
        self._call("cuStreamSynchronize", self._stream)

    def capture(self, put: Callable[[], None]) -> Callable[[], None]:
        """See `DeviceMemory`."""
        self._enter()
        graph, runnable = c_void_p(), c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, c_int(_RELAXED))
        try:
            try:
                put()
            except BaseException:
                # Its status would hide the first error.
                self._call.status("cuStreamEndCapture", self._stream, byref(graph))
                raise
            self._call("cuStreamEndCapture", self._stream, byref(graph))
            self._call("cuGraphInstantiateWithFlags", byref(runnable), graph, ctypes.c_ulonglong(0))
        finally:
            if graph:
                self._call.status("cuGraphDestroy", graph)
        return _Captured(self._call, self._context, runnable, self._stream)

    def _enter(self) -> None:
        """Make the context that of this thread, whichever it is."""
        self._call("cuCtxSetCurrent", self._context)


class _Captured:
    """A graph that can be launched; freed with the last reference."""

    def __init__(self, call: _Driver, context: c_void_p, graph: c_void_p, stream: c_void_p) -> None:
        self._call, self._context, self._graph, self._stream = call, context, graph, stream
        weakref.finalize(self, call.status, "cuGraphExecDestroy", graph).atexit = False

    def __call__(self) -> None:
        self._call("cuCtxSetCurrent", self._context)
        self._call("cuGraphLaunch", self._graph, self._stream)


class _Driver:
    """Calls a function of the driver by its name."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self("cuInit", c_uint(0))

    def __call__(self, name: str, *arguments: Any) -> None:
        self.check(name, self.status(name, *arguments))

    def status(self, name: str, *arguments: Any) -> int:
        """What a function returned; 0 means that it succeeded."""
        return int(getattr(self._library, name)(*arguments))

    def check(self, name: str, status: int) -> None:
        """Raise a DeviceError where a function failed."""
        if status == 0:
            return
        text = c_char_p()
        self._library.cuGetErrorString(c_int(status), byref(text))
        said = (text.value or b"unknown").decode()
        raise DeviceError(f"The CUDA driver refused {name}: {said} (error {status}).")


def _loaded(name: str) -> Any:
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise DeviceError(f"There is no NVIDIA driver here ({error}).") from error


def _capability(call: _Driver, number: int) -> str:
    count, device = c_int(), c_int()
    call("cuDeviceGetCount", byref(count))
    if not 0 <= number < count.value:
        raise DeviceError(f"GPU {number} is not there; the driver has {count.value}.")
    call("cuDeviceGet", byref(device), c_int(number))
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        value = c_int()
        call("cuDeviceGetAttribute", byref(value), c_int(attribute), device)
        numbers.append(str(value.value))
    return "sm" + "".join(numbers)

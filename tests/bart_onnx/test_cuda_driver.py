"""The CUDA driver through ctypes, against a driver that is made up: which calls, in which order."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from bart_onnx.errors import DeviceError, DeviceMemoryError
from bart_onnx.runners.cuda_driver import CudaDriver, compute_capability_here

NUMBERS = {75: 8, 76: 9}


class MadeUpDriver:
    """Writes down what is called; device memory is host memory."""

    def __init__(self, gpus=1, failing=None, status=999):
        self.calls, self.gpus, self.failing, self.status = [], gpus, failing, status
        self.memory = {}

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append(name)
            if name == self.failing:
                return self.status
            getattr(self, f"_{name}", lambda *_: None)(*arguments)
            return 0

        if name.startswith("_"):
            raise AttributeError(name)
        return call

    def _cuDeviceGetCount(self, count):  # noqa: N802 # the driver's own names
        count._obj.value = self.gpus

    def _cuDeviceGetAttribute(self, value, attribute, device):  # noqa: N802
        value._obj.value = NUMBERS[attribute.value]

    def _cuStreamEndCapture(self, stream, graph):  # noqa: N802
        graph._obj.value = 88

    def _cuStreamCreate(self, stream, flags):  # noqa: N802
        stream._obj.value = 77

    def _cuMemAlloc_v2(self, address, size):  # noqa: N802
        buffer = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(buffer)
        self.memory[address._obj.value] = buffer

    def _cuMemGetInfo_v2(self, free, total):  # noqa: N802
        free._obj.value, total._obj.value = 1000, 80_000

    def _cuMemcpyHtoDAsync_v2(self, target, source, size, stream):  # noqa: N802
        ctypes.memmove(target.value, source.value, size.value)

    def _cuMemcpyDtoHAsync_v2(self, target, source, size, stream):  # noqa: N802
        ctypes.memmove(target.value, source.value, size.value)

    def _cuMemcpyDtoDAsync_v2(self, target, source, size, stream):  # noqa: N802
        ctypes.memmove(target.value, source.value, size.value)

    def _cuMemsetD8Async(self, address, value, size, stream):  # noqa: N802
        ctypes.memset(address.value, value.value, size.value)

    def _cuGetErrorString(self, status, text):  # noqa: N802
        text._obj.value = b"something odd"


def test_arrays_go_up_and_come_down():
    library = MadeUpDriver()
    driver = CudaDriver(library=library)
    assert (driver.compute_capability, driver.stream) == ("sm89", 77)
    address = driver.allocate(64)
    given = np.arange(4, dtype=np.int64)
    driver.to_device(address, given)
    driver.copy(address + 32, address, 32)
    found = np.zeros(4, np.int64)
    driver.to_host(address + 32, found)
    assert found.tolist() == [0, 1, 2, 3]
    down = ["cuMemcpyDtoHAsync_v2", "cuCtxSetCurrent", "cuStreamSynchronize"]
    assert library.calls[-3:] == down
    driver.clear(address, 64)
    driver.to_host(address, found)
    assert not found.any()
    driver.free(address)
    assert library.calls[-2:] == ["cuStreamSynchronize", "cuMemFree_v2"]


def test_what_is_captured_is_launched_and_then_let_go():
    library = MadeUpDriver()
    driver = CudaDriver(library=library)
    library.calls.clear()
    launch = driver.capture(lambda: library.calls.append("work"))
    assert library.calls == [
        "cuCtxSetCurrent",
        "cuStreamBeginCapture_v2",
        "work",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuGraphDestroy",
    ]
    launch()
    assert library.calls[-1] == "cuGraphLaunch"
    del launch
    assert library.calls[-1] == "cuGraphExecDestroy"


def test_a_capture_that_fails_ends():
    library = MadeUpDriver()
    driver = CudaDriver(library=library)

    def fail():
        raise DeviceError("no")

    with pytest.raises(DeviceError, match="no"):
        driver.capture(fail)
    assert library.calls[-2:] == ["cuStreamEndCapture", "cuGraphDestroy"]


def test_the_first_error_of_a_capture_is_told():
    library = MadeUpDriver(failing="cuStreamEndCapture")
    driver = CudaDriver(library=library)

    def fail():
        raise DeviceError("the first")

    with pytest.raises(DeviceError, match="the first"):
        driver.capture(fail)
    assert library.calls[-1] == "cuStreamEndCapture"


def test_no_memory_left_is_said_with_the_numbers():
    driver = CudaDriver(library=MadeUpDriver(failing="cuMemAlloc_v2", status=2))
    with pytest.raises(DeviceMemoryError, match=r"5,000 bytes were asked for, 1,000 of 80,000"):
        driver.allocate(5000)


def test_what_the_driver_refuses_is_told():
    library = MadeUpDriver(failing="cuGraphInstantiateWithFlags")
    driver = CudaDriver(library=library)
    with pytest.raises(DeviceError, match=r"cuGraphInst\w+: something odd \(error 999\)"):
        driver.capture(lambda: None)
    assert library.calls[-1] == "cuGraphDestroy"


def test_no_driver_and_no_gpu_are_told():
    with pytest.raises(DeviceError, match="no NVIDIA driver here"):
        compute_capability_here(library="libcuda_of_nobody.so")
    with pytest.raises(DeviceError, match="GPU 1 is not there; the driver has 1"):
        CudaDriver(1, MadeUpDriver())
    with pytest.raises(DeviceError, match="GPU 0 is not there; the driver has 0"):
        CudaDriver(0, MadeUpDriver(gpus=0))

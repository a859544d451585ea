"""Which runner drives which device: a bundle goes in, the runner that runs it comes out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bart_onnx.bundle import Bundle
from bart_onnx.decoding.protocols import Runner
from bart_onnx.devices import AUTO, CPU, CUDA, PRECISIONS, TENSORRT, Device
from bart_onnx.errors import DeviceError
from bart_onnx.runners.cuda import CudaRunner
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.runners.providers import available_providers

_log = logging.getLogger(__name__)


class BundleRunner(Runner[Any], Protocol):
    """A runner of a bundle, whatever its device.

    Attributes:
        bundle: what it runs.
        device: the name of where it runs it; never "auto".
    """

    bundle: Bundle
    device: str

    def encoder_output(
        self, token_ids: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """The encoder's hidden states, float32 [rows, length, hidden_dim]; see `encode`."""


def open_runner(
    bundle: Bundle, device: str | Device = CPU, threads: int | None = None
) -> BundleRunner:
    """The runner of a bundle on a device.

    Args:
        device: a name, as in "cuda" or "cuda:1", or a Device. "auto" takes a GPU that runs the
            bundle's precision where there is one, else the CPU, and logs which it took.
        threads: threads within an operator; None takes what affinity and cgroup allow.

    Raises:
        DeviceError: the device is not there, or does not run the bundle's precision.
        MissingPackageError: a package that it needs is not installed.
    """
    asked = Device.of(device)
    if asked.name == AUTO:
        return _chosen(bundle, asked, threads)
    return _OPENERS[asked.name](bundle, asked, threads)


def _chosen(bundle: Bundle, asked: Device, threads: int | None) -> BundleRunner:
    """What "auto" comes to."""
    reason = f"{bundle.precision} bundles do not run on a GPU"
    if bundle.precision in PRECISIONS[CUDA]:
        reason = "onnxruntime has no CUDA provider"
        if "CUDAExecutionProvider" in available_providers():
            try:
                runner = _on_cuda(bundle, asked, threads)
            except DeviceError as error:
                reason = str(error)
            else:
                _log.info("device='auto' runs %s on %s.", bundle.path, CUDA)
                return runner
    _log.info("device='auto' runs %s on %s: %s.", bundle.path, CPU, reason)
    return _on_cpu(bundle, asked, threads)


def _on_cpu(bundle: Bundle, asked: Device, threads: int | None) -> BundleRunner:
    return OrtRunner(bundle, CPU, threads)


def _on_cuda(bundle: Bundle, asked: Device, threads: int | None) -> BundleRunner:
    return CudaRunner(bundle, asked, threads)


def _on_tensorrt(bundle: Bundle, asked: Device, threads: int | None) -> BundleRunner:
    from bart_onnx.runners.tensorrt import TensorRTRunner

    return TensorRTRunner.open(bundle, index=asked.index)


_OPENERS: dict[str, Callable[[Bundle, Device, int | None], BundleRunner]] = {
    CPU: _on_cpu,
    CUDA: _on_cuda,
    TENSORRT: _on_tensorrt,
}

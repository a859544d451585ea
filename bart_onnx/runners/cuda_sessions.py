"""A bundle's graphs opened on a GPU: with which options, and with CUDA graphs where they can be."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from bart_onnx.bundle import Bundle
from bart_onnx.devices import CUDA, Device
from bart_onnx.errors import DeviceError, DeviceMemoryError
from bart_onnx.graphs import DECODER_STEP, ENCODER, GraphSpec
from bart_onnx.runners.blocks import Placement
from bart_onnx.runners.contract import checked_session
from bart_onnx.runners.providers import open_session

_log = logging.getLogger(__name__)


def cuda_placement(device: Device, precision: str) -> Placement:
    """Sessions and memory of one GPU."""
    options = {
        "device_id": str(device.index),
        # The default doubles what it holds each time.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if precision == "fp32":
        # TF32 keeps ten bits of a number, and this precision is asked for its exactness.
        options["use_tf32"] = "0"
    return Placement(CUDA, "cuda", device.index, device.cuda_graphs, options)


class CudaSessions:
    """Encoder and decoder step, and the alignment graph from when it is first asked for.

    Attributes:
        captures: whether the step's session captures CUDA graphs.

    Args:
        graphs: their contracts, by name.
        threads: of what a session does on the host.
    """

    def __init__(
        self,
        bundle: Bundle,
        graphs: Mapping[str, GraphSpec],
        placement: Placement,
        threads: int | None,
    ) -> None:
        self._bundle, self._graphs = bundle, graphs
        self._placement, self._threads = placement, threads
        self.captures = placement.captures
        self._sessions = {ENCODER: self._opened(ENCODER), DECODER_STEP: self._opened_step()}

    def __getitem__(self, graph: str) -> Any:
        if graph not in self._sessions:
            self._sessions[graph] = self._opened(graph)
        return self._sessions[graph]

    def stop_capturing(self, error: DeviceError) -> None:
        """Open the step's session anew, without CUDA graphs."""
        _log.warning("Steps run without CUDA graphs: %s", error)
        self.captures = False
        self._sessions[DECODER_STEP] = self._opened(DECODER_STEP)

    def _opened_step(self) -> Any:
        """The step's session, without CUDA graphs where onnxruntime refuses to capture it."""
        if not self.captures:
            return self._opened(DECODER_STEP)
        try:
            return self._opened(DECODER_STEP, enable_cuda_graph="1")
        except DeviceMemoryError:
            raise
        except DeviceError as error:
            _log.warning("Steps run without CUDA graphs: %s", error)
        self.captures = False
        return self._opened(DECODER_STEP)

    def _opened(self, graph: str, **provider_options: str) -> Any:
        options = {**self._placement.provider_options, **provider_options}
        path = self._bundle.graph(graph)
        session = open_session(path, self._placement.device, self._threads, options)
        return checked_session(session, self._graphs[graph])

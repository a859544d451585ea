"""A deserialized engine: its profiles, and runs of it at fixed shapes and addresses.

It knows tensors by name, and neither states nor tokens. Every shape has an execution context of its
own, since a captured graph needs the context that it was captured from to stay as it was; all share
one block of memory for activations, which is right because they run one after another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bart_onnx.config import BartConfig
from bart_onnx.errors import DeviceError
from bart_onnx.graphs import cache_names
from bart_onnx.runners.device_memory import Block, DeviceMemory
from bart_onnx.runners.tensorrt_library import Library, Messages, logger

_log = logging.getLogger(__name__)

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


class Engine:
    """One engine on one device.

    Args:
        name: what it computes, for messages.
        engine: TensorRT's ICudaEngine, or what answers alike.
        new_context: makes an execution context that is given its memory.
        memory: where it runs.
    """

    def __init__(
        self, name: str, engine: Any, new_context: Callable[[], Any], memory: DeviceMemory
    ) -> None:
        self.name, self.engine = name, engine
        self._new_context, self._memory = new_context, memory
        tensors = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = {tensor: engine.get_tensor_mode(tensor).name for tensor in tensors}
        self.inputs = [tensor for tensor in tensors if modes[tensor] == "INPUT"]
        self.outputs = [tensor for tensor in tensors if modes[tensor] == "OUTPUT"]
        self._profiles = [
            {tensor: _shapes(engine, tensor, index) for tensor in self.inputs}
            for index in range(engine.num_optimization_profiles)
        ]

    @property
    def activation_size(self) -> int:
        """Bytes that a run needs for its activations."""
        return int(self.engine.device_memory_size_v2)

    def aliased(self) -> dict[str, str]:
        """Outputs that are written where an input lies, and which."""
        pairs = {name: self.engine.get_aliased_input_tensor(name) for name in self.outputs}
        return {output: source for output, source in pairs.items() if source}

    def run(self, shapes: Shapes, addresses: Mapping[str, int], activations: Block | None) -> Run:
        """A run at these shapes of inputs and addresses of inputs and outputs.

        Raises:
            DeviceError: the engine was built for other shapes.
        """
        stream, context = self._memory.stream, self._new_context()
        if context is None:
            raise self._refused("a context", shapes)
        if not context.set_optimization_profile_async(self._profile(shapes), stream):
            raise self._refused("a profile", shapes)
        if activations is not None:
            context.set_device_memory(activations.address, activations.size)
        for name in self.inputs:
            if not context.set_input_shape(name, shapes[name]):
                raise self._refused(f"the shape of {name}", shapes)
        for name in (*self.inputs, *self.outputs):
            if not context.set_tensor_address(name, addresses[name]):
                raise self._refused(f"the address of {name}", shapes)
        missing = context.infer_shapes()
        if missing:
            raise self._refused(f"shapes without {', '.join(missing)}", shapes)
        return Run(self.name, context, self._memory)

    def _profile(self, shapes: Shapes) -> int:
        """The first profile that these shapes lie in."""
        for index, profile in enumerate(self._profiles):
            if all(_within(shape, *profile[name]) for name, shape in shapes.items()):
                return index
        raise self._refused("a profile", shapes)

    def _refused(self, what: str, shapes: Shapes) -> DeviceError:
        asked = "; ".join(f"{name} {list(shape)}" for name, shape in list(shapes.items())[:4])
        return DeviceError(f"The {self.name} engine does not take {what} of {asked}.")


class Run:
    """One shape at fixed addresses: run as it is once, then captured, then launched.

    What cannot be captured is run as it is from then on.
    """

    def __init__(self, name: str, context: Any, memory: DeviceMemory) -> None:
        self._name, self._context, self._memory = name, context, memory
        self._is_warm, self._captures = False, True
        self._launch: Callable[[], None] | None = None

    def __call__(self) -> None:
        """Put the run on the stream.

        Raises:
            DeviceError: TensorRT refuses it.
        """
        if self._launch is None and self._is_warm and self._captures:
            self._launch = self._captured()
        if self._launch is not None:
            self._launch()
            return
        self._put()
        self._is_warm = True

    def _captured(self) -> Callable[[], None] | None:
        """The run as a graph; None, from now on, where the device refuses it."""
        try:
            return self._memory.capture(self._put)
        except DeviceError as error:
            _log.warning("The %s engine runs without CUDA graphs at a shape: %s", self._name, error)
        self._captures = False
        return None

    def _put(self) -> None:
        if not self._context.execute_async_v3(self._memory.stream):
            raise DeviceError(f"TensorRT did not run the {self._name} engine; its log says why.")


def open_engine(library: Library, path: Path, name: str, memory: DeviceMemory) -> Engine:
    """The engine in a file, on a device.

    Raises:
        DeviceError: TensorRT does not take it; its own words are told.
    """
    said = Messages()
    trt = library.module
    log = logger(library, said)
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise DeviceError(f"{library.name} cannot open {path}: {said}.")
    config = engine.create_runtime_config()
    managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    config.set_execution_context_allocation_strategy(managed)
    # TensorRT-RTX compiles kernels for a shape beside running others for any: what is captured
    # then would stay with those.
    compiled = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if compiled is not None:
        config.dynamic_shapes_kernel_specialization_strategy = compiled.EAGER

    def new_context() -> Any:
        # An engine borrows its runtime, and that the logger.
        return engine.create_execution_context(config) if runtime and log else None

    return Engine(name, engine, new_context, memory)


def check_caches_in_place(engine: Engine, config: BartConfig) -> None:
    """Refuse an engine that does not update every self cache where it lies.

    Raises:
        DeviceError: it does not.
    """
    aliased = engine.aliased()
    for layer in range(config.decoder.num_layers):
        names = cache_names(layer)
        for cache, updated in (
            (names.self_key, names.updated_self_key),
            (names.self_value, names.updated_self_value),
        ):
            if aliased.get(updated) != cache:
                raise DeviceError(
                    f"The {engine.name} engine writes {updated} apart from {cache}, so that no "
                    "step would see what the last one wrote. Build the engines again."
                )


def _shapes(engine: Any, tensor: str, profile: int) -> tuple[Shape, Shape]:
    """The smallest and the largest shape of a tensor in a profile."""
    smallest, _, largest = engine.get_tensor_profile_shape(tensor, profile)
    return tuple(smallest), tuple(largest)


def _within(shape: Sequence[int], smallest: Shape, largest: Shape) -> bool:
    return len(shape) == len(smallest) and all(
        low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
    )

"""A GPU and TensorRT engines that are none: numpy for memory, onnxruntime for what is computed.

The fake is stricter than the real one: what TensorRT leaves undefined, it refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import onnxruntime

from bart_onnx.engines import GRAPHS, Limits
from bart_onnx.errors import DeviceMemoryError
from bart_onnx.graphs import cache_names, graph_specs
from bart_onnx.runners.device_memory import ALIGNMENT
from bart_onnx.runners.tensorrt import TensorRTRunner
from bart_onnx.runners.tensorrt_engine import Engine
from exporters.engines.profiles import profiles
from exporters.rewrite.graph_edits import Edits
from exporters.rewrite.tensorrt import ATTENTION
from exporters.tensorrt import rewritten


class FakeMemory:
    """`DeviceMemory` in numpy. Counts what is asked of it; `room` bounds what may be allocated."""

    stream = 7

    def __init__(self, room=1 << 40):
        self.room, self.spaces, self.recording = room, {}, None
        self.allocations = self.launches = self.captures = self.ups = self.downs = self.waits = 0
        self._next = 1 << 20

    def allocate(self, size):
        if self.used + size > self.room:
            raise DeviceMemoryError(
                f"{size} bytes were asked for, {self.room - self.used} are free"
            )
        address, self._next = self._next, self._next + size + 16 * ALIGNMENT
        self._next += -self._next % ALIGNMENT
        self.spaces[address] = np.zeros(size, np.uint8)
        self.allocations += 1
        return address

    @property
    def used(self):
        return sum(space.size for space in self.spaces.values())

    def free(self, address):
        del self.spaces[address]

    def bytes(self, address, size):
        """A view of bytes, which must lie in one allocation."""
        for base, space in self.spaces.items():
            if base <= address and address + size <= base + space.size:
                return space[address - base : address - base + size]
        raise AssertionError(f"{size} bytes at {address} were never allocated, or are freed")

    def clear(self, address, size):
        assert self.recording is None, "a clearing was captured"
        self.bytes(address, size)[:] = 0

    def to_device(self, address, array):
        assert self.recording is None, "a copy from the host was captured"
        self.ups += 1
        self.bytes(address, array.nbytes)[:] = np.ascontiguousarray(array).view(np.uint8).ravel()

    def to_host(self, address, array):
        assert self.recording is None, "a copy to the host was captured"
        assert array.flags.c_contiguous
        self.downs += 1
        array.view(np.uint8).reshape(-1)[:] = self.bytes(address, array.nbytes)

    def copy(self, target, source, size):
        assert self.recording is None, "a copy of caches was captured"
        assert abs(target - source) >= size, "the bytes copied overlap"
        self.bytes(target, size)[:] = self.bytes(source, size)

    def wait(self):
        self.waits += 1

    def capture(self, put):
        recorded = self.recording = []
        self.captures += 1
        try:
            put()
        finally:
            self.recording = None

        def launch():
            self.launches += 1
            for work in recorded:
                work()

        return launch

    def put(self, work: Callable[[], None]):
        """What TensorRT does: put work on the stream, or into what is being captured."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)


class FakeEngine:
    """An ICudaEngine of one graph: the rewritten graph, computed by onnxruntime."""

    device_memory_size_v2 = 3000

    def __init__(self, bundle, spec, limits, memory):
        self.spec, self.memory = spec, memory
        self.specs = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)}
        self.profiles = profiles(spec, limits)
        self.capacity = limits.capacity
        self.session = session_of(rewritten(bundle, spec, limits))
        self.aliases = {}
        for layer in range(bundle.config.decoder.num_layers):
            names = cache_names(layer)
            self.aliases[names.updated_self_key] = names.self_key
            self.aliases[names.updated_self_value] = names.self_value
        self.num_io_tensors, self.num_optimization_profiles = len(self.specs), len(self.profiles)
        self.contexts = 0

    def get_tensor_name(self, index):
        return list(self.specs)[index]

    def get_tensor_mode(self, name):
        given = name in {tensor.name for tensor in self.spec.inputs}
        return SimpleNamespace(name="INPUT" if given else "OUTPUT")

    def get_tensor_profile_shape(self, name, index):
        return [list(shape) for shape in self.profiles[index][name]]

    def get_aliased_input_tensor(self, name):
        return self.aliases.get(name) if name in self.specs else None

    def create_execution_context(self):
        self.contexts += 1
        return FakeContext(self)


class FakeContext:
    """An IExecutionContext whose memory is the caller's."""

    def __init__(self, engine):
        self.engine, self.memory = engine, engine.memory
        self.profile, self.given = None, None
        self.shapes, self.addresses = {}, {}

    def set_optimization_profile_async(self, index, stream):
        assert stream == self.memory.stream
        self.profile = self.engine.profiles[index]
        return True

    def set_device_memory(self, address, size):
        self.given = self.memory.bytes(address, size).size

    def set_input_shape(self, name, shape):
        low, _, high = self.profile[name]
        self.shapes[name] = tuple(shape)
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        # Rows of a part lie where they lie, so caches are aligned to their numbers only.
        return address % 16 == 0

    def infer_shapes(self):
        return [name.name for name in self.engine.spec.inputs if name.name not in self.shapes]

    def execute_async_v3(self, stream):
        assert stream == self.memory.stream
        assert self.given >= self.engine.device_memory_size_v2
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        self.memory.put(lambda: self._compute(shapes, addresses))
        return True

    def _compute(self, shapes, addresses):
        feeds = {}
        for tensor in self.engine.spec.inputs:
            shape, dtype = shapes[tensor.name], np.dtype(tensor.dtype)
            size = int(np.prod(shape)) * dtype.itemsize
            found = self.memory.bytes(addresses[tensor.name], size)
            feeds[tensor.name] = found.view(dtype).reshape(shape)
        names = [tensor.name for tensor in self.engine.spec.outputs]
        arrays = self.engine.session.run(names, feeds)
        for name, array in zip(names, arrays, strict=True):
            source = self.engine.aliases.get(name)
            if source is not None:
                assert addresses[name] == addresses[source], f"{name} is not where {source} is"
            place = self.memory.bytes(addresses[name], array.nbytes)
            place[:] = np.ascontiguousarray(array).view(np.uint8).ravel()


def session_of(model):
    """onnxruntime's session of a graph for TensorRT, whose attention is made the standard's again.

    That is what TensorRT says its operator computes: no scale, lengths of keys, and a diagonal
    that ends at the last key.
    """
    edits = Edits(model)
    for node in list(model.graph):
        if node.op_type != ATTENTION:
            continue
        add = edits.before(node)
        query, key, value, _, _, lengths = node.inputs
        whole = add("Cast", lengths, to=int(ir.DataType.INT64))
        causal = int(node.attributes["causal_kind"].as_string() == "lower_right")
        inputs = (query, key, value, None, None, None, whole)
        edits.replace(node, add("Attention", *inputs, is_causal=causal, scale=1.0))
    ir.external_data.load_to_model(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def fake_runner(bundle, memory=None, **limits):
    """A TensorRTRunner of a bundle over fake engines, and its memory and engines."""
    memory = memory or FakeMemory()
    bounds = Limits.of(bundle.config, **limits)
    engines = {
        spec.name: FakeEngine(bundle, spec, bounds, memory)
        for spec in graph_specs(bundle.config, bundle.precision)
        if spec.name in GRAPHS
    }
    opened = {
        name: Engine(name, engine, engine.create_execution_context, memory)
        for name, engine in engines.items()
    }
    runner = TensorRTRunner(bundle, SimpleNamespace(limits=bounds), opened, memory)
    return SimpleNamespace(runner=runner, memory=memory, engines=engines)

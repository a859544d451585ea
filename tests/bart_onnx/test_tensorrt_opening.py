"""A runner from engines on disk, with a TensorRT and a GPU that are made up."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from fake_tensorrt import fake_runner
from written_engines import written

from bart_onnx.bundle import Bundle
from bart_onnx.engines import (
    Platform,
)
from bart_onnx.errors import DeviceError
from bart_onnx.graphs import LOGITS
from bart_onnx.runners import tensorrt
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.runners.tensorrt import TensorRTRunner
from bart_onnx.runners.tensorrt_engine import Engine, check_caches_in_place
from bart_onnx.runners.tensorrt_library import Library
from bart_onnx.store import shipped_path


@pytest.fixture(scope="module")
def bundle():
    return Bundle.open(shipped_path("bart_tiny_en_g2p"))


@pytest.fixture
def fake(bundle):
    made = fake_runner(bundle, max_batch=4)
    made.limits = made.runner.engines.limits
    return made


class MadeUpLibrary:
    """TensorRT, whose runtime makes of an engine's file the fake engine that it names."""

    def __init__(self, engines):
        self.engines, self.configs = engines, []
        self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="mine")
        self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="at once")

    class ILogger:
        """Its logger."""

        def __init__(self):
            self.heard = True

    def Runtime(self, log):  # noqa: N802 # TensorRT's own name
        assert log.heard

        def deserialize(data):
            engine = self.engines.get(data.decode())
            if engine is None:
                log.log(SimpleNamespace(name="ERROR"), "the plan is for another card")
                return None
            made = type(engine).__new__(type(engine))
            made.__dict__.update(engine.__dict__)
            made.create_runtime_config = self.config
            made.create_execution_context = lambda config: self.context(engine, config)
            return made

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    def config(self):
        chosen = SimpleNamespace()
        chosen.set_execution_context_allocation_strategy = lambda kind: setattr(
            chosen, "allocation", kind
        )
        self.configs.append(chosen)
        return chosen

    def context(self, engine, config):
        assert config.allocation == "mine"
        assert config.dynamic_shapes_kernel_specialization_strategy == "at once"
        return engine.create_execution_context()


@pytest.fixture
def opened_on_sm89(home, bundle, fake, monkeypatch):
    """Engines on disk, and a machine that has the GPU they are for, made up."""
    directory = written(bundle, Platform("tensorrt_rtx", "1.7", "sm89"), fake.limits)
    module = MadeUpLibrary(fake.engines)
    module.__version__ = "1.7"
    monkeypatch.setattr(tensorrt, "tensorrt_library", lambda: Library("tensorrt_rtx", module))
    fake.memory.compute_capability = "sm89"
    monkeypatch.setattr(tensorrt, "CudaDriver", lambda index: fake.memory)
    return directory


def test_the_engines_beside_a_bundle_are_opened(bundle, opened_on_sm89):
    cpu = OrtRunner(bundle, threads=1)
    for engines in (None, opened_on_sm89):
        runner = TensorRTRunner.open(bundle, engines)
        assert runner.engines.path == opened_on_sm89
        fed, lengths = np.full((2, 3), 5), np.array([3, 2])
        expected = cpu.step(cpu.encode(fed, lengths), fed, (LOGITS,))[LOGITS]
        found = runner.step(runner.encode(fed, lengths), fed, (LOGITS,))[LOGITS]
        np.testing.assert_allclose(found, expected, atol=2e-4, rtol=0)


def test_engines_of_another_card_are_not_opened(bundle, fake, opened_on_sm89):
    fake.memory.compute_capability = "sm90"
    for engines in (None, opened_on_sm89):
        with pytest.raises(DeviceError, match=r"sm89 with tensorrt_rtx 1\.7"):
            TensorRTRunner.open(bundle, engines)


def test_what_tensorrt_says_of_an_engine_is_told(bundle, fake, opened_on_sm89):
    fake.engines.clear()
    with pytest.raises(DeviceError, match=r"cannot open .*engine: the plan is for another card\."):
        TensorRTRunner.open(bundle)


def test_engines_that_do_not_update_in_place_are_refused(fake):
    engine = fake.engines["decoder_step"]
    opened = Engine("decoder_step", engine, engine.create_execution_context, fake.memory)
    check_caches_in_place(opened, fake.runner.config)
    engine.aliases.clear()
    with pytest.raises(DeviceError, match="apart from self_key_0"):
        check_caches_in_place(opened, fake.runner.config)


def test_shapes_that_no_profile_takes_are_told(bundle, fake):
    engine = fake.engines["encoder"]
    opened = Engine("encoder", engine, engine.create_execution_context, fake.memory)
    with pytest.raises(
        DeviceError, match=r"does not take a profile of encoder_token_ids \[99, 8\]"
    ):
        opened.run({"encoder_token_ids": (99, 8), "source_lengths": (99,)}, {}, None)

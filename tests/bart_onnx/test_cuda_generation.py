"""Whole generations through CudaRunner, its placement on the CPU, against those of the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from device_cases import TEXTS, preset, scores, words

from bart_onnx.devices import Device
from bart_onnx.errors import DeviceMemoryError
from bart_onnx.runners.blocks import Placement
from bart_onnx.runners.cuda import CudaRunner

STAND_IN = Placement("cpu", "cpu")


@pytest.fixture(scope="module")
def on_cpu():
    return preset(threads=1)


def through_device(**options):
    """The preset on a device whose memory is the CPU's."""
    lm = preset(threads=1)
    device = Device("cuda", **options)
    lm.backbone._runnable._runner = CudaRunner(
        lm.runner.bundle, device, threads=1, placement=STAND_IN
    )
    return lm


@pytest.fixture(scope="module")
def on_device():
    return through_device()


@pytest.mark.parametrize("case", TEXTS)
def test_texts_are_those_of_the_cpu(case, on_cpu, on_device):
    assert TEXTS[case](on_device) == TEXTS[case](on_cpu)


def test_scores_are_those_of_the_cpu(on_cpu, on_device):
    np.testing.assert_allclose(scores(on_device), scores(on_cpu), atol=1e-4)


def test_alignments_are_those_of_the_cpu(on_cpu, on_device):
    found, expected = (
        lm.generate(words(6), return_dict=True, alignments=True, num_beams=2)
        for lm in (on_device, on_cpu)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.text == theirs.text
        np.testing.assert_allclose(ours.alignment, theirs.alignment, atol=1e-5)


def test_hidden_states_are_those_of_the_cpu(on_cpu, on_device):
    inputs = on_cpu.preprocessor.generate_preprocess(words(5))
    found, expected = on_device.backbone(inputs), on_cpu.backbone(inputs)
    mask = inputs["encoder_padding_mask"].astype(bool)
    for name in expected:
        assert found[name].shape == expected[name].shape
    name = "encoder_sequence_output"
    np.testing.assert_allclose(found[name][mask], expected[name][mask], atol=1e-5)


class Small:
    """A device that has room for so many numbers in one allocation, and no more."""

    def __init__(self, monkeypatch, most):
        self.refused = 0
        original = Placement.allocated

        def allocated(placement, shape, dtype):
            if np.prod(shape) > most:
                self.refused += 1
                raise RuntimeError("CUDA failure 2: out of memory")
            return original(placement, shape, dtype)

        monkeypatch.setattr(Placement, "allocated", allocated)


@pytest.mark.parametrize("case", ["greedy", "frozen beams of KerasHub", "contrastive", "beams"])
def test_batches_are_halved_when_that_was_asked_for(case, on_cpu, monkeypatch):
    expected = TEXTS[case](on_cpu)
    lm = through_device(smaller_batches=True)
    kind = lm.runner._caches.kind
    small = Small(monkeypatch, 8 * 64 * kind.tensors * kind.heads * kind.width)
    assert TEXTS[case](lm) == expected
    assert small.refused


def test_a_batch_without_room_is_an_error_and_the_next_call_goes_on(on_cpu, monkeypatch):
    lm = through_device()
    kind = lm.runner._caches.kind
    Small(monkeypatch, 8 * 64 * kind.tensors * kind.heads * kind.width)
    lm.compile(sampler="greedy")
    with pytest.raises(DeviceMemoryError, match="batch_tokens"):
        lm.generate(words(100))
    on_cpu.compile(sampler="greedy")
    assert lm.generate(words(4)) == on_cpu.generate(words(4))


def test_streams_tell_every_piece_once(on_cpu, on_device):
    for word in words(3):
        assert "".join(on_device.stream(word)) == "".join(on_cpu.stream(word))

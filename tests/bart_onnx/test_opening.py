"""Which runner drives which device, and what is said where none does."""

from __future__ import annotations

import logging

import onnxruntime
import pytest

from bart_onnx.devices import Device, check_precision
from bart_onnx.errors import BundleDamagedError, DeviceError, InputError
from bart_onnx.runners import opening, providers
from bart_onnx.runners.blocks import Placement
from bart_onnx.runners.cuda import CudaRunner
from bart_onnx.runners.cuda_sessions import cuda_placement
from bart_onnx.runners.opening import open_runner
from bart_onnx.runners.ort import OrtRunner


@pytest.fixture
def bundle(variant_bundles):
    return variant_bundles("plain")


def test_devices_are_names_or_more():
    assert Device.of("cuda") == Device("cuda")
    assert Device.of("cuda:2") == Device("cuda", index=2)
    device = Device("auto", smaller_batches=True)
    assert Device.of(device) is device
    with pytest.raises(DeviceError, match="'tpu' is unknown; devices: cpu, cuda, tensorrt, auto"):
        Device.of("tpu")
    with pytest.raises(DeviceError, match="'cpu:1' is unknown"):
        Device.of("cpu:1")
    with pytest.raises(InputError, match="batch_tokens"):
        Device("cuda", batch_tokens=0)
    with pytest.raises(InputError, match="index"):
        Device("cuda", index=-1)


@pytest.mark.parametrize(
    ("device", "precision", "command"),
    [
        ("cpu", "fp16", "--preset here --precision fp32"),
        ("cpu", "bf16", "--preset here --precision fp32"),
        ("cuda", "int8", "--preset here --precision fp32"),
        ("tensorrt", "int8", "--preset here --precision fp32"),
    ],
)
def test_precisions_that_a_device_does_not_run_name_the_command(device, precision, command):
    with pytest.raises(DeviceError, match=f"{precision} runs on .*{command}"):
        check_precision(device, precision, "here")


def test_precisions_that_run():
    for device, runs in {"cpu": ("fp32", "int8"), "cuda": ("fp32", "fp16", "bf16")}.items():
        for precision in runs:
            check_precision(device, precision, "here")


def test_the_cpu_is_driven_by_its_runner(bundle):
    runner = open_runner(bundle, "cpu", 1)
    assert isinstance(runner, OrtRunner)
    assert runner.device == "cpu"


def test_a_gpu_without_its_onnxruntime_is_an_error_that_names_the_command(bundle):
    with pytest.raises(DeviceError, match=r"CUDAExecutionProvider.*bart_onnx\[gpu\]"):
        open_runner(bundle, "cuda", 1)


def test_auto_takes_the_cpu_where_there_is_no_gpu_and_says_so(bundle, caplog):
    with caplog.at_level(logging.INFO, logger="bart_onnx"):
        runner = open_runner(bundle, "auto", 1)
    assert runner.device == "cpu"
    (record,) = caplog.records
    assert "on cpu: onnxruntime has no CUDA provider" in record.message


def test_auto_takes_a_gpu_that_opens(bundle, caplog, monkeypatch):
    found = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(opening, "available_providers", lambda: found)
    placement = Placement("cpu", "cpu")
    monkeypatch.setattr(
        opening,
        "CudaRunner",
        lambda bundle, asked, threads: CudaRunner(bundle, asked, threads, placement),
    )
    with caplog.at_level(logging.INFO, logger="bart_onnx"):
        runner = open_runner(bundle, Device("auto", batch_tokens=77), 1)
    assert (runner.device, runner.batch_tokens) == ("cuda", 77)
    assert "on cuda" in caplog.records[-1].message


def test_auto_goes_on_with_the_cpu_where_the_gpu_does_not_open(bundle, caplog, monkeypatch):
    found = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(opening, "available_providers", lambda: found)
    with caplog.at_level(logging.INFO, logger="bart_onnx"):
        runner = open_runner(bundle, "auto", 1)
    assert runner.device == "cpu"
    assert "needs CUDAExecutionProvider" in caplog.records[-1].message


def test_options_of_a_gpu():
    placement = cuda_placement(Device("cuda", index=1, cuda_graphs=False), "fp32")
    assert placement.provider_options["device_id"] == "1"
    assert placement.provider_options["use_tf32"] == "0"
    assert not placement.captures
    assert "use_tf32" not in cuda_placement(Device("cuda"), "fp16").provider_options
    assert cuda_placement(Device("cuda"), "bf16").captures


class FakeRuntime:
    """An onnxruntime with CUDA whose sessions are what a test says."""

    __version__ = "1.31.1"
    cuda_version = "13.0"

    def __init__(self, outcome):
        self.outcome, self.preloaded = outcome, 0

    def SessionOptions(self):  # noqa: N802
        return onnxruntime.SessionOptions()

    def get_available_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def preload_dlls(self):
        self.preloaded += 1
        print("Failed to load libcudnn.so.9")

    def InferenceSession(self, path, options, names, provider_options, **rest):  # noqa: N802
        if isinstance(self.outcome, Exception):
            raise self.outcome
        self.asked = (names, provider_options)
        return self

    def get_providers(self):
        return self.outcome


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    def made(outcome):
        fake = FakeRuntime(outcome)
        (tmp_path / "a.onnx").touch()
        monkeypatch.setattr(providers, "_onnxruntime", lambda: fake)
        monkeypatch.setattr(providers, "lacks", lambda version: [f"libcudnn for {version}"])
        return fake

    return made


def test_an_active_provider_is_taken_and_libraries_are_loaded_first(runtime, tmp_path, capsys):
    fake = runtime(["CUDAExecutionProvider", "CPUExecutionProvider"])
    for _ in range(2):
        session = providers.open_session(tmp_path / "a.onnx", "cuda", 1, {"device_id": "1"})
    assert session is fake
    assert fake.asked == (["CUDAExecutionProvider"], [{"device_id": "1"}])
    assert fake.preloaded == 1
    assert capsys.readouterr().out == ""


def test_a_provider_that_is_not_active_names_what_is_missing(runtime, tmp_path):
    runtime(["CPUExecutionProvider"])
    with pytest.raises(
        DeviceError, match=r"not active: .*CPUExec.*Missing here: libcudnn for 13\.0"
    ):
        providers.open_session(tmp_path / "a.onnx", "cuda", 1)


@pytest.mark.parametrize(
    ("said", "error", "told"),
    [
        ("CUDA failure 35: CUDA driver version is insufficient", DeviceError, "insufficient"),
        ("CUDA failure 2: out of memory", DeviceError, r"cuda:1 .*opening a\.onnx"),
        ("Protobuf parsing failed", BundleDamagedError, r"cannot open .*a\.onnx"),
    ],
)
def test_a_device_that_fails_is_no_damaged_bundle(runtime, tmp_path, said, error, told):
    runtime(RuntimeError(said))
    with pytest.raises(error, match=told):
        providers.open_session(tmp_path / "a.onnx", "cuda", 1, {"device_id": "1"})

"""Which onnxruntime there is, and what is said when it is not the one asked for."""

from __future__ import annotations

import os

import pytest

from bart_onnx.errors import BundleDamagedError, DeviceError, InputError, MissingPackageError
from bart_onnx.runners import providers


@pytest.fixture(autouse=True)
def fresh_import():
    providers._onnxruntime.cache_clear()
    yield
    providers._onnxruntime.cache_clear()


@pytest.fixture
def graph(tiny_bundle):
    return tiny_bundle / "encoder.onnx"


def test_two_flavours_give_a_warning_that_names_the_imported_one(graph, monkeypatch):
    both = ["onnxruntime", "onnxruntime-gpu"]
    monkeypatch.setattr(providers, "installed_flavours", lambda: both)
    with pytest.warns(UserWarning, match="the one imported is onnxruntime"):
        session = providers.open_session(graph, "cpu", 1)
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_a_provider_that_is_not_there_is_named_with_those_that_are(graph):
    with pytest.raises(DeviceError, match=r"CUDAExecutionProvider.*has .*CPU.*bart_onnx\[gpu\]"):
        providers.open_session(graph, "cuda", 1)


def test_an_unknown_device_is_refused(graph):
    with pytest.raises(DeviceError, match="devices: cpu, cuda"):
        providers.open_session(graph, "tpu", 1)


def test_no_onnxruntime_names_the_commands(graph, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"bart_onnx\[cpu\].*bart_onnx\[gpu\]"):
        providers.open_session(graph, "cpu", 1)


def test_a_graph_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "encoder.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleDamagedError, match=r"encoder\.onnx cannot be read as ONNX"):
        providers.open_session(tmp_path / "encoder.onnx", "cpu", 1)


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_threads_that_cannot_be(graph, threads):
    with pytest.raises(InputError, match=str(threads)):
        providers.open_session(graph, "cpu", threads)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "400000 100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_the_cgroup_quota_bounds_the_cores(tmp_path, files, cores):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    quota = providers._cgroup_quota(tmp_path)
    assert quota == cores if cores else quota > 1000


def test_the_affinity_bounds_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    assert providers.available_cores() == 1

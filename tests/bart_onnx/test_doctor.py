"""The doctor on this machine, and on machines that are made up."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bart_onnx import doctor, findings
from bart_onnx.runners import cuda_libraries, gpus
from bart_onnx.runners.cuda_libraries import INSTALL_LIBRARIES, Lack, lacks, library_majors
from bart_onnx.runners.gpus import Driver

H100 = {
    "index": 0,
    "name": "NVIDIA H100",
    "compute_capability": "9.0",
    "memory_bytes": 80 << 30,
    "free_bytes": 79 << 30,
}
CPU_ONLY = {
    "python": lambda: {"version": "3.11.7", "system": "Linux x86_64", "executable": "python"},
    "onnxruntime": lambda: {
        "installed": ["onnxruntime"],
        "version": "1.32.0",
        "providers": ["CPUExecutionProvider"],
        "cuda": "",
    },
    "processor": lambda: {"name": "a CPU", "cores": 2, "flags": ["avx2"]},
    "memory": lambda: {"bytes": 8 << 30, "free_bytes": 4 << 30},
    "driver": lambda: None,
    "libraries": lambda: {"libcudart": []},
    "gpus": list,
    "tensorrt": lambda: {"tensorrt": None, "tensorrt_rtx": None},
    "cuda_session": lambda: {"runs": False, "reason": "onnxruntime has no CUDA provider"},
}
WITH_GPU = CPU_ONLY | {
    "onnxruntime": lambda: {
        "installed": ["onnxruntime-gpu"],
        "version": "1.31.1",
        "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
        "cuda": "13.0",
    },
    "driver": lambda: {"version": "580.65", "cuda": "13.0"},
    "libraries": lambda: {"libcudart": ["13"], "libcudnn": ["9"]},
    "gpus": lambda: [H100],
    "tensorrt": lambda: {"tensorrt": "11.4", "tensorrt_rtx": None},
    "cuda_session": lambda: {"runs": True, "reason": ""},
}


def raising():
    raise OSError("no such device")


@pytest.fixture
def whole_cuda(monkeypatch):
    monkeypatch.setattr(findings, "lacks", lambda version: [])


def remedies(found, device):
    return [each["remedy"] for each in found["missing"] if each["device"] == device]


def test_a_machine_without_a_gpu_runs_the_cpu():
    found = findings.findings(CPU_ONLY)
    assert found["devices"] == {"cpu": True, "cuda": False, "tensorrt": False}
    assert found["precisions"] == {"cpu": ["fp32", "int8"]}
    assert not remedies(found, "cpu")
    assert 'pip uninstall -y onnxruntime && pip install "bart_onnx[gpu]"' in remedies(found, "cuda")
    assert 'pip install "bart_onnx[tensorrt]"' in remedies(found, "tensorrt")
    assert "no VNNI" in found["notes"][0]


def test_a_machine_with_everything_runs_everything(whole_cuda):
    found = findings.findings(WITH_GPU)
    assert found["devices"] == {"cpu": True, "cuda": True, "tensorrt": True}
    assert found["missing"] == []
    text = "\n".join(doctor.lines(found))
    assert "NVIDIA H100 (9.0), 85.9 GB" in text
    assert "580.65, runs CUDA up to 13.0" in text
    assert "cuda      runs fp32, fp16, bf16" in text
    assert "missing" not in text


def test_what_the_provider_lacks_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(findings, "lacks", lambda version: [Lack(f"cuDNN for {version}", "get it")])
    found = findings.findings(WITH_GPU)
    assert found["missing"] == [{"device": "cuda", "what": "cuDNN for 13.0", "remedy": "get it"}]
    assert not found["devices"]["cuda"]


def test_a_session_that_does_not_run_is_no_gpu_that_does(whole_cuda):
    session = {"runs": False, "reason": "CUDA failure 803"}
    found = findings.findings(WITH_GPU | {"cuda_session": lambda: session})
    assert not found["devices"]["cuda"]
    assert "CUDA failure 803" in found["missing"][0]["what"]


def test_an_h100_is_told_of_full_tensorrt(whole_cuda):
    versions = {"tensorrt": None, "tensorrt_rtx": "1.7.1"}
    found = findings.findings(WITH_GPU | {"tensorrt": lambda: versions})
    assert remedies(found, "tensorrt") == ["pip install tensorrt"]
    ada = {**H100, "compute_capability": "8.9"}
    found = findings.findings(WITH_GPU | {"tensorrt": lambda: versions, "gpus": lambda: [ada]})
    assert found["devices"]["tensorrt"]


def test_two_packages_of_onnxruntime_are_noted():
    both = WITH_GPU["onnxruntime"]() | {"installed": ["onnxruntime", "onnxruntime-gpu"]}
    notes = findings.findings(WITH_GPU | {"onnxruntime": lambda: both})["notes"]
    assert any("overwrite each other" in note and "pip uninstall -y" in note for note in notes)


def test_without_onnxruntime_nothing_runs_and_the_command_is_said(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = findings.findings(CPU_ONLY | {"onnxruntime": findings.PROBES["onnxruntime"]})
    assert not any(found["devices"].values())
    assert remedies(found, "cpu") == ['pip install "bart_onnx[cpu]"']
    monkeypatch.setattr(doctor, "findings", lambda: found)
    assert doctor.main([]) == 1
    assert 'pip install "bart_onnx[cpu]"' in capsys.readouterr().out


@pytest.mark.parametrize("odd", sorted(CPU_ONLY))
def test_a_probe_that_fails_stops_no_other(odd, whole_cuda):
    found = findings.findings(WITH_GPU | {odd: raising})
    assert found[odd] == {"error": "OSError: no such device"}
    text = "\n".join(doctor.lines(found))
    assert odd == "cuda_session" or f"{odd:<13}could not be asked: OSError" in text
    assert json.loads(json.dumps(found)) == found


def test_every_probe_may_fail_at_once(capsys, monkeypatch):
    found = findings.findings(dict.fromkeys(CPU_ONLY, raising))
    monkeypatch.setattr(doctor, "findings", lambda: found)
    assert doctor.main(["--json"]) == 1
    assert json.loads(capsys.readouterr().out)["devices"]["cpu"] is False


def test_this_machine_runs_the_cpu():
    command = [sys.executable, "-m", "bart_onnx.doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert found["devices"]["cpu"]
    assert found["onnxruntime"]["version"]
    assert found["processor"]["cores"] >= 1
    assert found["memory"]["bytes"] > found["memory"]["free_bytes"] > 0
    assert not any("error" in value for value in found.values() if isinstance(value, dict))


def test_the_core_alone_is_enough_to_ask():
    """Without onnxruntime, torch, onnx or TensorRT there is still an answer."""
    script = """
import sys
for name in ("onnxruntime", "torch", "onnx", "tensorrt", "tensorrt_rtx", "huggingface_hub"):
    sys.modules[name] = None
from bart_onnx.doctor import main
sys.exit(main(["--json"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["onnxruntime"]["version"] is None


@pytest.fixture
def libraries(monkeypatch):
    """The libraries and the driver of a made-up machine."""

    def made(names, version):
        monkeypatch.setattr(cuda_libraries, "library_files", lambda: frozenset(names))
        monkeypatch.setattr(cuda_libraries, "driver", lambda: version)

    return made


CUDA_13 = ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13.0.2", "libcudnn.so.9")


def test_nothing_lacks_where_everything_is(libraries):
    libraries(CUDA_13, Driver("580.65", "13.0"))
    assert lacks("13.0") == []


def test_another_major_version_is_named(libraries):
    libraries(("libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12"), Driver("550.9", "12.4"))
    found = lacks("13.0")
    assert "driver 550.9 runs CUDA up to 12.4" in found[0].what
    assert found[1] == Lack("libcudart.so.13 is not found, found 12", INSTALL_LIBRARIES)
    assert found[-1] == Lack("libcudnn.so.9 is not found", INSTALL_LIBRARIES)
    assert len(found) == 5


def test_no_driver_is_named(libraries):
    libraries(CUDA_13, None)
    assert [lack.what for lack in lacks("13.0")] == ["no NVIDIA driver answers (libcuda.so.1)"]


def test_majors_are_those_of_whole_names(libraries):
    names = ("libcudart.so.13.1", "libcudart.so.12", "libcudart_static.a", "xlibcudart.so.9")
    libraries(names, None)
    assert library_majors("libcudart") == ["12", "13"]


def test_libraries_beside_the_loaders_are_found(tmp_path, monkeypatch):
    (tmp_path / "libcudnn.so.9.1").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    cuda_libraries.library_files.cache_clear()
    assert "libcudnn.so.9.1" in cuda_libraries.library_files()
    cuda_libraries.library_files.cache_clear()


class Driverless:
    """An NVML of a made-up machine: one GPU."""

    def __init__(self, status=0):
        self.status = status
        self.closed = 0

    def nvmlInit_v2(self):  # noqa: N802
        return self.status

    def nvmlShutdown(self):  # noqa: N802
        self.closed += 1

    def nvmlDeviceGetCount_v2(self, count):  # noqa: N802
        count._obj.value = 1
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):  # noqa: N802
        return 0

    def nvmlDeviceGetName(self, handle, name, size):  # noqa: N802
        name.value = b"NVIDIA Made Up"
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle, memory):  # noqa: N802
        memory._obj.total, memory._obj.free = 1000, 400
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, handle, major, minor):  # noqa: N802
        major._obj.value, minor._obj.value = 8, 9
        return 0

    def nvmlSystemGetDriverVersion(self, text, size):  # noqa: N802
        text.value = b"550.90"
        return 0

    def nvmlSystemGetCudaDriverVersion_v2(self, number):  # noqa: N802
        number._obj.value = 12040
        return 0


def test_the_drivers_library_is_asked(monkeypatch):
    library = Driverless()
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: library)
    assert gpus.gpus() == [gpus.Gpu(0, "NVIDIA Made Up", "8.9", 1000, 400)]
    assert gpus.driver() == Driver("550.90", "12.4")
    assert library.closed == 2


def test_a_driver_that_does_not_answer_is_none(monkeypatch):
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: Driverless(status=9))
    assert gpus.gpus() == []
    assert gpus.driver() is None
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: object())
    assert gpus.gpus() == []


def test_the_drivers_program_is_asked_where_its_library_is_silent(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '1, NVIDIA L4, 8.9, 23034, 22000'\n")
    program.chmod(0o755)
    monkeypatch.setattr(findings, "gpus", list)
    monkeypatch.setattr(findings.shutil, "which", lambda name: str(program))
    (found,) = findings.PROBES["gpus"]()
    assert (found["index"], found["name"], found["memory_bytes"]) == (1, "NVIDIA L4", 23034 << 20)

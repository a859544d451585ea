"""A real Triton on loopback: what the package nvidia-pytriton holds of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path

from processes import exit_status, free_port


class TritonServer:
    """Started over a model repository, until `end`."""

    def __init__(self, repository: Path, work: Path) -> None:
        site = Path(sysconfig.get_path("purelib"))
        root = site / "pytriton" / "tritonserver"
        self.port, self.log = free_port(), work / "triton.log"
        self.address = f"127.0.0.1:{self.port}"
        command = [
            str(root / "bin" / "tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={_backends(root, work)}",
            "--http-address=127.0.0.1",
            f"--http-port={self.port}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={(grpc := free_port())}",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={free_port()}",
            "--disable-auto-complete-config",
        ]
        self.grpc_address = f"127.0.0.1:{grpc}"
        began = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=_environment(site), stdout=log, stderr=subprocess.STDOUT
            )
        self._wait()
        self.seconds_to_ready = time.monotonic() - began

    def end(self) -> int:
        """Its exit status."""
        return exit_status(self.process)

    def _wait(self) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                with urllib.request.urlopen(f"http://{self.address}/v2/health/ready", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError(self.log.read_text())


def _backends(root: Path, work: Path) -> Path:
    """The Python backend with the stub of this Python."""
    python = work / "backends" / "python"
    shutil.copytree(root / "backends" / "python", python)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, python)
    (python / stub.name).chmod(0o755)
    return python.parent


def _environment(site: Path) -> dict[str, str]:
    """The stub takes its libpython and its packages from where these lead."""
    libraries = f"{sysconfig.get_config_var('LIBDIR')}:{site / 'nvidia_pytriton.libs'}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "LD_LIBRARY_PATH": libraries, "PATH": path}

"""What onnxruntime's CUDA provider needs of a machine, and what of it is not there.

Libraries are looked for and not loaded, so that asking costs nothing; the driver's own is asked
for its version.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from bart_onnx.runners.gpus import driver

_log = logging.getLogger(__name__)

INSTALL_LIBRARIES = 'pip install "onnxruntime-gpu[cuda,cudnn]"'
INSTALL_DRIVER = "install NVIDIA's driver: https://www.nvidia.com/drivers"

_CUDNN_MAJOR = "9"
# By the major version of CUDA that they belong to; curand has counted on its own since CUDA 10.
_OF_CUDA = ("libcudart", "libcublas", "libcublasLt")
_LDCONFIG_SECONDS = 10


@dataclass(frozen=True)
class Lack:
    """Something that the CUDA provider needs and does not find.

    Attributes:
        what: with what was found in its place.
        remedy: the one command or step that mends it.
    """

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} ({self.remedy})"


def lacks(cuda_version: str) -> list[Lack]:
    """What a CUDA provider built with this version of CUDA misses here, for example of "13.0"."""
    major = cuda_version.split(".")[0]
    found = []
    here = driver()
    if here is None:
        found.append(Lack("no NVIDIA driver answers (libcuda.so.1)", INSTALL_DRIVER))
    elif int(here.cuda.split(".")[0]) < int(major or 0):
        found.append(
            Lack(
                f"driver {here.version} runs CUDA up to {here.cuda}, and this onnxruntime is built "
                f"with CUDA {cuda_version}",
                INSTALL_DRIVER,
            )
        )
    for name in _OF_CUDA:
        found += _library_lack(name, major)
    return found + _library_lack("libcudnn", _CUDNN_MAJOR)


def library_majors(name: str) -> list[str]:
    """The major versions of a library that are here, by its name as in "libcudart"."""
    pattern = re.compile(rf"{re.escape(name)}\.so\.(\d+)")
    majors = {match[1] for file in library_files() if (match := pattern.match(file))}
    return sorted(majors, key=int)


@cache
def library_files() -> frozenset[str]:
    """The names of all libraries that the loader, or onnxruntime's preloading, would come upon."""
    names: set[str] = set()
    for directory in _directories():
        with contextlib.suppress(OSError):
            names.update(path.name for path in directory.glob("lib*.so*"))
    names.update(_loader_names())
    return frozenset(names)


@cache
def preload(onnxruntime: ModuleType) -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, where onnxruntime knows how; once.

    What it prints is logged: whether something is missing shows in the provider, or its absence.
    """
    load = getattr(onnxruntime, "preload_dlls", None)
    if load is None:
        return
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        load()
    for line in said.getvalue().splitlines():
        _log.debug("onnxruntime.preload_dlls: %s", line)


def _library_lack(name: str, major: str) -> list[Lack]:
    majors = library_majors(name)
    if major in majors:
        return []
    instead = f", found {', '.join(majors)}" if majors else ""
    return [Lack(f"{name}.so.{major} is not found{instead}", INSTALL_LIBRARIES)]


def _directories() -> Iterator[Path]:
    """Where libraries lie that the loader's own list may not have."""
    for packages in {*site.getsitepackages(), site.getusersitepackages(), *sys.path}:
        if packages.endswith("-packages"):
            # A wheel for each library until CUDA 12, one directory for all of them from 13 on.
            yield from Path(packages).glob("nvidia/*/lib")
    for directory in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep):
        if directory:
            yield Path(directory)
    yield from Path("/usr/local").glob("cuda*/lib64")
    yield Path("/usr/local/nvidia/lib64")


def _loader_names() -> set[str]:
    """The names in the loader's list."""
    program = shutil.which("ldconfig") or "/sbin/ldconfig"
    try:
        listed = subprocess.run(
            [program, "-p"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LDCONFIG_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return set()
    return {line.split()[0] for line in listed.stdout.splitlines() if " => " in line}

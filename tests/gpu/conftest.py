"""Tests that need a GPU: `pytest -m gpu`. Without one they say why they do not run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from device_cases import preset

from bart_onnx.findings import findings


@pytest.fixture(scope="session", autouse=True)
def cuda() -> None:
    """Skips where the doctor finds no GPU that runs, with what it says is missing."""
    found = findings()
    missing = [each["what"] for each in found["missing"] if each["device"] == "cuda"]
    if missing:
        pytest.skip(f"no GPU runs here: {'; '.join(missing)}")


@pytest.fixture(scope="session")
def on_cpu() -> Any:
    """The shipped preset on the CPU."""
    return preset()


@pytest.fixture(scope="session")
def on_gpu() -> Any:
    """The shipped preset on the GPU."""
    return preset(device="cuda")


@pytest.fixture(scope="session")
def half_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """A random tiny BART exported in a precision; skipped where the exporter cannot run."""
    pytest.importorskip("torch", reason="exporting another precision needs torch")
    pytest.importorskip("onnxscript", reason="exporting another precision needs onnxscript")
    from tiny_models import VARIANTS, random_checkpoint

    from bart_onnx.bundle import Bundle
    from exporters.assembly import build
    from exporters.progress import Progress

    def made(precision: str) -> Bundle:
        directory = tmp_path_factory.mktemp("half") / precision
        directory.mkdir()
        checkpoint = random_checkpoint(VARIANTS["wide"])
        build("random", "random", checkpoint, precision, directory, Progress(shown=False))
        return Bundle.open(directory)

    return made

"""What is interrupted in tests/crash_child.py: exports, into the store and for Triton."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from crash_scenario import Scenario

GOLDEN = Path(__file__).parent / "data" / "keras_golden"
PRESET = "bart_tiny_en_g2p"


def _once(work: Callable[..., Any]) -> Callable[..., Any]:
    """What a function answered the first time, of which every trial asks the same."""
    answers: list[Any] = []

    def answer(*arguments: Any) -> Any:
        if not answers:
            answers.append(work(*arguments))
        return answers[0]

    return answer


class Export(Scenario):
    """A checkpoint into the store; what works on no file of it is computed once for all."""

    precision = "fp32"

    def __init__(self, graphs: Path | None) -> None:
        super().__init__(graphs)
        import onnx_ir as ir

        from bart_onnx.errors import BartOnnxError
        from exporters import assembly, golden, quality, trace

        self.errors = (BartOnnxError,)
        traced = cache(trace.master_graph)

        def master(config: Any, name: str) -> Any:
            if graphs is not None:
                return ir.load(graphs / f"{name}.onnx")
            return traced(config, name).clone()

        requests = golden._requests
        trace.master_graph = master
        assembly.reference_run = _once(assembly.reference_run)
        assembly._installed = _once(assembly._installed)
        quality.samples = _once(quality.samples)
        golden._requests = _once(lambda *asked: list(requests(*asked)))

    def prepare(self, root: Path) -> None:
        (root / "home").mkdir()

    def act(self, root: Path) -> None:
        from exporters.export import export

        os.environ["BART_ONNX_HOME"] = str(root / "home")
        export(
            str(GOLDEN / "hf_checkpoint"),
            precision=self.precision,
            show_progress=False,
            accept_quality_loss=True,
        )

    def place(self, root: Path) -> Path:
        from bart_onnx.store import bundle_path

        os.environ["BART_ONNX_HOME"] = str(root / "home")
        return bundle_path(str(GOLDEN / "hf_checkpoint"), self.precision)

    def state(self, root: Path) -> str:
        from bart_onnx.verification import faults

        if not self.place(root).exists():
            return "old"
        found = list(faults(self.place(root)))
        assert not found, found
        return "new"

    def leftovers(self, root: Path) -> list[str]:
        place = self.place(root)
        return [
            str(path)
            for path in (root / "home").rglob("*")
            # What lies in the bundle itself is looked at with its state.
            if path != place and path not in place.parents and place not in path.parents
        ]


class ExportHalf(Export):
    """Judged by a reference that lies in the bundle meanwhile."""

    precision = "fp16"


def shipped_bundle() -> Any:
    """The shipped preset, opened."""
    from bart_onnx.bundle import Bundle
    from bart_onnx.store import shipped_path

    shipped = shipped_path(PRESET)
    assert shipped is not None
    return Bundle.open(shipped)


class TritonLayout(Scenario):
    """Two models into a model repository, each of whose directories Triton takes for a model."""

    def __init__(self, graphs: Path | None) -> None:
        super().__init__(graphs)
        from bart_onnx.errors import ExportError

        self.errors = (ExportError,)
        self._bundle = shipped_bundle()

    def act(self, root: Path) -> None:
        from exporters.triton_layout import write_models

        write_models(self._bundle, PRESET, root / "models")

    def state(self, root: Path) -> str:
        from bart_onnx.verification import faults

        plain, decoupled = root / "models" / PRESET, root / "models" / f"{PRESET}_stream"
        there = sorted((root / "models").iterdir()) if (root / "models").exists() else []
        assert set(there) <= {plain, decoupled}, f"Triton would take {there} for models"
        for path in there:
            assert (path / "config.pbtxt").read_text().endswith("}\n"), "cut off"
            assert "TritonPythonModel" in (path / "1" / "model.py").read_text()
        if decoupled in there:
            found = list(faults(decoupled / "1" / "bundle"))
            assert not found, found
        # The plain one asks the other.
        assert there != [plain], "a model that asks none"
        return ("old", "half", "new")[len(there)]

    def leftovers(self, root: Path) -> list[str]:
        return [str(path) for path in root.iterdir() if path.name != "models"]

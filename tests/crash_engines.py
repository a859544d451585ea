"""What is interrupted in tests/crash_child.py: engines, built by a TensorRT that is none."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

from crash_exports import shipped_bundle
from crash_scenario import Scenario

# What the builder answers; two files of this size are written.
_ENGINE = bytes(range(256)) * 400


class Engines(Scenario):
    """A bundle's engines, in the directory that is theirs."""

    def __init__(self, graphs: Path | None) -> None:
        super().__init__(graphs)
        from bart_onnx.engines import Limits, Platform
        from bart_onnx.errors import ExportError
        from exporters import tensorrt

        self.errors = (ExportError,)
        self._bundle = shipped_bundle()
        self._limits = Limits.of(self._bundle.config, 2, 32, 16)
        self._platform = Platform("tensorrt_rtx", "1.0", "sm89")
        builder = SimpleNamespace(build_serialized_network=lambda *_: memoryview(_ENGINE))
        module = SimpleNamespace(Builder=lambda _: builder)
        self._library = SimpleNamespace(flavour="tensorrt_rtx", name="no TensorRT", module=module)
        # Parsing and configuring touch no files of ours.
        tensorrt.parsed = lambda *_: SimpleNamespace(definition=None)
        tensorrt.configured = lambda *_: None
        tensorrt.logger = lambda *_: None

    def prepare(self, root: Path) -> None:
        (root / "home").mkdir()
        os.environ["BART_ONNX_HOME"] = str(root / "home")

    def act(self, root: Path) -> None:
        from exporters import tensorrt
        from exporters.progress import Progress

        os.environ["BART_ONNX_HOME"] = str(root / "home")
        tensorrt._in_place(
            self._bundle, self._library, self._limits, self._platform, Progress(shown=False)
        )

    def place(self, root: Path) -> Path:
        """Where they lie."""
        from bart_onnx.engines import engines_directory, key

        os.environ["BART_ONNX_HOME"] = str(root / "home")
        return engines_directory(self._bundle) / key(self._bundle, self._limits, self._platform)

    def state(self, root: Path) -> str:
        from bart_onnx import engines

        if not self.place(root).exists():
            return "old"
        found = engines.Engines.open(self.place(root))
        found.check_fits(self._bundle, self._platform)
        for graph in engines.GRAPHS:
            assert found.engine(graph).read_bytes() == _ENGINE, f"{graph} is damaged"
        return "new"

    def leftovers(self, root: Path) -> list[str]:
        place = self.place(root)
        found = (path for path in (root / "home").rglob("*") if path.is_file())
        return [str(path) for path in found if place not in path.parents]

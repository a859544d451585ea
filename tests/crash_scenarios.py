"""What is interrupted in tests/crash_child.py: how it begins, what is done, and what may be left.

Each is done in a directory of its own, whose state is "old", as it was before, or "new".
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from faulty_files import Faults

GOLDEN = Path(__file__).parent / "data" / "keras_golden"
URI = "hf://someone/tiny-bart"
KAGGLE_URI = "kaggle://keras/bart/keras/tiny"


class Scenario:
    """One operation.

    Attributes:
        errors: what a caller is told it by, whatever the fault.
        says_nothing_published: whether such an error promises that the state is old.
    """

    errors: tuple[type[BaseException], ...] = ()

    def __init__(self, graphs: Path | None) -> None:
        self.graphs = graphs

    def prepare(self, root: Path) -> None:
        """The old state, in an empty directory."""

    def act(self, root: Path) -> None:
        """What is interrupted."""
        raise NotImplementedError

    def state(self, root: Path) -> str:
        """ "old" or "new"; raises AssertionError where it is neither."""
        raise NotImplementedError

    def leftovers(self, root: Path) -> list[str]:
        """What lies there after a run without fault and should not."""
        raise NotImplementedError

    def arm(self, faults: Faults) -> None:
        """Put faults where a library in another language works on files."""


class Export(Scenario):
    """A checkpoint into the store; torch's graphs are traced once for all."""

    precision = "fp32"

    def __init__(self, graphs: Path | None) -> None:
        super().__init__(graphs)
        import onnx_ir as ir

        from bart_onnx.errors import BartOnnxError
        from exporters import assembly, golden, quality, trace, verify  # noqa: F401

        self.errors = (BartOnnxError,)
        traced = cache(trace.master_graph)

        def master(config: Any, name: str) -> Any:
            if graphs is not None:
                return ir.load(graphs / f"{name}.onnx")
            return traced(config, name).clone()

        trace.master_graph = master

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
        files = [path for path in (root / "home").rglob("*") if path.parent != self.place(root)]
        expected = {self.place(root), *self.place(root).parents, self.place(root) / "tokenizer"}
        return [str(path) for path in files if path not in expected and path.parent not in expected]


class ExportHalf(Export):
    """Judged by a reference that lies in the bundle meanwhile."""

    precision = "fp16"


class Checkpoint(Scenario):
    """A training state in the place of an older one."""

    errors = (OSError,)

    def prepare(self, root: Path) -> None:
        self._save(root, 1)

    def act(self, root: Path) -> None:
        self._save(root, 2)

    def state(self, root: Path) -> str:
        import torch

        from exporters.training.checkpoint import load_run

        saved = load_run(root / "run", torch.device("cpu"))
        assert saved is not None
        step = saved.position["steps"]
        assert float(saved.tensors["values"].sum()) == 1000.0 * step, "of another step"
        return {1: "old", 2: "new"}[step]

    def leftovers(self, root: Path) -> list[str]:
        from exporters.training.checkpoint import STATE_FILE

        return [path.name for path in (root / "run").iterdir() if path.name != STATE_FILE]

    def arm(self, faults: Faults) -> None:
        from exporters.training import checkpoint

        checkpoint.save_file = faults.counted_save(checkpoint.save_file)

    @staticmethod
    def _save(root: Path, step: int) -> None:
        import torch

        from exporters.training.checkpoint import SavedRun, save_run

        tensors = {"values": torch.full((1000,), float(step))}
        save_run(root / "run", SavedRun(tensors, {"steps": step}, {}))


class Fit(Checkpoint):
    """A whole run of training, which goes on from where it was and ends with the same weights."""

    def __init__(self, graphs: Path | None) -> None:
        super().__init__(graphs)
        import training_child

        self._child = training_child
        self._expected: bytes | None = None

    def prepare(self, root: Path) -> None:
        (root / "run").mkdir()

    def act(self, root: Path) -> None:
        (root / "weights").write_bytes(self._trained(root / "run"))

    def state(self, root: Path) -> str:
        import torch

        from exporters.training.checkpoint import load_run

        load_run(root / "run", torch.device("cpu"))
        if not (root / "weights").exists():
            return "old"
        if self._expected is None:
            (root / "undisturbed").mkdir()
            self._expected = self._trained(root / "undisturbed")
            shutil.rmtree(root / "undisturbed")
        # The file itself is this test's own, and not replaced in one go.
        finished = (root / "weights").read_bytes() == self._expected
        return "new" if finished else "old"

    def _trained(self, directory: Path) -> bytes:
        import numpy as np

        child = self._child
        from bart_onnx.initializer import initialize
        from bart_onnx.training_options import OptimizerOptions
        from exporters.bart import Bart
        from exporters.model_weights import weights_of
        from exporters.training.trainer import Trainer

        bart = Bart.from_weights(child.CONFIG, initialize(child.CONFIG, 1))
        trainer = Trainer(bart, OptimizerOptions("adam", 1e-2), 0.1, "cpu")
        trainer.fit(child.reversals(24), child.options(directory), child.reversals(6, 1))
        weights = weights_of(trainer.bart)
        return b"".join(np.ascontiguousarray(read()).tobytes() for read in weights.values())


class Download(Scenario):
    """A checkpoint from a hub, into huggingface_hub's cache."""

    def __init__(self, graphs: Path | None) -> None:
        super().__init__(graphs)
        import tempfile

        from loopback_hub import CHECKPOINT, NEEDED, directory, hub_for_tests

        from bart_onnx.errors import BartOnnxError

        self.errors = (BartOnnxError,)
        self._files = {name: CHECKPOINT[name] for name in NEEDED}
        place = Path(tempfile.mkdtemp(dir=os.environ.get("PYTEST_TMPDIR")))
        stack = ExitStack()
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        hub = stack.enter_context(hub_for_tests(patch, place))
        hub.add("someone/tiny-bart", directory(place / "repository", CHECKPOINT))
        stack.callback(shutil.rmtree, place)
        self.close = stack.close

    def act(self, root: Path) -> None:
        from bart_onnx import hub

        os.environ["HF_HUB_CACHE"] = str(root / "hub")
        hub.download_checkpoint(URI)

    def state(self, root: Path) -> str:
        from bart_onnx import hub
        from bart_onnx.errors import BartOnnxError

        os.environ["HF_HUB_CACHE"] = str(root / "hub")
        try:
            snapshot = hub.download_checkpoint(URI, offline=True)
        except BartOnnxError:
            return "old"
        for name, content in self._files.items():
            path = snapshot.directory / name
            if path.exists() or name in snapshot.files:
                assert path.read_bytes() == content, f"{name} is damaged"
        return "new" if set(snapshot.files) == set(self._files) else "old"

    def leftovers(self, root: Path) -> list[str]:
        return [str(path) for path in root.rglob("*.incomplete")]


class KaggleDownload(Download):
    """A Keras preset from Kaggle, into kagglehub's cache."""

    def __init__(self, graphs: Path | None) -> None:
        Scenario.__init__(self, graphs)
        import tempfile

        from loopback_hub import directory
        from loopback_kaggle import kaggle_for_tests

        from bart_onnx.errors import BartOnnxError

        self.errors = (BartOnnxError,)
        self._files = {
            "config.json": b'{"registered_name": "keras_hub>BartBackbone"}',
            "tokenizer.json": b"{}",
            "assets/tokenizer/vocabulary.json": b'{"<s>": 0}',
            "assets/tokenizer/merges.txt": b"#version: 0.2\n",
            "model.weights.h5": bytes(range(256)) * 300,
        }
        place = Path(tempfile.mkdtemp(dir=os.environ.get("PYTEST_TMPDIR")))
        stack = ExitStack()
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        kaggle = stack.enter_context(kaggle_for_tests(patch, place / "cache"))
        version = directory(place / "version", self._files)
        kaggle.variants["keras/bart/tiny"] = {1: version}
        stack.callback(shutil.rmtree, place)
        self.close = stack.close

    def act(self, root: Path) -> None:
        from bart_onnx import kaggle

        os.environ["KAGGLEHUB_CACHE"] = str(root / "cache")
        kaggle.download(KAGGLE_URI)

    def state(self, root: Path) -> str:
        from bart_onnx import kaggle
        from bart_onnx.errors import BartOnnxError

        os.environ["KAGGLEHUB_CACHE"] = str(root / "cache")
        try:
            found = kaggle.download(KAGGLE_URI, offline=True)
        except BartOnnxError:
            return "old"
        for name in ("config.json", "model.weights.h5"):
            content = (found.directory / name).read_bytes()
            assert content == self._files[name], f"{name} is damaged"
        for name, content in self._files.items():
            path = found.directory / name
            # Offline, a file that is not marked as whole is not taken.
            marker = found.directory.parent / ".complete" / "1" / f"{name}.complete"
            assert not marker.exists() or path.read_bytes() == content, f"{name} is damaged"
        return "new"

    def leftovers(self, root: Path) -> list[str]:
        return []


SCENARIOS: dict[str, Callable[[Path | None], Scenario]] = {
    "export": Export,
    "export-fp16": ExportHalf,
    "checkpoint": Checkpoint,
    "fit": Fit,
    "download": Download,
    "kaggle": KaggleDownload,
}

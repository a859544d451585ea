"""What is interrupted in tests/crash_child.py: training, and what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crash_scenario import Scenario


class Checkpoint(Scenario):
    """A training state in the place of an older one."""

    def __init__(self, graphs: Path | None) -> None:
        super().__init__(graphs)
        from bart_onnx.errors import TrainingStateError

        self.errors = (TrainingStateError,)

    def prepare(self, root: Path) -> None:
        self._save(root, 1)

    def act(self, root: Path) -> None:
        self._save(root, 2)

    def state(self, root: Path) -> str:
        saved = self._saved(root)
        assert saved is not None
        step = saved.position["steps"]
        assert float(saved.tensors["values"].sum()) == 1000.0 * step, "of another step"
        return {1: "old", 2: "new"}[step]

    def leftovers(self, root: Path) -> list[str]:
        from exporters.training.checkpoint import STATE_FILE

        return [path.name for path in (root / "run").iterdir() if path.name != STATE_FILE]

    @staticmethod
    def _saved(root: Path) -> Any:
        import torch

        from exporters.training.checkpoint import load_run

        return load_run(root / "run", torch.device("cpu"))

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
        self._weights = b""
        self._last: Any = None

    def warm_up(self, root: Path) -> None:
        self._weights = self._trained(root / "run")
        self._last = self._saved(root)

    def prepare(self, root: Path) -> None:
        (root / "run").mkdir()

    def act(self, root: Path) -> None:
        assert self._trained(root / "run") == self._weights, "other weights than undisturbed"

    def state(self, root: Path) -> str:
        saved = self._saved(root)
        if saved is None or saved.position != self._last.position:
            return "old"
        for name, tensor in self._last.tensors.items():
            assert saved.tensors[name].equal(tensor), f"{name} is another's"
        return "new"

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

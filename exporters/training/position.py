"""How far a training run is, and what it reports in the end. It knows no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bart_onnx.errors import InputError
from bart_onnx.training_options import EarlyStopping
from exporters.training.objective import Totals


@dataclass(frozen=True)
class History:
    """What `fit` returns, as Keras' object of this name.

    Attributes:
        history: metric ("loss", "val_loss", ...) to its value after each epoch.
        epoch: the epochs' numbers, counted from 0.
    """

    history: dict[str, list[float]]
    epoch: list[int]


@dataclass
class Position:
    """Where a run is.

    Attributes:
        epoch: the epoch that is trained, or the next one.
        batch: batches of it that are done.
        totals: of those batches.
        history, epochs: what History will hold.
        best, best_epoch: the monitored value of the best epoch, and that epoch.
        waited: epochs since then.
        stopped: whether early stopping has ended the run.
    """

    epoch: int
    batch: int = 0
    totals: Totals = field(default_factory=Totals)
    history: dict[str, list[float]] = field(default_factory=dict)
    epochs: list[int] = field(default_factory=list)
    best: float | None = None
    best_epoch: int | None = None
    waited: int = 0
    stopped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, which keeps floats exactly."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Position:
        """The inverse of `to_dict`."""
        return cls(**{**values, "totals": Totals(**values["totals"])})

    def finish_epoch(self, logs: Mapping[str, float]) -> None:
        """Enter an epoch's figures and go to the next one."""
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        self.epochs.append(self.epoch)
        self.epoch, self.batch, self.totals = self.epoch + 1, 0, Totals()

    def judge(self, stopping: EarlyStopping, logs: Mapping[str, float]) -> bool:
        """Whether the epoch just trained is the best so far; sets `stopped` as Keras would.

        Raises:
            InputError: the monitored figure is not among the logs.
        """
        if stopping.monitor not in logs:
            raise InputError(
                f"Early stopping monitors {stopping.monitor!r}, but the figures are "
                f"{', '.join(logs)}. Monitor one of these; val_ figures need validation data."
            )
        value = logs[stopping.monitor]
        self.waited += 1
        if stopping.improves(value, self.best):
            self.best, self.best_epoch, self.waited = value, self.epoch, 0
            return True
        self.stopped = self.waited >= stopping.patience and self.epoch > 0
        return False

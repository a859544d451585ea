"""How far a training run is, and what it reports in the end. It knows no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bart_onnx.errors import CheckpointError, InputError
from bart_onnx.training_options import EarlyStopping
from exporters.training.objective import Totals

# No run counts further, and a float holds each of them.
_MOST = 1 << 53


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
        """The inverse of `to_dict`.

        Raises:
            CheckpointError: another field, or another type of value, than `to_dict` writes.
        """
        _check(values, _POSITION)
        _check(values["totals"], _TOTALS)
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


def read_place(saved: Mapping[str, Any]) -> tuple[int, Position]:
    """The optimizer's steps and the position of a run, from the JSON of a training state.

    Raises:
        CheckpointError: it is not what a run saves.
    """
    _check(saved, {"steps": _is_count, "fit": _is_object})
    return saved["steps"], Position.from_dict(saved["fit"])


def _check(values: Mapping[str, Any], forms: Mapping[str, Callable[[Any], bool]]) -> None:
    wrong = sorted(values.keys() ^ forms.keys())
    wrong = wrong or [name for name, fits in forms.items() if not fits(values[name])]
    if wrong:
        raise CheckpointError(
            f"The training state says nothing usable of {', '.join(wrong):.200}. Remove it to "
            "train from the start."
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_count(value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_history(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, list) and all(map(_is_number, each)) for each in value.values()
    )


_POSITION: Mapping[str, Callable[[Any], bool]] = {
    "epoch": _is_count,
    "batch": _is_count,
    "totals": _is_object,
    "history": _is_history,
    "epochs": lambda value: isinstance(value, list) and all(map(_is_count, value)),
    "best": lambda value: value is None or _is_number(value),
    "best_epoch": lambda value: value is None or _is_count(value),
    "waited": _is_count,
    "stopped": lambda value: isinstance(value, bool),
}
_TOTALS: Mapping[str, Callable[[Any], bool]] = {
    each.name: _is_number if each.type == "float" else _is_count
    for each in dataclasses.fields(Totals)
}

"""What a training run is asked to do: optimizer, rates, stopping, checkpoints. Numbers only.

It knows no torch, so that options can be made and checked where there is none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bart_onnx.errors import InputError

Schedule = Callable[[int], float]
_OPTIMIZERS = ("adam", "adamw", "muon")
_DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 + 0.5 * math.cos(math.pi * done),
}


@dataclass(frozen=True)
class WarmUp:
    """A rate that climbs linearly to its peak, stays there, and then decays.

    Attributes:
        peak: the highest rate, reached at step `warm_up_steps - 1`.
        warm_up_steps: steps of the climb.
        total_steps: the step at which the decay arrives.
        decay: "constant", "linear" or "cosine".
        end: the rate that the decay arrives at.
        hold_steps: steps at the peak between climb and decay.

    With peak 1, 2 steps of warm-up, 6 in all and linear decay the rates are
    0.5, 1, 1, 0.75, 0.5, 0.25, and 0 from there on.
    """

    peak: float
    warm_up_steps: int
    total_steps: int
    decay: Literal["constant", "linear", "cosine"] = "cosine"
    end: float = 0.0
    hold_steps: int = 0

    def __post_init__(self) -> None:
        _check_range("peak", self.peak, 0.0, math.inf)
        _check_range("end", self.end, 0.0, self.peak)
        _check_whole("warm_up_steps", self.warm_up_steps, 0)
        _check_whole("hold_steps", self.hold_steps, 0)
        _check_whole("total_steps", self.total_steps, self.warm_up_steps + self.hold_steps + 1)
        _check_known("decay", self.decay, tuple(_DECAYS))

    def __call__(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        if step < self.warm_up_steps:
            return self.peak * (step + 1) / self.warm_up_steps
        first = self.warm_up_steps + self.hold_steps
        done = min(1.0, max(0.0, (step - first) / (self.total_steps - first)))
        return self.end + (self.peak - self.end) * _DECAYS[self.decay](done)


@dataclass(frozen=True)
class OptimizerOptions:
    """An optimizer by Keras' formulas and defaults; the rate 2e-5 is that of BART's own compile.

    Attributes:
        name: "adam", "adamw" (weight decay apart from the gradient), or "muon": matrices inside
            the layers by Muon (Jordan 2024), everything else by AdamW.
        learning_rate: a number, or a function of the step, counted from 0.
        beta_1, beta_2, epsilon: Adam's decay of both means, and what keeps its quotient finite.
        weight_decay: share of each weight that a step of rate 1 removes; "adam" has none.
        matrix_rate: Muon's rate as a multiple of `learning_rate`.
        momentum: Muon's.
        clip_norm: longest gradient, over all weights together; longer ones are shortened to it.
        average_momentum: keep an exponential moving average of the weights with this momentum,
            validate with it and end `fit` with it; None keeps none.

    Raises:
        InputError: a value out of its range.
    """

    name: Literal["adam", "adamw", "muon"] = "adam"
    learning_rate: float | Schedule = 2e-5
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    weight_decay: float = 0.004
    matrix_rate: float = 7.0
    momentum: float = 0.95
    clip_norm: float | None = None
    average_momentum: float | None = None

    def __post_init__(self) -> None:
        _check_known("optimizer", self.name, _OPTIMIZERS)
        if not callable(self.learning_rate):
            _check_range("learning_rate", self.learning_rate, 0.0, math.inf)
        for name in ("beta_1", "beta_2", "momentum"):
            _check_range(name, getattr(self, name), 0.0, 1.0)
        for name in ("epsilon", "weight_decay", "matrix_rate"):
            _check_range(name, getattr(self, name), 0.0, math.inf)
        if self.average_momentum is not None:
            _check_range("average_momentum", self.average_momentum, 0.0, 1.0)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"clip_norm is {self.clip_norm}; give a number above 0, or None.")

    def terms(self) -> dict[str, Any]:
        """Every option, ready for JSON; of a schedule but `WarmUp` only that there is one."""
        terms = dataclasses.asdict(self)
        if isinstance(self.learning_rate, WarmUp):
            terms["learning_rate"] = dataclasses.asdict(self.learning_rate)
        elif callable(self.learning_rate):
            terms["learning_rate"] = "a function"
        return terms

    def rate(self, step: int) -> float:
        """The rate of a step, counted from 0.

        Raises:
            InputError: the schedule answered with no number that can be used.
        """
        if not callable(self.learning_rate):
            return float(self.learning_rate)
        rate = float(self.learning_rate(step))
        _check_range(f"learning_rate of step {step}", rate, 0.0, math.inf)
        return rate


@dataclass(frozen=True)
class EarlyStopping:
    """When to stop before the last epoch, as Keras' callback of this name.

    Attributes:
        monitor: a name in History.history. Accuracies are to rise, everything else to fall.
        patience: epochs without improvement after which training stops.
        min_delta: the least change that counts as improvement.
        restore_best_weights: end with the weights of the best epoch instead of the last.
    """

    monitor: str = "val_loss"
    patience: int = 0
    min_delta: float = 0.0
    restore_best_weights: bool = True

    def __post_init__(self) -> None:
        _check_whole("patience", self.patience, 0)
        _check_range("min_delta", self.min_delta, 0.0, math.inf)

    def improves(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than `best`; anything is better than None."""
        if best is None:
            return not math.isnan(value)
        gain = value - best if self.monitor.endswith("accuracy") else best - value
        return gain > self.min_delta


@dataclass(frozen=True)
class Checkpointing:
    """Where a run keeps what it needs to go on after a kill.

    Attributes:
        directory: holds one file, replaced whole each time.
        every_steps: steps between two writes; None writes at the end of epochs only.
        resume: go on from the file if it is there; otherwise such a file is refused.
    """

    directory: Path
    every_steps: int | None = None
    resume: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", Path(self.directory))
        if self.every_steps is not None:
            _check_whole("every_steps", self.every_steps, 1)


@dataclass(frozen=True)
class FitOptions:
    """What Keras' `fit` is told apart from the data, by its names and with its defaults.

    Attributes:
        batch_size: rows in a batch; the last batch of an epoch may be smaller.
        epochs: the epoch to stop before, counted from 0.
        initial_epoch: the epoch to begin with.
        shuffle: take the rows in another order each epoch, a function of `seed` and epoch.
        seed: of the order and of dropout.
        bucket_batches: sort by length within this many batches at a time, so that rows of a batch
            are of like length; 0 keeps the shuffled order. The batches still come shuffled.
        early_stopping: see there.
        checkpointing: see there.
        validation_batch_size: rows in a batch of validation; None means `batch_size`.
        show_progress: draw a bar on standard error.

    Raises:
        InputError: a value out of its range.
    """

    batch_size: int = 32
    epochs: int = 1
    initial_epoch: int = 0
    shuffle: bool = True
    seed: int = 0
    bucket_batches: int = 0
    early_stopping: EarlyStopping | None = None
    checkpointing: Checkpointing | None = None
    validation_batch_size: int | None = None
    show_progress: bool = True

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "epochs": 0, "initial_epoch": 0, "seed": 0, "bucket_batches": 0}
        for name, smallest in least.items():
            _check_whole(name, getattr(self, name), smallest)
        if self.validation_batch_size is not None:
            _check_whole("validation_batch_size", self.validation_batch_size, 1)

    def terms(self) -> dict[str, Any]:
        """What a run that is resumed must share with the one that began, ready for JSON."""
        names = ("batch_size", "initial_epoch", "shuffle", "seed", "bucket_batches")
        terms = {name: getattr(self, name) for name in names}
        stopping = self.early_stopping
        return {**terms, "early_stopping": stopping and dataclasses.asdict(stopping)}


def _check_range(name: str, value: Any, least: float, most: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # Written so that a NaN, which compares as false, is refused too.
    if not (number and least <= value <= most and math.isfinite(value)):
        limits = f"from {least:g} to {most:g}" if math.isfinite(most) else f"of at least {least:g}"
        raise InputError(f"{name} is {value!r}; give a number {limits}.")


def _check_whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is {value!r}; give a whole number of at least {least}.")


def _check_known(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} {value!r} is unknown; known are {', '.join(known)}.")

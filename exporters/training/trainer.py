"""Trains a `Bart` as Keras trains: fit, train_on_batch, and resuming after a kill.

Nothing but the step's number decides a step's dropout, and nothing but the epoch's its order, so a
run that continues from a checkpoint ends with the weights of one that was never stopped. It knows
no text, no preset and no bundle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from bart_onnx.errors import CheckpointError, InputError, TrainingError
from bart_onnx.training_options import FitOptions, OptimizerOptions
from exporters.bart import Bart
from exporters.training.bar import TrainingBar
from exporters.training.batches import TargetBatch, epoch_order, in_order, target_batch
from exporters.training.checkpoint import SavedRun, check_terms, clean_up, load_run, save_run
from exporters.training.evaluation import evaluate
from exporters.training.examples import Examples
from exporters.training.objective import Totals, objective
from exporters.training.optimizers import WeightVector, optimizer_of
from exporters.training.position import History, Position, read_place
from exporters.training.teacher_forcing import token_logits


@dataclass(frozen=True)
class Callbacks:
    """Functions that `fit` calls; a figure's name is Keras'.

    Attributes:
        on_batch_end: gets the number of the step, from 1, and "loss", "learning_rate".
        on_epoch_end: gets the number of the epoch, from 0, and its figures.
    """

    on_batch_end: Callable[[int, Mapping[str, float]], None] = lambda step, logs: None
    on_epoch_end: Callable[[int, Mapping[str, float]], None] = lambda epoch, logs: None


class Trainer:
    """A model with its optimizer. Like Keras' compiled model it keeps the optimizer's state.

    Args:
        bart: the model, changed in place; it moves to the GPU if there is one.
        optimizer: which one, and its numbers.
        label_smoothing: share of the target spread evenly over the vocabulary.
        device: where to train; None means "cuda" where it is there and "cpu" elsewhere.

    Raises:
        InputError: `label_smoothing` is out of its range.
    """

    def __init__(
        self,
        bart: Bart,
        optimizer: OptimizerOptions | None = None,
        label_smoothing: float = 0.0,
        device: str | None = None,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing is {label_smoothing}; give a share from 0 to 1.")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.bart = bart.to(self.device)
        self.options = optimizer or OptimizerOptions()
        self.label_smoothing = label_smoothing
        self.steps = 0
        self._weights = WeightVector(self.bart)
        self._optimizer = optimizer_of(self._weights, self.options)
        keeps_average = self.options.average_momentum is not None
        self._average = self._weights.values.clone() if keeps_average else None
        self._best: Tensor | None = None

    def fit(
        self,
        examples: Examples,
        options: FitOptions | None = None,
        validation: Examples | None = None,
        callbacks: Callbacks | None = None,
    ) -> History:
        """Train until the last epoch or until early stopping; the model ends in evaluation mode.

        Raises:
            TrainingError: a loss or gradient that is no finite number; the weights are those
                before that step.
            InputError: early stopping monitors an unknown figure, or a checkpoint is there that
                cannot be continued.
            CheckpointError: the checkpoint is damaged.
            TrainingStateError: a checkpoint could not be saved.
        """
        options, callbacks = options or FitOptions(), callbacks or Callbacks()
        run = _Run(self, examples, options, validation, callbacks)
        with self._training(), TrainingBar(options) as bar:
            position = run.begin()
            while position.epoch < options.epochs and not position.stopped:
                run.train_epoch(position, bar)
                run.end_epoch(position, bar)
        if self._best is not None:
            self._weights.values.copy_(self._best)
        elif self._average is not None:
            self._weights.values.copy_(self._average)
        return History(position.history, position.epochs)

    def train_on_batch(self, examples: Examples, seed: int = 0) -> dict[str, float]:
        """One step on all these rows; "loss" and "sparse_categorical_accuracy" before it.

        Raises:
            TrainingError: see `fit`.
        """
        with self._training():
            rows = in_order(len(examples), len(examples))[0]
            return self.step(target_batch(examples, rows, self.device), seed, "").logs()

    def step(self, batch: TargetBatch, seed: int, place: str) -> Totals:
        """Change the weights once; `place` tells errors where in the run this is."""
        torch.manual_seed((seed * 1_000_003 + self.steps) % 2**63)
        self._weights.gradients.zero_()
        loss, totals = objective(token_logits(self.bart, batch), batch, self.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        rate = self.options.rate(self.steps)
        if not math.isfinite(totals.loss + self._weights.gradients.norm().item()):
            raise TrainingError(
                f"The loss or its gradient is no finite number at step {self.steps + 1}{place} "
                f"(loss {totals.loss / batch.places}, learning rate {rate:g}). The weights are "
                "those before that step. Lower the learning rate, warm it up, or set clip_norm."
            )
        if self.options.clip_norm is not None:
            self._weights.clip(self.options.clip_norm)
        self.steps += 1
        self._optimizer.step(rate, self.steps)
        if self._average is not None and self.options.average_momentum is not None:
            self._average.lerp_(self._weights.values, 1.0 - self.options.average_momentum)
        return totals

    def state(self) -> dict[str, Tensor]:
        """Everything that changes while training, one vector each."""
        own = {"values": self._weights.values, "average": self._average, "best": self._best}
        state = {name: vector for name, vector in own.items() if vector is not None}
        return state | {f"optimizer.{name}": it for name, it in self._optimizer.state.items()}

    def load_state(self, state: Mapping[str, Tensor], steps: int) -> None:
        """The inverse of `state`.

        Raises:
            CheckpointError: it is another model's or another optimizer's.
        """
        self._best = state.get("best")
        own = self.state()
        if {name: it.shape for name, it in own.items()} != {n: it.shape for n, it in state.items()}:
            raise CheckpointError(
                f"The training state holds {', '.join(sorted(state))}, but this model and "
                f"optimizer need {', '.join(sorted(own))}, each of {self._weights.values.numel()} "
                "numbers. Choose another directory to train from the start."
            )
        for name, vector in own.items():
            vector.copy_(state[name])
        self.steps = steps

    def evaluate_average(self, examples: Examples, batch_size: int) -> dict[str, float]:
        """`evaluate` with the weights that `fit` would end with now."""
        with self._averaged():
            return evaluate(self.bart, examples, batch_size, self.label_smoothing)

    def keep_best(self) -> None:
        """Remember the weights that `fit` would end with now, and end with these."""
        with self._averaged():
            self._best = self._weights.values.clone()

    def forget_best(self) -> None:
        """Undo `keep_best`."""
        self._best = None

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        if self._average is None:
            yield
            return
        own = self._weights.values.clone()
        self._weights.values.copy_(self._average)
        try:
            yield
        finally:
            self._weights.values.copy_(own)

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Dropout on, and the caller's random numbers as they were afterwards."""
        devices = [self.device] if self.device.type == "cuda" else []
        self.bart.train()
        try:
            with torch.random.fork_rng(devices):
                yield
        finally:
            self.bart.eval()


class _Run:
    """One call of `fit`."""

    def __init__(
        self,
        trainer: Trainer,
        examples: Examples,
        options: FitOptions,
        validation: Examples | None,
        callbacks: Callbacks,
    ) -> None:
        self._trainer, self._examples, self._options = trainer, examples, options
        self._validation, self._callbacks = validation, callbacks
        self._prints = [it and it.fingerprint() for it in (examples, validation)]

    def begin(self) -> Position:
        """Where the checkpoint says, with its weights; else at the first epoch."""
        self._trainer.forget_best()
        position = Position(self._options.initial_epoch)
        checkpointing = self._options.checkpointing
        if checkpointing is None:
            return position
        saved = load_run(checkpointing.directory, self._trainer.device)
        if saved is None:
            return position
        if not checkpointing.resume:
            raise InputError(
                f"{checkpointing.directory} already holds a run. Continue it with resume=True, "
                "or choose another directory."
            )
        check_terms(checkpointing.directory, saved.terms, self._terms())
        steps, position = read_place(saved.position)
        self._trainer.load_state(saved.tensors, steps)
        # A run that is at its end saves no more, and so would not.
        clean_up(checkpointing.directory)
        return position

    def train_epoch(self, position: Position, bar: TrainingBar) -> None:
        """The batches of an epoch that are not done yet."""
        trainer, options = self._trainer, self._options
        order = epoch_order(
            self._examples,
            options.batch_size,
            seed=options.seed if options.shuffle else None,
            epoch=position.epoch,
            bucket_batches=options.bucket_batches,
        )
        bar.begin(position, len(order))
        every = options.checkpointing.every_steps if options.checkpointing else None
        for rows in order[position.batch :]:
            batch = target_batch(self._examples, rows, trainer.device)
            place = f" (batch {position.batch + 1} of epoch {position.epoch + 1})"
            totals = trainer.step(batch, options.seed, place)
            position.batch += 1
            position.totals += totals
            rate = trainer.options.rate(trainer.steps - 1)
            logs = {"loss": totals.logs()["loss"], "learning_rate": rate}
            self._callbacks.on_batch_end(trainer.steps, logs)
            bar.advance(position.totals, totals.tokens)
            if every and trainer.steps % every == 0:
                self._save(position)

    def end_epoch(self, position: Position, bar: TrainingBar) -> None:
        """Validate, judge, enter the figures, save."""
        logs = position.totals.logs()
        if self._validation is not None:
            size = self._options.validation_batch_size or self._options.batch_size
            figures = self._trainer.evaluate_average(self._validation, size)
            logs |= {f"val_{name}": value for name, value in figures.items()}
        stopping = self._options.early_stopping
        if stopping and position.judge(stopping, logs) and stopping.restore_best_weights:
            self._trainer.keep_best()
        bar.end(logs)
        epoch = position.epoch
        position.finish_epoch(logs)
        self._save(position)
        self._callbacks.on_epoch_end(epoch, logs)

    def _save(self, position: Position) -> None:
        checkpointing = self._options.checkpointing
        if checkpointing is None:
            return
        place = {"steps": self._trainer.steps, "fit": position.to_dict()}
        save_run(checkpointing.directory, SavedRun(self._trainer.state(), place, self._terms()))

    def _terms(self) -> dict[str, object]:
        trainer = self._trainer
        return {
            "config": trainer.bart.config.to_dict(),
            "optimizer": trainer.options.terms(),
            "label_smoothing": trainer.label_smoothing,
            "examples": self._prints[0],
            "validation": self._prints[1],
            **self._options.terms(),
        }

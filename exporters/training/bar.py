"""The bar that a training run draws on standard error. It knows figures and words only."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from tqdm import tqdm

from bart_onnx.training_options import FitOptions
from exporters.training.objective import Totals
from exporters.training.position import Position


class TrainingBar:
    """One bar an epoch, with loss and real tokens per second; silent if not shown."""

    def __init__(self, options: FitOptions) -> None:
        self._shown, self._epochs = options.show_progress, options.epochs
        self._bar: tqdm | None = None
        self._tokens, self._started, self._speed = 0, 0.0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def begin(self, position: Position, batches: int) -> None:
        """A new bar, of an epoch that may be partly done."""
        self._close()
        self._tokens, self._started = 0, time.monotonic()
        self._bar = tqdm(
            total=batches,
            initial=position.batch,
            desc=f"Epoch {position.epoch + 1}/{self._epochs}",
            unit="batch",
            file=sys.stderr,
            disable=not self._shown,
        )

    def advance(self, totals: Totals, tokens: int) -> None:
        """One batch more, of so many tokens; `totals` are those of the epoch."""
        self._tokens += tokens
        self._speed = self._tokens / max(1e-9, time.monotonic() - self._started)
        self._say(totals.logs())
        if self._bar is not None:
            self._bar.update()

    def end(self, logs: Mapping[str, float]) -> None:
        """The epoch's figures, validation included."""
        self._say(logs)
        self._close()

    def _say(self, figures: Mapping[str, float]) -> None:
        if self._bar is not None and self._shown:
            shown = {name: f"{value:.4f}" for name, value in figures.items()}
            shown["tokens/s"] = f"{self._speed:.0f}"
            self._bar.set_postfix(shown, refresh=False)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

"""Which rows of different calls may be searched together: those of whom the same is asked."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.tasks import Task


def company(task: Task) -> Hashable | None:
    """Tasks of one model that have this in common differ in nothing that decides over a token.

    Lengths and random numbers are each row's own, and so are not in it. None for a row that must
    be searched alone: beams that draw ask for their numbers by the row's, and a user's function
    is told the row's.
    """
    options = task.options
    if options.prefix_allowed_tokens_fn is not None or options.logits_processor:
        return None
    if options.do_sample and options.num_beams > 1:
        return None
    return options.decisive, task.log_probs, task.top_log_probs, task.speculate


# Rows of a step's outputs: neighbours as a slice.
Places: TypeAlias = NDArray[np.intp] | slice


def neighbours(rows: NDArray[np.intp]) -> Places:
    """The same rows [n], n > 0, as a slice where each follows the one before.

    So they are not copied: logits of BART are 200 kB a row.
    """
    first, last = int(rows[0]), int(rows[-1])
    if last - first == len(rows) - 1 and bool((np.diff(rows) == 1).all()):
        return slice(first, last + 1)
    return rows


class Lines(Mapping[str, NDArray[Any]]):
    """Some rows of a step's outputs [rows, q, ...], up to a place; read when they are asked for."""

    def __init__(self, outputs: Mapping[str, NDArray[Any]], rows: Places, places: int = 1) -> None:
        self._outputs, self._rows, self._places = outputs, rows, places

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._outputs[name][self._rows, : self._places]

    def __iter__(self) -> Any:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)


def wanted_by(tasks: Sequence[Task]) -> tuple[str, ...]:
    """The outputs that any of these reads, in one order, so that few steps are bound."""
    return tuple(sorted({name for task in tasks for name in task.wanted}))

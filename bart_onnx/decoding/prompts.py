"""Prompts in, what was generated out, and the rows between: batches, the reading of prompts.

It knows no sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.protocols import AnyState, Runner
from bart_onnx.errors import DeviceMemoryError

# Tokens that the caches of rows decoded together may come to hold, source and result alike. Larger
# batches gain little; one of bart-large takes up to 3 GB.
_BATCH_TOKENS = 32_768
# Logits that one step may give: 64 MiB.
_BATCH_LOGITS = 1 << 24
# A step computes logits for all its tokens. For BART's own start tokens they are no burden; of a
# longer prompt the last token goes alone.
_START_TOKENS = 2

IdArray = NDArray[np.int64]
Told = TypeVar("Told")


@dataclass(frozen=True)
class Prompts:
    """What to generate from, one row each.

    Attributes:
        encoder_token_ids: int64 [rows, source_length], padded on the right.
        encoder_lengths: int64 [rows], source tokens that count.
        decoder_token_ids: int64 [rows, width]; the prompt stands at the left, and generation
            fills the rest.
        prompt_lengths: int64 [rows], 1 to width.
    """

    encoder_token_ids: IdArray
    encoder_lengths: IdArray
    decoder_token_ids: IdArray
    prompt_lengths: IdArray


@dataclass(frozen=True)
class GeneratedBeams:
    """Every beam, best first.

    Attributes:
        token_ids: int64 [rows, num_beams, width].
        lengths: int64 [rows, num_beams], as `Generated.lengths`.
        log_probs: float32 [rows, num_beams].
    """

    token_ids: IdArray
    lengths: IdArray
    log_probs: NDArray[np.float32]


@dataclass(frozen=True)
class Efforts:
    """What each row took.

    Attributes:
        steps: int64 [rows], decoder steps, that of the prompt's last token included.
        drafted: int64 [rows], tokens that were drafted from the source.
    """

    steps: IdArray
    drafted: IdArray


@dataclass(frozen=True)
class Generated:
    """What was generated.

    Attributes:
        token_ids: int64 [rows, width], the prompts with what followed. Past a row's end they mean
            nothing.
        lengths: int64 [rows], tokens that count, up to and including the first stop token.
        beams: all beams, where a sampler was asked for them.
        efforts: where the loop counts them, which is for samplers that look at one row at a time.
    """

    token_ids: IdArray
    lengths: IdArray
    beams: GeneratedBeams | None = None
    efforts: Efforts | None = None


def batches(
    prompts: Prompts, logits: int = 1, copies: int = 1, tokens: int | None = None
) -> Iterator[NDArray[np.intp]]:
    """Rows to decode together: those of like source length, within the budgets.

    A prompt that fills the width has nothing to generate and is in no batch.

    Args:
        logits: how many each step gives for a row; 1 where none are wanted.
        copies: rows that are decoded for each of the prompts'.
        tokens: the budget of tokens; None for the usual, see `Runner.batch_tokens`.
    """
    budget = _BATCH_TOKENS if tokens is None else tokens
    rows = np.flatnonzero(prompts.prompt_lengths < prompts.decoder_token_ids.shape[1])
    rows = rows[np.argsort(-prompts.encoder_lengths[rows], kind="stable")]
    most = max(1, _BATCH_LOGITS // logits)
    width = prompts.decoder_token_ids.shape[1]
    while len(rows):
        longest = copies * (int(prompts.encoder_lengths[rows[0]]) + width)
        count = max(1, budget // longest)
        batch = rows[: min(count, most)]
        # Rows of one prompt length stand side by side, so that they share their prompt's steps.
        yield batch[np.argsort(prompts.prompt_lengths[batch], kind="stable")]
        rows = rows[len(batch) :]


def in_halves(
    rows: NDArray[np.intp], run: Callable[[NDArray[np.intp]], Iterator[Told]]
) -> Iterator[Told]:
    """What `run` tells of these rows; where the device has no room for them, of half and half.

    Only where the error says so, and as long as nothing has been told: nothing is told twice.

    Raises:
        DeviceMemoryError: there is no room for a row alone, or none is left later on.
    """
    told = run(rows)
    try:
        first = next(told)
    except StopIteration:
        return
    except DeviceMemoryError as error:
        if not error.divisible or len(rows) == 1:
            raise
    else:
        yield first
        yield from told
        return
    for half in np.array_split(rows, 2):
        yield from in_halves(half, run)


def encode(runner: Runner[AnyState], prompts: Prompts, rows: NDArray[np.intp]) -> AnyState:
    """A state of these rows' sources, cut to the longest of them."""
    lengths = prompts.encoder_lengths[rows]
    return runner.encode(prompts.encoder_token_ids[rows, : int(lengths.max())], lengths)


def read_prompts(
    runner: Runner[AnyState],
    state: AnyState,
    token_ids: IdArray,
    lengths: IdArray,
    wanted: Sequence[str],
    always: Sequence[str] = (),
) -> Iterator[tuple[slice, slice, Mapping[str, NDArray[Any]]]]:
    """Feed every row its prompt, rows of one length together.

    A row's result may depend on how many tokens a step feeds, in the last bits. So rows of
    different lengths are never padded into one step, and how a prompt is cut depends on its length
    alone.

    Args:
        token_ids: int64 [rows, width].
        lengths: int64 [rows], tokens to feed; equal ones side by side.
        wanted: outputs of the step that feeds a row's last token.
        always: outputs of every step.

    Yields:
        Rows, columns and outputs of each step. The columns end at the rows' length in the last.
    """
    for first, last in _runs(lengths):
        group = state.between(first, last)
        length = int(lengths[first])
        for columns in _pieces(length, length > _START_TOKENS, runner.tokens_at_once):
            names = (*wanted, *always) if columns.stop == length else tuple(always)
            outputs = runner.step(group, token_ids[first:last, columns], names)
            yield slice(first, last), columns, outputs


def first_stops(token_ids: NDArray[Any], prompt_lengths: IdArray, stops: IdArray) -> IdArray:
    """How many tokens count, up to and including the first stop token after the prompt.

    Args:
        token_ids: [rows, ..., width].
        prompt_lengths: int64 [rows].

    Returns:
        int64 [rows, ...]; the width where there is none.
    """
    width = token_ids.shape[-1]
    free = np.arange(width) >= prompt_lengths.reshape(-1, *[1] * (token_ids.ndim - 1))
    ends = np.isin(token_ids, stops) & free
    lengths = np.where(ends.any(axis=-1), ends.argmax(axis=-1) + 1, width)
    return np.asarray(lengths, np.int64)


def fewest_moves(kept: NDArray[np.bool_]) -> NDArray[np.intp]:
    """An order of the kept rows in which rows from the end fill the holes and no other moves.

    Of rows 0 to 4 with 1 and 2 dropped: [0, 4, 3].
    """
    count = int(kept.sum())
    order = np.arange(count)
    holes = np.flatnonzero(~kept[:count])
    order[holes] = np.flatnonzero(kept[count:])[::-1] + count
    return order


def _runs(values: IdArray) -> Iterator[tuple[int, int]]:
    """First and last + 1 of each run of equal values: [2, 2, 5] gives (0, 2), (2, 3)."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    yield from pairwise(edges)


def _pieces(length: int, alone: bool, most: int) -> Iterator[slice]:
    """Columns to feed, at most so many at a time; the last one `alone` where that is asked."""
    together = length - 1 if alone else length
    for start in range(0, together, most):
        yield slice(start, min(start + most, together))
    if alone:
        yield slice(together, length)

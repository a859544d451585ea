"""The loop: tokens go round until every row has ended. It knows no device, no file and no text.

Rows are independent: each stops at its own end, and a row that has ended leaves the batch. So the
answer for a prompt is the same alone and among any others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.protocols import AnyState, Runner
from bart_onnx.samplers.sampler import Sampler

# Source tokens that are decoded together. Larger batches gain little and take memory.
_BATCH_TOKENS = 16_384
# Prompt tokens fed in one step: bounds the logits that a long prompt makes.
_PROMPT_TOKENS = 64

IdArray = NDArray[np.int64]


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
class Generated:
    """What was generated.

    Attributes:
        token_ids: int64 [rows, width], the prompts with what followed; as given past the end.
        lengths: int64 [rows], tokens that count, up to and including the first stop token.
    """

    token_ids: IdArray
    lengths: IdArray


def generate(
    runner: Runner[AnyState],
    prompts: Prompts,
    sampler: Sampler,
    stop_token_ids: Collection[int] = (),
) -> Generated:
    """Continue each prompt to its first stop token or to the full width.

    Stop tokens inside a prompt do not count: BART's own begins with one (KerasHub
    `BartSeq2SeqLM.generate_step`).
    """
    token_ids = prompts.decoder_token_ids.copy()
    width = token_ids.shape[1]
    lengths = np.full(len(token_ids), width, np.int64)
    stops = np.array(sorted(stop_token_ids), np.int64)
    for rows in _batches(prompts, width):
        _generate_batch(runner, prompts, sampler, stops, rows, token_ids, lengths)
    return Generated(token_ids, lengths)


def _batches(prompts: Prompts, width: int) -> Iterator[NDArray[np.intp]]:
    """Rows to decode together: those of like source length, within the budget of tokens.

    A prompt that fills the width has nothing to generate and is in no batch.
    """
    rows = np.flatnonzero(prompts.prompt_lengths < width)
    rows = rows[np.argsort(-prompts.encoder_lengths[rows], kind="stable")]
    while len(rows):
        count = max(1, _BATCH_TOKENS // int(prompts.encoder_lengths[rows[0]]))
        batch = rows[:count]
        # Rows of one prompt length stand side by side, so that they share their prompt's steps.
        yield batch[np.argsort(prompts.prompt_lengths[batch], kind="stable")]
        rows = rows[count:]


def _generate_batch(
    runner: Runner[AnyState],
    prompts: Prompts,
    sampler: Sampler,
    stops: IdArray,
    rows: NDArray[np.intp],
    token_ids: IdArray,
    lengths: IdArray,
) -> None:
    """Fill `rows` of `token_ids` and set their `lengths`."""
    source_lengths = prompts.encoder_lengths[rows]
    sources = prompts.encoder_token_ids[rows, : int(source_lengths.max())]
    state = runner.encode(sources, source_lengths)
    positions = prompts.prompt_lengths[rows].copy()
    next_ids = _read_prompts(runner, state, sampler, token_ids[rows], positions)
    width = token_ids.shape[1]
    while True:
        token_ids[rows, positions] = next_ids
        positions += 1
        alive = ~np.isin(next_ids, stops) & (positions < width)
        if not alive.all():
            lengths[rows[~alive]] = positions[~alive]
            order = fewest_moves(alive)
            if not len(order):
                return
            state.select(order)
            rows, positions, next_ids = rows[order], positions[order], next_ids[order]
        outputs = runner.step(state, next_ids[:, None], sampler.wanted)
        next_ids = sampler.next_tokens(outputs)


def _read_prompts(
    runner: Runner[AnyState],
    state: AnyState,
    sampler: Sampler,
    token_ids: IdArray,
    prompt_lengths: IdArray,
) -> IdArray:
    """Feed every prompt, rows of one length together; the token that follows each, [rows].

    A row's result may depend on how many tokens a step feeds, in the last bits. So rows of
    different lengths are never padded into one step.
    """
    next_ids = np.empty(len(token_ids), np.int64)
    for first, last in _runs(prompt_lengths):
        group = state.between(first, last)
        prompt = token_ids[first:last, : int(prompt_lengths[first])]
        starts = range(0, prompt.shape[1], _PROMPT_TOKENS)
        for start in starts:
            wanted = sampler.wanted if start == starts[-1] else ()
            outputs = runner.step(group, prompt[:, start : start + _PROMPT_TOKENS], wanted)
        next_ids[first:last] = sampler.next_tokens(outputs)
    return next_ids


def _runs(values: IdArray) -> Iterator[tuple[int, int]]:
    """First and last + 1 of each run of equal values: [2, 2, 5] gives (0, 2), (2, 3)."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    yield from pairwise(edges)


def fewest_moves(kept: NDArray[np.bool_]) -> NDArray[np.intp]:
    """An order of the kept rows in which rows from the end fill the holes and no other moves.

    Of rows 0 to 4 with 1 and 2 dropped: [0, 4, 3].
    """
    count = int(kept.sum())
    order = np.arange(count)
    holes = np.flatnonzero(~kept[:count])
    order[holes] = np.flatnonzero(kept[count:])[::-1] + count
    return order

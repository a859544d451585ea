"""The driver of searches: encode, read the prompts, then step and choose until all have ended.

It moves caches as a search asks for, and knows nothing of how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.greedy import GreedySearch
from bart_onnx.decoding.histories import IdArray
from bart_onnx.decoding.hypotheses import BeamHypotheses
from bart_onnx.decoding.prompts import (
    Prompts,
    batches,
    encode,
    fewest_moves,
    in_halves,
    read_prompts,
)
from bart_onnx.decoding.protocols import AnyState, Runner
from bart_onnx.decoding.search import Search
from bart_onnx.decoding.single import SingleSearch
from bart_onnx.decoding.tasks import Task


def decode(
    runner: Runner[AnyState], prompts: Prompts, limits: IdArray, task: Task
) -> Iterator[Search]:
    """Continue every prompt; after each step the search that made it, to be looked at at once.

    Rows are independent of each other, so what is found for one is the same in any company. Rows
    of like source length run together, within the budget of tokens. Closing the iterator frees
    what it holds.

    Args:
        limits: the longest that each row may become, prompt included, int64 [rows].
    """
    kind = kind_of(task)
    copies = task.options.copies
    logits = runner.config.vocabulary_size * copies if task.scoring.needs_all else 1

    def run(numbers: NDArray[np.intp]) -> Iterator[Search]:
        return _run(runner, prompts, kind(task, prompts, numbers, limits))

    for numbers in batches(prompts, logits, copies, runner.batch_tokens):
        yield from in_halves(numbers, run)


def kind_of(task: Task) -> type[Search]:
    """What searches for that."""
    options = task.options
    if options.num_beams > 1:
        return BeamHypotheses
    return SingleSearch if options.do_sample else GreedySearch


def _run(runner: Runner[AnyState], prompts: Prompts, search: Search) -> Iterator[Search]:
    """One batch."""
    numbers, wanted, copies = search.rows.numbers, search.task.wanted, search.copies
    state = encode(runner, prompts, numbers)
    token_ids = prompts.decoder_token_ids[numbers]
    search.choose(read(runner, state, token_ids, search.rows.lengths, wanted), shared=True)
    if copies > 1:
        # Before anything is told: a batch that finds no room for its copies can still be divided.
        state.expand(copies)
    told_apart = False
    while True:
        yield search
        sources = len(search.alive)
        order = fewest_moves(search.alive)
        if not len(order):
            return
        taken = search.take(order)
        # At first the copies of a source have nothing that tells them apart.
        moved = told_apart and (taken != np.arange(len(taken))).any()
        if len(order) < sources or moved:
            state.select(taken, search.since)
        told_apart = True
        token_ids = search.feed(_room(runner, state))
        search.choose(runner.step(state, token_ids, wanted))
        if token_ids.shape[1] > 1:
            # Of a row that goes on, all but the last token has been fed.
            state.truncate(search.rows.lengths - 1)


def _room(runner: Runner[AnyState], state: AnyState) -> int:
    """How many tokens may be drafted for every row; 0 where drafts do not pay."""
    lengths = state.lengths
    if not runner.drafts_pay(len(lengths)):
        return 0
    return runner.config.max_sequence_length - int(lengths.max()) - 1


def read(
    runner: Runner[AnyState],
    state: AnyState,
    token_ids: IdArray,
    lengths: IdArray,
    wanted: Sequence[str],
) -> dict[str, NDArray[Any]]:
    """Feed every source its prompt; the outputs after each one's last token, [sources, 1, ...].

    Args:
        token_ids: int64 [sources, width], of which `lengths` [sources] count; equal lengths stand
            side by side.
    """
    outputs: dict[str, NDArray[Any]] = {}
    for some, columns, found in read_prompts(runner, state, token_ids, lengths, wanted):
        if columns.stop != lengths[some.start]:
            continue
        for name in wanted:
            last = found[name][:, -1:]
            whole = outputs.setdefault(
                name, np.empty((len(token_ids), *last.shape[1:]), last.dtype)
            )
            whole[some] = last
    return outputs

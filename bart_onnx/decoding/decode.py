"""The driver of searches: encode, read the prompts, then step and choose until all have ended.

It moves caches as a search asks for, and knows nothing of how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.greedy import GreedySearch
from bart_onnx.decoding.histories import IdArray
from bart_onnx.decoding.hypotheses import BeamHypotheses
from bart_onnx.decoding.prompts import Prompts, batches, encode, fewest_moves, read_prompts
from bart_onnx.decoding.protocols import AnyState, Runner
from bart_onnx.decoding.search import Search, Task
from bart_onnx.decoding.single import SingleSearch


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
    kind = _kind(task)
    copies = task.options.copies
    logits = runner.config.vocabulary_size * copies if task.scoring.needs_all else 1
    for numbers in batches(prompts, logits, copies):
        yield from _run(runner, prompts, kind(task, prompts, numbers, limits))


def _kind(task: Task) -> type[Search]:
    options = task.options
    if options.num_beams > 1:
        return BeamHypotheses
    return SingleSearch if options.do_sample else GreedySearch


def _run(runner: Runner[AnyState], prompts: Prompts, search: Search) -> Iterator[Search]:
    """One batch."""
    numbers, wanted, copies = search.rows.numbers, search.task.wanted, search.copies
    state = encode(runner, prompts, numbers)
    search.choose(_read(runner, prompts, state, search), shared=True)
    expanded = copies == 1
    while True:
        yield search
        sources = len(search.alive)
        order = fewest_moves(search.alive)
        if not len(order):
            return
        taken = search.take(order)
        if not expanded:
            # Until now the copies of a source had nothing that told them apart.
            if len(order) < sources:
                state.select(order)
            state.expand(copies)
            expanded = True
        elif len(order) < sources or (taken != np.arange(len(taken))).any():
            state.select(taken, search.since)
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


def _read(
    runner: Runner[AnyState], prompts: Prompts, state: AnyState, search: Search
) -> dict[str, NDArray[Any]]:
    """Feed every source its prompt; the outputs after each one's last token, [sources, 1, ...]."""
    rows = search.rows
    outputs: dict[str, NDArray[Any]] = {}
    token_ids = prompts.decoder_token_ids[rows.numbers]
    for some, columns, found in read_prompts(
        runner, state, token_ids, rows.prompt_lengths, search.task.wanted
    ):
        if columns.stop != rows.prompt_lengths[some.start]:
            continue
        for name in search.task.wanted:
            last = found[name][:, -1:]
            whole = outputs.setdefault(
                name, np.empty((len(token_ids), *last.shape[1:]), last.dtype)
            )
            whole[some] = last
    return outputs

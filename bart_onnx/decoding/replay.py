"""Replay: feed sequences that are known already, and look at what the model made of each token.

For log-probabilities of given targets and for alignments. It knows no search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.protocols import AnyState, Runner
from bart_onnx.graphs import CROSS_ATTENTION, LOG_SUM_EXP, LOGITS

IdArray = NDArray[np.int64]

# Tokens fed in one step, of short and long rows alike: so a row's last bits do not depend on the
# rows beside it.
_PIECE = 16
# Numbers that one step may give for all rows: 64 MiB.
_LARGEST_OUTPUT = 1 << 24
_BATCH_TOKENS = 32_768

# A decoder layer and a head of it, counted from 0.
Head = tuple[int, int]


def log_probs(
    runner: Runner[AnyState], sources: Sequence[IdArray], sequences: Sequence[IdArray]
) -> list[NDArray[np.float32]]:
    """The log-probability of every token after the first, given its source and those before.

    Args:
        sources: ids of each row's source.
        sequences: ids of each row, from the decoder's start token on, at least 1.

    Returns:
        float32 [length - 1] of each row.
    """
    found = [np.zeros(len(ids) - 1, np.float32) for ids in sequences]
    width = runner.config.vocabulary_size
    for row, columns, outputs in _replayed(
        runner, sources, sequences, (LOGITS, LOG_SUM_EXP), width
    ):
        targets = sequences[row][columns.start + 1 : columns.stop + 1]
        logits = outputs[LOGITS][np.arange(len(targets)), targets]
        found[row][columns] = logits - outputs[LOG_SUM_EXP][: len(targets)]
    return found


def alignments(
    runner: Runner[AnyState],
    sources: Sequence[IdArray],
    sequences: Sequence[IdArray],
    heads: Sequence[Head] | None = None,
) -> list[NDArray[np.float32]]:
    """How much each token after the first looked at each token of its source.

    Args:
        heads: cross-attention heads to average; None for all of all layers.

    Returns:
        float32 [length - 1, source length] of each row; each line sums to 1. Line i belongs to
        the step that chose token i + 1, as in transformers' `cross_attentions`.
    """
    found = [
        np.zeros((len(ids) - 1, len(source)), np.float32)
        for ids, source in zip(sequences, sources, strict=True)
    ]
    side = runner.config.decoder
    width = side.num_layers * side.num_heads * max((len(source) for source in sources), default=1)
    for row, columns, outputs in _replayed(runner, sources, sequences, (CROSS_ATTENTION,), width):
        attention = outputs[CROSS_ATTENTION]  # [layers, heads, tokens, source]
        if heads is None:
            averaged = attention.mean(axis=(0, 1))
        else:
            averaged = np.mean([attention[layer, head] for layer, head in heads], axis=0)
        count = columns.stop - columns.start
        found[row][columns] = averaged[:count, : len(sources[row])]
    return found


def _replayed(
    runner: Runner[AnyState],
    sources: Sequence[IdArray],
    sequences: Sequence[IdArray],
    wanted: tuple[str, ...],
    width: int,
) -> Iterator[tuple[int, slice, Mapping[str, NDArray[Any]]]]:
    """Outputs of every row a piece at a time: row, columns of its sequence that were fed, outputs.

    The last token is not fed: nothing follows it. Tokens stand on the outputs' first axis, or on
    the third of [layers, heads, tokens, source]; those past the columns are padding.
    """
    order = sorted(range(len(sources)), key=lambda row: -len(sources[row]))
    pad = runner.config.pad_token_id
    while order:
        longest = len(sources[order[0]])
        by_tokens = _BATCH_TOKENS // (longest + max(len(sequences[row]) for row in order))
        count = max(1, min(by_tokens, _LARGEST_OUTPUT // (_PIECE * width)))
        batch, order = order[:count], order[count:]
        lengths = np.array([len(sources[row]) for row in batch], np.int64)
        state = runner.encode(_padded([sources[row] for row in batch], longest, pad), lengths)
        fed = max(len(sequences[row]) for row in batch) - 1
        token_ids = _padded([sequences[row][:-1] for row in batch], fed, pad)
        size = min(_PIECE, runner.tokens_at_once)
        for start in range(0, fed, size):
            piece = _piece(token_ids, start, size, runner.config.max_sequence_length, pad)
            outputs = runner.step(state, piece, wanted)
            for line, row in enumerate(batch):
                stop = min(start + size, len(sequences[row]) - 1)
                if stop > start:
                    mine = {name: np.asarray(outputs[name][line]) for name in wanted}
                    yield row, slice(start, stop), mine


def _piece(token_ids: IdArray, start: int, size: int, positions: int, pad: int) -> IdArray:
    """`size` columns from `start` on, or as many as the model has positions for."""
    piece = token_ids[:, start : start + size]
    missing = min(size, positions - start) - piece.shape[1]
    return np.pad(piece, ((0, 0), (0, missing)), constant_values=pad)


def _padded(rows: Sequence[IdArray], width: int, pad: int) -> IdArray:
    padded = np.full((len(rows), width), pad, np.int64)
    for line, ids in zip(padded, rows, strict=True):
        line[: len(ids)] = ids
    return padded

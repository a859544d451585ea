"""What the user's own functions say of the next token, asked a row at a time.

A row for which one of them gives nothing to choose from is refused, and no other row for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.candidates import Candidates
from bart_onnx.decoding.histories import Histories
from bart_onnx.decoding.options import LogitsFunction, PrefixFunction

IdArray = NDArray[np.int64]


def only_allowed(
    function: PrefixFunction, candidates: Candidates, histories: Histories, beams: bool
) -> None:
    """Ban what `prefix_allowed_tokens_fn` does not allow.

    As transformers does it, where all that is allowed to all beams of a source is banned already,
    all of it is allowed again at score 0. Without `beams` each row stands for itself.

    Args:
        candidates: of every token.
    """
    allowed = {}
    for row in range(len(histories.lengths)):
        answer = function(int(histories.numbers[row]), _said(histories, row))
        allowed[row], wrong = _checked_ids(answer, candidates.vocabulary_size)
        if wrong:
            number, length = histories.numbers[row], histories.lengths[row]
            candidates.refuse(
                row,
                f"prefix_allowed_tokens_fn left row {number} no token after its {length}: it gave "
                f"{wrong}. Return at least one id from 0 to {candidates.vocabulary_size - 1}.",
            )
    counts = np.array([len(tokens) for tokens in allowed.values()], np.intp)
    rows = np.repeat(np.arange(len(allowed)), counts)
    tokens = np.concatenate([np.zeros(0, np.int64), *allowed.values()])
    candidates.allow_only(rows, tokens)
    blocked = candidates.scores.max(axis=1) == -np.inf
    groups = histories.sources if beams else np.arange(len(blocked))
    blocked &= ~np.isin(groups, groups[~blocked])
    forced = blocked[rows]
    candidates.scores[rows[forced], tokens[forced]] = 0


def call_logits_processors(
    functions: Iterable[LogitsFunction], candidates: Candidates, histories: Histories
) -> None:
    """Give each row's scores to the functions in turn.

    Args:
        candidates: of every token.
    """
    for row in range(len(histories.lengths)):
        for function in functions:
            if row in candidates.refused:
                break
            scores, wrong = _checked_scores(
                function(_said(histories, row), candidates.scores[row].copy()),
                candidates.vocabulary_size,
            )
            if wrong:
                candidates.refuse(
                    row,
                    f"logits_processor left row {histories.numbers[row]} no token: it gave "
                    f"{wrong}. Return scores of shape ({candidates.vocabulary_size},).",
                )
            else:
                candidates.scores[row] = scores


def _said(histories: Histories, row: int) -> IdArray:
    return histories.token_ids[row, : histories.lengths[row]].copy()


def _checked_ids(answer: Any, vocabulary_size: int) -> tuple[IdArray, str]:
    """Ids, each once, and what is wrong with them; none where something is."""
    nothing = np.zeros(0, np.int64)
    try:
        token_ids = np.asarray(list(answer))
    except (TypeError, ValueError):
        return nothing, f"{answer!r:.80}"
    if not token_ids.size:
        return nothing, "none"
    if token_ids.ndim != 1 or token_ids.dtype.kind not in "iu":
        return nothing, f"{answer!r:.80}"
    outside = (token_ids < 0) | (token_ids >= vocabulary_size)
    if outside.any():
        return nothing, f"{token_ids[outside.argmax()]}"
    return np.unique(token_ids).astype(np.int64), ""


def _checked_scores(answer: Any, vocabulary_size: int) -> tuple[NDArray[np.float32], str]:
    """Scores, and what is wrong with them."""
    try:
        scores = np.asarray(answer, np.float32)
    except (TypeError, ValueError):
        return np.zeros(0, np.float32), f"{answer!r:.80}"
    wrong = "" if scores.shape == (vocabulary_size,) else f"shape {scores.shape}"
    return scores, wrong

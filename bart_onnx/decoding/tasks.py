"""What a search is asked of every row, and what it finds. It knows no row in flight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.histories import IdArray
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.decoding.scoring import Scoring
from bart_onnx.graphs import LOG_SUM_EXP, LOGITS, TOP_LOGITS, TOP_TOKEN_IDS
from bart_onnx.samplers.draws import CallDraws

FinishReason = Literal["stop", "length"]

# Whether a token completes a stop string: (tokens before it [length], the token).
Completes = Callable[[IdArray, int], bool]


@dataclass(frozen=True)
class Hypothesis:
    """One finished sequence.

    Attributes:
        token_ids: int64 [length], from the decoder's first token on.
        prompt_length: how many of them are the prompt's.
        score: what it is ranked by: under beams the sum of its scores, after rules, over
            length ** length_penalty; else the sum of the model's own log-probabilities.
        finish_reason: "stop" at an end token or stop string, "length" at the limit.
        log_probs: float32 [length - prompt_length], the model's own, before rules; None if nobody
            asked.
        top_ids, top_log_probs: [length - prompt_length, n] of the n likeliest tokens there.
        steps: decoder steps that were taken, that of the prompt's last token included.
        drafted_tokens, accepted_tokens: how many were drafted from the source, and how many came
            so beside each step's own.
    """

    token_ids: IdArray
    prompt_length: int
    score: float
    finish_reason: FinishReason
    log_probs: NDArray[np.float32] | None = None
    top_ids: IdArray | None = None
    top_log_probs: NDArray[np.float32] | None = None
    steps: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True)
class Task:
    """What a call asks of every row.

    Attributes:
        completes: tells a stop string's last token; None where there are none.
        inputs: which of the caller's inputs each row is of, [rows]; None where each is one.
        draws: random numbers, where tokens are drawn; row r's are those of `first_row` + r.
        top_log_probs: how many likeliest tokens to note at each place.
        log_probs: whether to note the log-probability of each token.
        speculate: whether greedy rows may be fed drafts from their sources.
    """

    options: DecodingOptions
    scoring: Scoring
    completes: Completes | None = None
    draws: CallDraws | None = None
    first_row: int = 0
    inputs: IdArray | None = None
    log_probs: bool = False
    top_log_probs: int = 0
    speculate: bool = True

    @property
    def wanted(self) -> tuple[str, ...]:
        """The decoder-step outputs that are read."""
        noted = (TOP_LOGITS, TOP_TOKEN_IDS, LOG_SUM_EXP, LOGITS) if self.log_probs else ()
        return tuple(dict.fromkeys((*self.scoring.wanted, *noted)))

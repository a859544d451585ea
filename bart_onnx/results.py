"""Result: what generate(..., return_dict=True) gives for one input. Data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import InputError, InputTypeError
from bart_onnx.graphs import LARGEST_TOP_K
from bart_onnx.long_inputs import Part


@dataclass(frozen=True)
class Result:
    """One generated sequence, and what is known of how it came about.

    Attributes:
        text: the generated text; "" without a preprocessor.
        ids: int64 [length], from the decoder's first token to the last that counts, its end token
            included; no padding.
        finish_reason: "stop" at an end token or stop string, "length" at the longest allowed.
        score: what transformers calls `sequences_scores`: under beams the sum of log-probabilities
            after all rules / length ** length_penalty; otherwise the sum of `log_probs`.
        log_probs: float32 [generated], the model's own log-probability (natural logarithm, before
            any rule) of each token after the prompt.
        prompt_length: how many of `ids` are the prompt.
        top_log_probs: the likeliest tokens at each place, id to log-probability, best first; None
            unless asked.
        n_best: every sequence that was asked for, best first, this one included.
        source_ids: int64 [source], what the encoder read.
        alignment: float32 [generated, source]: how much the step that chose each token looked at
            each source token; lines sum to 1. None unless asked.
        parts: which parts of the text were read; one, unless it was split.
        part_results: the result of each part, where the text was split; they have the alignments.
            `text` joins theirs,
            and `ids` and `log_probs` follow one another.
        long_input: what was done to a text that was too long, in a sentence; "" for one that fits.
        steps: decoder steps that were taken, the one that reads the prompt's last token included;
            0 with a sampler that looks at several rows at once.
        drafted_tokens: how many tokens were drafted from the source.
        accepted_tokens: how many of them came, beside the one token of every step.
    """

    text: str
    ids: NDArray[np.int64]
    finish_reason: Literal["stop", "length"]
    score: float
    log_probs: NDArray[np.float32]
    prompt_length: int
    top_log_probs: tuple[Mapping[int, float], ...] | None = None
    n_best: tuple[Result, ...] = ()
    source_ids: NDArray[np.int64] | None = None
    alignment: NDArray[np.float32] | None = None
    parts: tuple[Part, ...] = ()
    part_results: tuple[Result, ...] = ()
    long_input: str = ""
    steps: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: lists in place of arrays; source and parts are left out."""
        values: dict[str, Any] = {
            "text": self.text,
            "ids": self.ids.tolist(),
            "finish_reason": self.finish_reason,
            "score": self.score,
            "log_probs": self.log_probs.tolist(),
            "steps": self.steps,
            "drafted_tokens": self.drafted_tokens,
            "accepted_tokens": self.accepted_tokens,
        }
        if self.top_log_probs is not None:
            values["top_log_probs"] = [dict(place) for place in self.top_log_probs]
        if len(self.n_best) > 1:
            values["n_best"] = [
                {"text": each.text, "score": each.score, "ids": each.ids.tolist()}
                for each in self.n_best
            ]
        if self.alignment is not None:
            values["alignment"] = self.alignment.tolist()
        if self.long_input:
            values["long_input"] = self.long_input
        return values


@dataclass(frozen=True)
class Report:
    """What a call wants to be told besides the text.

    Attributes:
        top_log_probs: how many of the likeliest tokens at each place, at most 64.
        alignments: whether to report alignments.
        heads: pairs of a decoder layer and one of its heads to average; None for all.
    """

    top_log_probs: int = 0
    alignments: bool = False
    heads: tuple[tuple[int, int], ...] | None = None


def checked_report(
    return_dict: bool, top_log_probs: int, alignments: bool | Sequence[tuple[int, int]]
) -> Report | None:
    """What a call's arguments ask to be told; None for texts alone.

    Raises:
        InputError, InputTypeError: more than is known, or something without `return_dict`.
    """
    if not isinstance(top_log_probs, Integral) or isinstance(top_log_probs, bool):
        raise InputTypeError(f"top_log_probs must be an integer, found {top_log_probs!r:.80}.")
    if not 0 <= top_log_probs <= LARGEST_TOP_K:
        raise InputError(
            f"top_log_probs is {top_log_probs}; a step sorts out {LARGEST_TOP_K} tokens at most."
        )
    if not return_dict:
        if top_log_probs or not (isinstance(alignments, bool) and not alignments):
            raise InputError(
                "top_log_probs and alignments are told in a Result; add return_dict=True."
            )
        return None
    if isinstance(alignments, bool):
        return Report(int(top_log_probs), alignments)
    heads = []
    for pair in alignments if isinstance(alignments, list | tuple) else [alignments]:
        if not isinstance(pair, list | tuple) or [*map(type, pair)] != [int, int]:
            raise InputTypeError(
                f"alignments must be True, False or pairs of layer and head, found {pair!r:.80}."
            )
        heads.append((pair[0], pair[1]))
    if not heads:
        raise InputError("alignments names no head; give True for the average of all.")
    return Report(int(top_log_probs), True, tuple(heads))

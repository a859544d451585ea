"""What each rule does to the scores of the next token: transformers' logits processors.

One rule is one function here, which makes it from the options, and one field of
`DecodingOptions`; `RULES` has them in the order in which transformers 5 applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.candidates import Candidates, ScoreArray
from bart_onnx.decoding.histories import Histories
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.decoding.sequences import BiasedSequences, counted, every_pair, followers
from bart_onnx.decoding.user_functions import call_logits_processors, only_allowed
from bart_onnx.graphs import LARGEST_TOP_K

Rule = Callable[[Candidates, Histories], None]
Chosen = Callable[[Histories], NDArray[np.bool_]]

_LARGEST = np.finfo(np.float32).max


def _sequence_bias(options: DecodingOptions) -> Rule:
    sequences = BiasedSequences(options.sequence_bias)
    return lambda candidates, histories: candidates.add(
        sequences.token_ids, sequences.gains(histories)
    )


def _encoder_repetition_penalty(options: DecodingOptions) -> Rule:
    # A penalty here is a reward: it is the likeliness of what the source says.
    penalised = _penalised(1 / options.encoder_repetition_penalty)

    def rule(candidates: Candidates, histories: Histories) -> None:
        candidates.change(*counted(*histories.texts()), penalised)

    return rule


def _repetition_penalty(options: DecodingOptions) -> Rule:
    penalised = _penalised(options.repetition_penalty)

    def rule(candidates: Candidates, histories: Histories) -> None:
        candidates.change(*counted(histories.token_ids, histories.lengths), penalised)

    return rule


def _no_repeat_ngram_size(options: DecodingOptions) -> Rule:
    size = options.no_repeat_ngram_size

    def rule(candidates: Candidates, histories: Histories) -> None:
        candidates.ban(*followers(histories.token_ids, histories.lengths, histories, size))

    return rule


def _encoder_no_repeat_ngram_size(options: DecodingOptions) -> Rule:
    size = options.encoder_no_repeat_ngram_size

    def rule(candidates: Candidates, histories: Histories) -> None:
        candidates.ban(*followers(*histories.texts(), histories, size))

    return rule


def _bad_words_ids(options: DecodingOptions) -> Rule:
    ends = {(token,) for token in options.eos_token_id}
    words = BiasedSequences((word, -np.inf) for word in options.bad_words_ids if word not in ends)

    def rule(candidates: Candidates, histories: Histories) -> None:
        rows, columns = np.nonzero(words.gains(histories))
        candidates.ban(rows, words.token_ids[columns])

    return rule


def _min_length(options: DecodingOptions) -> Rule:
    # transformers puts what `min_new_tokens` comes to in the place of `min_length`.
    least = options.min_length if options.min_new_tokens is None else 0
    return _banning(options.eos_token_id, lambda histories: histories.lengths < least)


def _min_new_tokens(options: DecodingOptions) -> Rule:
    least = options.min_new_tokens or 0
    return _banning(
        options.eos_token_id,
        lambda histories: histories.lengths - histories.prompt_lengths < least,
    )


def _prefix_allowed_tokens_fn(options: DecodingOptions) -> Rule:
    function, beams = options.prefix_allowed_tokens_fn, options.num_beams > 1
    assert function is not None

    def rule(candidates: Candidates, histories: Histories) -> None:
        only_allowed(function, candidates, histories, beams)

    return rule


def _forced_bos_token_id(options: DecodingOptions) -> Rule:
    bos = () if options.forced_bos_token_id is None else (options.forced_bos_token_id,)
    return _forcing(bos, lambda histories: histories.lengths == 1)


def _forced_eos_token_id(options: DecodingOptions) -> Rule:
    return _forcing(
        options.forced_eos_token_id, lambda histories: histories.lengths == histories.limits - 1
    )


def _remove_invalid_values(options: DecodingOptions) -> Rule:
    def rule(candidates: Candidates, histories: Histories) -> None:
        scores = candidates.scores
        scores[np.isnan(scores)] = 0
        np.clip(scores, -_LARGEST, _LARGEST, out=scores)

    return rule


def _exponential_decay_length_penalty(options: DecodingOptions) -> Rule:
    assert options.exponential_decay_length_penalty is not None
    start, factor = options.exponential_decay_length_penalty
    ends = _each_once(options.eos_token_id)

    def rule(candidates: Candidates, histories: Histories) -> None:
        beyond = histories.lengths - histories.prompt_lengths - start
        for length in np.unique(beyond[beyond > 0]):
            rows = np.flatnonzero(beyond == length)
            candidates.change(*every_pair(rows, ends), _grown(factor, int(length)))

    return rule


def _suppress_tokens(options: DecodingOptions) -> Rule:
    return _banning(options.suppress_tokens, lambda histories: histories.lengths > 0)


def _begin_suppress_tokens(options: DecodingOptions) -> Rule:
    forced = options.forced_bos_token_id is not None

    def begins(histories: Histories) -> NDArray[np.bool_]:
        prompts = histories.prompt_lengths
        return np.asarray(histories.lengths == prompts + (forced & (prompts == 1)))

    return _banning(options.begin_suppress_tokens, begins)


def _logits_processor(options: DecodingOptions) -> Rule:
    def rule(candidates: Candidates, histories: Histories) -> None:
        call_logits_processors(options.logits_processor, candidates, histories)

    return rule


RULES: Mapping[str, Callable[[DecodingOptions], Rule]] = {
    "sequence_bias": _sequence_bias,
    "encoder_repetition_penalty": _encoder_repetition_penalty,
    "repetition_penalty": _repetition_penalty,
    "no_repeat_ngram_size": _no_repeat_ngram_size,
    "encoder_no_repeat_ngram_size": _encoder_no_repeat_ngram_size,
    "bad_words_ids": _bad_words_ids,
    "min_length": _min_length,
    "min_new_tokens": _min_new_tokens,
    "prefix_allowed_tokens_fn": _prefix_allowed_tokens_fn,
    "forced_bos_token_id": _forced_bos_token_id,
    "forced_eos_token_id": _forced_eos_token_id,
    "remove_invalid_values": _remove_invalid_values,
    "exponential_decay_length_penalty": _exponential_decay_length_penalty,
    "suppress_tokens": _suppress_tokens,
    "begin_suppress_tokens": _begin_suppress_tokens,
    "logits_processor": _logits_processor,
}
# Those that choose a token themselves.
ONLY_FORCE = {"forced_bos_token_id", "forced_eos_token_id"}
# Of an option that was asked for: whether its value may raise a score, or looks at them all.
NEEDS_ALL: Mapping[str, Callable[[Any], bool]] = {
    "sequence_bias": lambda biases: any(bias > 0 for _, bias in biases),
    "encoder_repetition_penalty": lambda penalty: penalty > 1,
    "repetition_penalty": lambda penalty: penalty < 1,
    "prefix_allowed_tokens_fn": lambda function: True,
    "forced_eos_token_id": lambda ends: len(ends) > LARGEST_TOP_K,
    "remove_invalid_values": lambda flag: True,
    "exponential_decay_length_penalty": lambda pair: pair[1] > 1,
    "logits_processor": lambda functions: True,
}


def _banning(token_ids: Iterable[int], chosen: Chosen) -> Rule:
    tokens = _each_once(token_ids)
    return lambda candidates, histories: candidates.ban(
        *every_pair(np.flatnonzero(chosen(histories)), tokens)
    )


def _forcing(token_ids: Iterable[int], chosen: Chosen) -> Rule:
    tokens = _each_once(token_ids)
    return lambda candidates, histories: candidates.force(np.flatnonzero(chosen(histories)), tokens)


def _penalised(penalty: float) -> Callable[[ScoreArray], ScoreArray]:
    factor = np.float32(penalty)
    return lambda scores: np.where(scores < 0, scores * factor, scores / factor)


def _grown(factor: float, length: int) -> Callable[[ScoreArray], ScoreArray]:
    """Scores with |score| * (factor ** length - 1) added, as far as float32 reaches."""
    with np.errstate(over="ignore"):
        growth = np.float32(np.minimum(np.float64(factor) ** length - 1, _LARGEST))

    def grown(scores: ScoreArray) -> ScoreArray:
        with np.errstate(over="ignore", invalid="ignore"):
            higher = np.minimum(scores + np.abs(scores) * growth, _LARGEST)
        return np.where(np.isfinite(scores), higher, scores)

    return grown


def _each_once(token_ids: Iterable[int]) -> NDArray[np.int64]:
    return np.array(sorted(set(token_ids)), np.int64)

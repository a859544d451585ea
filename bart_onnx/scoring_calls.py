"""One call of score(): pairs of texts or ids to log-likelihoods. It knows no search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.arrays import checked_sources
from bart_onnx.decoding.protocols import Runner
from bart_onnx.decoding.replay import log_probs
from bart_onnx.errors import InputError, InputTooLongError, InputTypeError
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.text_inputs import as_texts

Reduction = Literal["sum", "mean", "none"]

_REDUCTIONS = ("sum", "mean", "none")
IdArray = NDArray[np.int64]


def score(
    runner: Runner[Any],
    preprocessor: BartSeq2SeqLMPreprocessor | None,
    sources: Any,
    targets: Any,
    reduction: Reduction,
) -> Any:
    """See `OnnxBartSeq2SeqLM.score`."""
    if reduction not in _REDUCTIONS:
        known = ", ".join(map(repr, _REDUCTIONS))
        raise InputError(f"reduction {reduction!r} is unknown; known are {known}.")
    if preprocessor is None:
        pairs, batched = _of_arrays(runner, sources, targets), True
    else:
        pairs, batched = _of_texts(runner, preprocessor, sources, targets)
    found = log_probs(runner, *pairs) if pairs[0] else []
    if reduction == "none":
        return found if batched else found[0]
    reduce = np.mean if reduction == "mean" else np.sum
    scores = np.array([reduce(each, dtype=np.float64) for each in found], np.float32)
    return scores if batched else float(scores[0])


def _of_texts(
    runner: Runner[Any], preprocessor: BartSeq2SeqLMPreprocessor, sources: Any, targets: Any
) -> tuple[tuple[list[IdArray], list[IdArray]], bool]:
    """Ids of sources and of what is fed for the targets; whether they came as a batch."""
    source_texts, batched = as_texts(sources, "sources")
    target_texts, also = as_texts(targets, "targets")
    if len(source_texts) != len(target_texts):
        raise InputError(
            f"There are {len(source_texts)} sources and {len(target_texts)} targets; give as many "
            "of each."
        )
    config, encode = runner.config, preprocessor.tokenizer.encode_batch
    start, end = config.start_token_id, config.end_token_id
    found = []
    for name, texts in (("source", source_texts), ("target", target_texts)):
        rows = [np.array([start, *ids, end], np.int64) for ids in encode(texts)]
        for row, ids in enumerate(rows):
            if len(ids) > config.max_sequence_length:
                raise InputTooLongError(
                    f"Row {row} of the {name}s has {len(ids)} tokens; this model has "
                    f"{config.max_sequence_length} positions. Shorten it."
                )
        found.append(rows)
    begin = [config.decoder_start_token_id]
    fed = [np.concatenate([begin, ids]) for ids in found[1]]
    return (found[0], fed), batched or also


def _of_arrays(
    runner: Runner[Any], sources: Any, targets: Any
) -> tuple[list[IdArray], list[IdArray]]:
    """As `_of_texts`, of mappings of ids and masks; a target begins with its start token."""
    if not isinstance(sources, Mapping) or not isinstance(targets, Mapping):
        raise InputTypeError(
            "Without a preprocessor, score takes a dict of arrays for sources and for targets."
        )
    both = {**sources, **targets}
    source_ids, target_ids = checked_sources(both, runner.config)
    if target_ids is None:
        raise InputError("targets has no decoder_token_ids and decoder_padding_mask; add them.")
    return source_ids, target_ids

"""From finished sequences to Results: their texts, and what a caller wants to be told besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding import replay
from bart_onnx.decoding.prompts import Efforts
from bart_onnx.decoding.protocols import Runner
from bart_onnx.decoding.tasks import FinishReason, Hypothesis
from bart_onnx.documents import joined_texts
from bart_onnx.errors import InputError
from bart_onnx.long_inputs import Part
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.results import Report, Result

IdArray = NDArray[np.int64]


@dataclass(frozen=True)
class Reporter:
    """Makes Results; one for a call.

    Attributes:
        strip_prompt: leave the prompt out of texts.
    """

    runner: Runner[Any]
    preprocessor: BartSeq2SeqLMPreprocessor | None
    strip_prompt: bool
    report: Report

    def __post_init__(self) -> None:
        side = self.runner.config.decoder
        for layer, head in self.report.heads or ():
            if not (0 <= layer < side.num_layers and 0 <= head < side.num_heads):
                raise InputError(
                    f"alignments names layer {layer}, head {head}; this decoder has layers 0 to "
                    f"{side.num_layers - 1} and heads 0 to {side.num_heads - 1}."
                )

    def results(
        self, sources: Sequence[IdArray], found: Sequence[tuple[Hypothesis, ...]]
    ) -> list[Result]:
        """A Result for each source, of its hypotheses, best first and at least one."""
        flat = [each for hypotheses in found for each in hypotheses]
        texts = iter(self.texts(flat))
        results = []
        for source, hypotheses in zip(sources, found, strict=True):
            each = [self._result(source, one, next(texts)) for one in hypotheses]
            results.append(replace(each[0], n_best=tuple(each)))
        return self._aligned(results) if self.report.alignments else results

    def of_sequences(
        self,
        sources: Sequence[IdArray],
        sequences: Sequence[IdArray],
        prompt_lengths: IdArray,
        stops: Sequence[int],
        efforts: Efforts | None = None,
    ) -> list[Result]:
        """A Result for each of some sequences that a sampler made, scored by the model anew."""
        log_probs = replay.log_probs(self.runner, sources, sequences)
        found = []
        for row, (ids, own) in enumerate(zip(sequences, log_probs, strict=True)):
            prompt = int(prompt_lengths[row])
            new = own[prompt - 1 :]
            reason: FinishReason = (
                "stop" if len(ids) > prompt and int(ids[-1]) in stops else "length"
            )
            one = Hypothesis(ids, prompt, float(new.sum(dtype=np.float64)), reason, new)
            if efforts is not None:
                steps, drafted = int(efforts.steps[row]), int(efforts.drafted[row])
                accepted = len(new) - steps
                one = replace(one, steps=steps, drafted_tokens=drafted, accepted_tokens=accepted)
            found.append((one,))
        return self.results(sources, found)

    def texts(self, hypotheses: Sequence[Hypothesis]) -> list[str]:
        """Their texts, without special tokens; "" without a preprocessor."""
        if self.preprocessor is None:
            return [""] * len(hypotheses)
        rows = [
            each.token_ids[each.prompt_length if self.strip_prompt else 0 :] for each in hypotheses
        ]
        return decoded(self.preprocessor, rows)

    def _result(self, source: IdArray, found: Hypothesis, text: str) -> Result:
        assert found.log_probs is not None
        top = None
        if found.top_ids is not None and found.top_log_probs is not None:
            top = tuple(
                dict(zip(ids, values, strict=True))
                for ids, values in zip(
                    found.top_ids.tolist(), found.top_log_probs.tolist(), strict=True
                )
            )
        return Result(
            text=text,
            ids=found.token_ids,
            finish_reason=found.finish_reason,
            score=found.score,
            log_probs=found.log_probs,
            prompt_length=found.prompt_length,
            top_log_probs=top,
            source_ids=source,
            steps=found.steps,
            drafted_tokens=found.drafted_tokens,
            accepted_tokens=found.accepted_tokens,
        )

    def _aligned(self, results: list[Result]) -> list[Result]:
        """The results with the alignments of their best sequences."""
        sources = [each.source_ids for each in results if each.source_ids is not None]
        sequences = [each.ids for each in results]
        found = replay.alignments(self.runner, sources, sequences, self.report.heads)
        return [
            replace(each, alignment=own[each.prompt_length - 1 :])
            for each, own in zip(results, found, strict=True)
        ]


def decoded(preprocessor: BartSeq2SeqLMPreprocessor, rows: Sequence[IdArray]) -> list[str]:
    """Texts of rows of ids, without special tokens."""
    special = set(preprocessor.tokenizer.special_token_ids)
    kept = [[each for each in row.tolist() if each not in special] for row in rows]
    return preprocessor.tokenizer.decode_batch(kept)


def joined(results: Sequence[Result], parts: Sequence[Part], note: str) -> Result:
    """One Result of those of a text's parts, in their order; `note` says what was done to it."""
    first = results[0]
    if len(parts) == 1:
        return replace(first, parts=tuple(parts), long_input=note)
    top = [place for each in results for place in each.top_log_probs or ()]
    whole = Result(
        text=joined_texts([each.text for each in results]),
        ids=np.concatenate([each.ids for each in results]),
        finish_reason="length"
        if any(each.finish_reason == "length" for each in results)
        else "stop",
        score=float(sum(each.score for each in results)),
        log_probs=np.concatenate([each.log_probs for each in results]),
        prompt_length=first.prompt_length,
        parts=tuple(parts),
        top_log_probs=tuple(top) if first.top_log_probs is not None else None,
        part_results=tuple(results),
        long_input=note,
        steps=sum(each.steps for each in results),
        drafted_tokens=sum(each.drafted_tokens for each in results),
        accepted_tokens=sum(each.accepted_tokens for each in results),
    )
    return replace(whole, n_best=(whole,))

"""One call of generate(): from whatever a caller passes, through the loop, to what he gets back.

It knows the documented forms of inputs and results. It knows no file and no device.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.arrays import checked_prompts, joined, merge_results
from bart_onnx.decoding.loop import generate, watch
from bart_onnx.decoding.prompts import Generated, Prompts
from bart_onnx.decoding.protocols import Runner
from bart_onnx.documents import Documents, LongInput, SplitTexts, joined_texts
from bart_onnx.errors import InputError, InputTypeError
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.reporting import Reporter
from bart_onnx.reporting import joined as joined_results
from bart_onnx.results import Report, Result
from bart_onnx.samplers import BeamSampler, Sampler
from bart_onnx.samplers.draws import CallDraws
from bart_onnx.streaming import NO_TEXT, ONE_TEXT, Pieces, decoder

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Request:
    """What is asked besides the inputs; see `OnnxBartSeq2SeqLM.generate`."""

    max_length: int | None
    stop_token_ids: tuple[int, ...]
    strip_prompt: bool
    long_input: LongInput | None
    overlap_sentences: int = 1
    report: Report | None = None
    speculate: bool = True


class Generation:
    """One call. Its batches share one stretch of a random sampler's draws.

    So a text draws the same numbers in whatever batches the texts come.
    """

    def __init__(
        self,
        runner: Runner[Any],
        preprocessor: BartSeq2SeqLMPreprocessor | None,
        sampler: Sampler,
        request: Request,
    ) -> None:
        self._runner, self._preprocessor = runner, preprocessor
        self._sampler, self._request = sampler, request
        self._draws: CallDraws | None = None
        self._rows = 0
        self._num_beams: int | None = None
        if isinstance(sampler, BeamSampler) and sampler.return_all_beams:
            self._num_beams = sampler.num_beams

    def run(self, inputs: Any) -> Any:
        """The results of one batch, or of an iterable of batches, concatenated."""
        batches = as_batches(inputs)
        if self._request.report is not None:
            return self._results(inputs, batches, self._request.report)
        if self._preprocessor is None:
            if batches is None:
                return self._from_arrays(inputs)
            return joined([self._from_arrays(batch) for batch in batches], self._pad_token_id)
        if batches is None:
            texts, log_probs, batched = self._from_texts(inputs, self._preprocessor)
            return (
                self._result(texts, log_probs) if batched else self._result(texts[0], log_probs[0])
            )
        parts = [self._from_texts(batch, self._preprocessor) for batch in batches]
        texts = [text for part, _, _ in parts for text in part]
        log_probs = np.concatenate([self._no_log_probs(), *(part for _, part, _ in parts)])
        return self._result(texts, log_probs)

    def stream(self, inputs: Any) -> Generator[str, None, None]:
        """Pieces of the text of one input, as they become certain."""
        preprocessor = self._preprocessor
        if preprocessor is None:
            raise InputError(NO_TEXT)
        texts = SplitTexts(inputs, self._documents(preprocessor))
        if texts.batched:
            raise InputTypeError(ONE_TEXT)
        arrays, _ = self._arrays_of(texts.pieces, preprocessor)
        prompts = checked_prompts(arrays, self._runner.config)
        starts = (
            prompts.prompt_lengths
            if self._request.strip_prompt
            else np.zeros_like(prompts.prompt_lengths)
        )
        tokenizer = preprocessor.tokenizer
        decoded = decoder(tokenizer.decode_batch, tokenizer.special_token_ids)
        pieces = Pieces(decoded, len(texts.encoder_pieces))
        stops, speculate = self._request.stop_token_ids, self._request.speculate
        for progress in watch(self._runner, prompts, self._sampler, stops, speculate):
            rows = zip(progress.numbers, progress.lengths, progress.ended, strict=True)
            for number, length, ended in rows:
                ids = progress.token_ids[number, starts[number] : length].astype(np.int64)
                pieces.grow(int(number), ids, bool(ended))
            if piece := pieces.next_piece():
                yield piece

    def _result(self, texts: Any, log_probs: Any) -> Any:
        return texts if self._num_beams is None else (texts, log_probs)

    def _from_texts(
        self, inputs: Any, preprocessor: BartSeq2SeqLMPreprocessor
    ) -> tuple[list[Any], NDArray[np.float32], bool]:
        """Texts, or lists of a text for each beam; log-probabilities; whether it was a batch."""
        if self._request.long_input == "split":
            return self._joined_texts(inputs, preprocessor)
        arrays, batched = self._arrays_of(inputs, preprocessor)
        if not len(arrays["decoder_token_ids"]):
            return [], self._no_log_probs(), batched
        results = self._from_arrays(arrays)
        if self._num_beams is not None:
            return _beam_texts(preprocessor, results), results["log_probs"], batched
        texts: list[str] = preprocessor.generate_postprocess(results)
        return texts, np.zeros((len(texts), 1), np.float32), batched

    def _arrays_of(
        self, inputs: Any, preprocessor: BartSeq2SeqLMPreprocessor
    ) -> tuple[Arrays, bool]:
        """The arrays of texts, and whether they came as a batch."""
        long_input = self._request.long_input
        arrays = preprocessor.generate_preprocess(
            inputs,
            sequence_length=self._request.max_length,
            long_input="error" if long_input == "split" else long_input,
        )
        batched = np.ndim(arrays["decoder_token_ids"]) == 2
        return {name: np.atleast_2d(array) for name, array in arrays.items()}, batched

    def _joined_texts(
        self, inputs: Any, preprocessor: BartSeq2SeqLMPreprocessor
    ) -> tuple[list[Any], NDArray[np.float32], bool]:
        """As `_from_texts`, each text split into parts whose outputs are joined."""
        if self._num_beams is not None:
            raise InputError('long_input="split" joins one text of each part; not all beams.')
        split = SplitTexts(inputs, self._documents(preprocessor))
        arrays, _ = self._arrays_of(split.pieces, preprocessor)
        texts: list[str] = []
        if split.texts:
            texts = preprocessor.generate_postprocess(self._from_arrays(arrays))
        joined_up = [joined_texts(own) for own, _, _ in split.by_text(texts)]
        return joined_up, np.zeros((len(joined_up), 1), np.float32), split.batched

    def _documents(self, preprocessor: BartSeq2SeqLMPreprocessor) -> Documents:
        return Documents(preprocessor, self._request.long_input, self._request.overlap_sentences)

    def _results(self, inputs: Any, batches: Iterable[Any] | None, report: Report) -> list[Result]:
        """A Result for each input."""
        if self._num_beams is not None:
            raise InputError("return_dict gives the best beam; not with return_all_beams.")
        preprocessor, found = self._preprocessor, []
        reporter = Reporter(self._runner, preprocessor, self._request.strip_prompt, report)
        for batch in [inputs] if batches is None else batches:
            if preprocessor is None:
                found += self._reported(batch, reporter)
                continue
            split = SplitTexts(batch, self._documents(preprocessor))
            if not split.texts:
                continue
            arrays, _ = self._arrays_of(split.pieces, preprocessor)
            results = self._reported(arrays, reporter)
            found += [joined_results(*each) for each in split.by_text(results)]
        return found

    def _reported(self, inputs: Any, reporter: Reporter) -> list[Result]:
        """A Result for each row of arrays."""
        prompts, generated = self._generated(inputs)
        ends = zip(generated.token_ids, generated.lengths.tolist(), strict=True)
        sequences = [ids[:length].astype(np.int64) for ids, length in ends]
        ends = zip(prompts.encoder_token_ids, prompts.encoder_lengths.tolist(), strict=True)
        sources = [ids[:length] for ids, length in ends]
        stops = self._request.stop_token_ids
        return reporter.of_sequences(
            sources, sequences, prompts.prompt_lengths, stops, generated.efforts
        )

    def _from_arrays(self, inputs: Any) -> Arrays:
        prompts, generated = self._generated(inputs)
        strip_prompt = self._request.strip_prompt
        return merge_results(inputs, prompts, generated, strip_prompt, self._pad_token_id)

    def _generated(self, inputs: Any) -> tuple[Prompts, Generated]:
        prompts = checked_prompts(inputs, self._runner.config)
        if self._draws is None and self._sampler.draws is not None:
            self._draws = self._sampler.draws.next_call()
        generated = generate(
            self._runner,
            prompts,
            self._sampler,
            self._request.stop_token_ids,
            self._draws,
            self._rows,
            self._request.speculate,
        )
        self._rows += len(generated.token_ids)
        return prompts, generated

    @property
    def _pad_token_id(self) -> int:
        return self._runner.config.pad_token_id

    def _no_log_probs(self) -> NDArray[np.float32]:
        return np.zeros((0, self._num_beams or 1), np.float32)


def checked_stops(
    stop_token_ids: Any, preprocessor: BartSeq2SeqLMPreprocessor | None, vocabulary_size: int
) -> tuple[int, ...]:
    """The ids that end a row: of "auto" the tokenizer's end token, of None none.

    Raises:
        InputTypeError: neither "auto", None nor ids.
        InputError: another word, an id outside the vocabulary, or "auto" without preprocessor.
    """
    if stop_token_ids is None:
        return ()
    if isinstance(stop_token_ids, str):
        if stop_token_ids != "auto":
            raise InputError(
                f"stop_token_ids is {stop_token_ids!r}; give 'auto', None or a list of ids."
            )
        if preprocessor is None:
            raise InputError(
                'A `preprocessor` must be attached to the model if `stop_token_ids="auto"`. '
                "Attach one, or give the ids that end a row, for example stop_token_ids=(2,)."
            )
        stop_token_ids = [preprocessor.tokenizer.end_token_id]
    wanted = "stop_token_ids must be 'auto', None or a list of ids, found"
    if isinstance(stop_token_ids, bytes | Mapping) or not isinstance(stop_token_ids, Iterable):
        raise InputTypeError(f"{wanted} {stop_token_ids!r}.")
    ids = list(stop_token_ids)
    if not all(isinstance(each, Integral) and not isinstance(each, bool) for each in ids):
        raise InputTypeError(f"{wanted} {stop_token_ids!r}.")
    outside = [int(each) for each in ids if not 0 <= each < vocabulary_size]
    if outside:
        raise InputError(
            f"stop_token_ids names {outside[0]}; this model's ids are 0 to {vocabulary_size - 1}."
        )
    return tuple(int(each) for each in ids)


def check_length(max_length: Any, limit: int) -> None:
    """Refuse a `max_length` beyond the model's positions; the preprocessor checks the rest.

    Raises:
        InputError: it is more than `limit`.
    """
    if isinstance(max_length, Integral) and int(max_length) > limit:
        raise InputError(
            f"max_length is {max_length}, but this model has {limit} positions. Give at most "
            f"{limit}."
        )


def as_batches(inputs: Any) -> Iterable[Any] | None:
    """The batches of an iterable of batches; None where the inputs are one batch or no such thing.

    A list or tuple of lists, tuples, arrays or mappings is one of batches, a list of texts is one
    batch. Of other iterables every element is a batch; one that is a single text counts as a batch
    of one.
    """
    if isinstance(inputs, str | bytes | Mapping) or hasattr(inputs, "__array__"):
        return None
    if isinstance(inputs, list | tuple):
        return inputs if inputs and all(_is_batch(item) for item in inputs) else None
    return inputs if isinstance(inputs, Iterable) else None


def _is_batch(item: Any) -> bool:
    array = hasattr(item, "__array__") and not isinstance(item, str | bytes) and np.ndim(item) > 0
    return array or isinstance(item, list | tuple | Mapping)


def _beam_texts(preprocessor: BartSeq2SeqLMPreprocessor, results: Arrays) -> list[list[str]]:
    """A list of texts, best first, for each row of [rows, num_beams, width]."""
    rows, num_beams, width = results["decoder_token_ids"].shape
    names = ("decoder_token_ids", "decoder_padding_mask")
    texts = preprocessor.generate_postprocess(
        {name: results[name].reshape(-1, width) for name in names}
    )
    return [texts[row * num_beams : (row + 1) * num_beams] for row in range(rows)]

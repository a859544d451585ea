"""One call of generate() by the checkpoint's generation config, with transformers' rules.

It knows the documented forms of inputs and results, as `generation` does for KerasHub's way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.arrays import checked_sources
from bart_onnx.decoding.decode import decode
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.decoding.prompts import Prompts
from bart_onnx.decoding.protocols import Runner
from bart_onnx.decoding.scoring import Scoring
from bart_onnx.decoding.search import Search
from bart_onnx.decoding.tasks import Hypothesis, Task
from bart_onnx.documents import Documents, LongInput, SplitTexts
from bart_onnx.errors import InputError
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.reporting import Reporter
from bart_onnx.results import Report
from bart_onnx.samplers.draws import CallDraws, Draws
from bart_onnx.stop_strings import StopStrings

IdArray = NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """What is asked besides the inputs; see `OnnxBartSeq2SeqLM.generate`.

    Attributes:
        prompts: ids that each row begins with; None where the inputs say it.
        report: what to tell besides; None for texts alone.
        speculate: whether greedy rows may be fed drafts from their sources.
    """

    options: DecodingOptions
    strip_prompt: bool = False
    long_input: LongInput | None = None
    overlap_sentences: int = 1
    prompts: Sequence[Sequence[int]] | None = None
    report: Report | None = None
    speculate: bool = True


@dataclass(frozen=True)
class Batch:
    """One batch of inputs, brought to ids.

    Attributes:
        sources: ids of each row's source.
        prompts: ids that each row's output begins with.
        texts: the texts that the rows are parts of; None where the inputs were arrays.
    """

    sources: list[IdArray]
    prompts: list[IdArray]
    texts: SplitTexts | None

    @property
    def owners(self) -> IdArray:
        """Which input each row is of, or of a part of, int64 [rows]."""
        if self.texts is None:
            return np.arange(len(self.sources))
        return np.array(self.texts.owners, np.int64)


@dataclass(frozen=True)
class Plan:
    """What is to be decoded for one batch.

    Attributes:
        limits: the longest that each row may become, prompt included, int64 [rows].
        refused: why some rows cannot be continued.
    """

    prompts: Prompts
    limits: IdArray
    task: Task
    refused: dict[int, str]


class ConfiguredCall:
    """One call. Its batches share one stretch of random numbers."""

    def __init__(
        self, runner: Runner[Any], preprocessor: BartSeq2SeqLMPreprocessor | None, asked: Asked
    ) -> None:
        self._runner, self._preprocessor, self._asked = runner, preprocessor, asked
        options = asked.options
        if options.stop_strings and preprocessor is None:
            raise InputError("stop_strings needs a preprocessor, whose tokenizer knows the texts.")
        if asked.long_input == "split" and options.num_return_sequences > 1:
            raise InputError(
                'long_input="split" joins one text of each part; leave num_return_sequences at 1.'
            )
        if asked.long_input is not None and preprocessor is None:
            raise InputError("long_input is for texts; without a preprocessor there are none.")
        self._scoring = Scoring(options, runner.config.vocabulary_size)
        self._reporter = Reporter(
            runner, preprocessor, asked.strip_prompt, asked.report or Report()
        )
        self._begin()

    def _begin(self) -> None:
        self._draws: CallDraws | None = None
        if self.options.do_sample:
            self._draws = Draws(self.options.seed).next_call()
        # Rows and inputs of the batches before.
        self._rows = self._inputs = 0

    def again(self) -> ConfiguredCall:
        """The same for other inputs: no batch came before, and random numbers are its own."""
        call = copy(self)
        call._begin()
        return call

    @property
    def options(self) -> DecodingOptions:
        """What decides over tokens."""
        return self._asked.options

    @property
    def reporter(self) -> Reporter:
        """What makes texts and results of this call's sequences."""
        return self._reporter

    def searches(self, batch: Batch) -> tuple[Iterator[Search], dict[int, str]]:
        """See `decoding.decode.decode`; rows are numbered as the batch's.

        Returns:
            The searches, and why some rows are in none of them.
        """
        plan = self.plan(batch)
        return decode(self._runner, plan.prompts, plan.limits, plan.task), plan.refused

    def plan(self, batch: Batch) -> Plan:
        """What is to be decoded for a batch; its random numbers are those after the last batch's.

        Raises:
            InputError: a prompt has ids that the model does not.
        """
        prompts, limits, refused = self._checked_prompts(batch)
        options, preprocessor = self._asked.options, self._preprocessor
        completes = None
        if options.stop_strings and preprocessor is not None:
            completes = StopStrings(options.stop_strings, preprocessor.tokenizer).completes
        report = self._asked.report
        task = Task(
            options,
            self._scoring,
            completes,
            self._draws,
            self._rows,
            inputs=self._inputs + batch.owners,
            log_probs=report is not None,
            top_log_probs=0 if report is None else report.top_log_probs,
            speculate=self._asked.speculate,
        )
        self._rows += len(batch.sources)
        self._inputs += int(batch.owners.max(initial=-1)) + 1
        return Plan(prompts, limits, task, refused)

    def run(self, batch: Batch) -> tuple[list[tuple[Hypothesis, ...]], dict[int, str]]:
        """Hypotheses of every row, () of those that failed; and why those did."""
        found: dict[int, tuple[Hypothesis, ...]] = {}
        searches, failed = self.searches(batch)
        for search in searches:
            found |= search.finished
            failed |= search.failed
        return [found.get(row, ()) for row in range(len(batch.sources))], failed

    def from_texts(self, inputs: Any) -> Batch:
        """Texts, or {"encoder_text", "decoder_text"}, as ids."""
        assert self._preprocessor is not None
        asked = self._asked
        documents = Documents(self._preprocessor, asked.long_input, asked.overlap_sentences)
        texts = SplitTexts(inputs, documents)
        encoder = texts.encoder_pieces
        arrays = self._preprocessor.generate_preprocess(encoder, long_input=documents.of_parts)
        lengths = arrays["encoder_padding_mask"].sum(axis=1)
        sources = [
            ids[:length].astype(np.int64)
            for ids, length in zip(arrays["encoder_token_ids"], lengths.tolist(), strict=True)
        ]
        own = list(map(self._prompt_of, texts.prompts))
        return Batch(sources, self._prompts(own, texts.owners), texts)

    def from_arrays(self, inputs: Any) -> Batch:
        """Arrays as ids; those of the decoder may be absent."""
        sources, prompts = checked_sources(inputs, self._runner.config)
        start = np.array([self._asked.options.decoder_start_token_id], np.int64)
        if prompts is not None and self._asked.prompts is not None:
            raise InputError(
                "Both decoder_input_ids and the inputs' decoder arrays say how outputs begin; give "
                "one of them."
            )
        own = [start] * len(sources) if prompts is None else prompts
        return Batch(sources, self._prompts(own, range(len(own))), None)

    def _prompt_of(self, text: str) -> IdArray:
        """BART's start tokens and the text's; the start token alone where there is no text."""
        assert self._preprocessor is not None
        start = self._asked.options.decoder_start_token_id
        if not text:
            return np.array([start], np.int64)
        tokenizer = self._preprocessor.tokenizer
        begin = [] if tokenizer.start_token_id is None else [tokenizer.start_token_id]
        return np.array([start, *begin, *tokenizer.encode_batch([text])[0]], np.int64)

    def _prompts(self, own: list[IdArray], owners: Sequence[int]) -> list[IdArray]:
        """The prompts asked for by id, else the rows' own; each begins with the start token.

        As in transformers, the start token is put before one that lacks it.

        Args:
            owners: which input each row is of.
        """
        asked = self._asked.prompts
        if asked is not None:
            inputs = max(owners, default=-1) + 1
            if len(asked) != inputs:
                raise InputError(
                    f"decoder_input_ids has {len(asked)} rows for {inputs} inputs; give one each."
                )
            own = [np.array(asked[owner], np.int64).reshape(-1) for owner in owners]
        start = self._asked.options.decoder_start_token_id
        return [
            ids if len(ids) and ids[0] == start else np.concatenate([[start], ids]) for ids in own
        ]

    def _checked_prompts(self, batch: Batch) -> tuple[Prompts, IdArray, dict[int, str]]:
        """Prompts in one array wide enough for the longest output, each row's limit, and why rows
        cannot be continued.
        """
        config, options = self._runner.config, self._asked.options
        limits = np.array(
            [options.limit(len(ids), config.max_sequence_length) for ids in batch.prompts], np.int64
        )
        refused = {
            row: f"its prompt has {len(ids)} tokens, and max_length is {limit}; raise max_length, "
            "or shorten the prompt"
            for row, (ids, limit) in enumerate(zip(batch.prompts, limits.tolist(), strict=True))
            if len(ids) >= limit
        }
        for row, ids in enumerate(batch.prompts):
            if ids.min() < 0 or ids.max() >= config.vocabulary_size:
                raise InputError(
                    f"The prompt of row {row} has an id outside this model's, 0 to "
                    f"{config.vocabulary_size - 1}."
                )
        width = int(limits.max(initial=0))
        token_ids = np.full((len(limits), width), config.pad_token_id, np.int64)
        for line, ids in zip(token_ids, batch.prompts, strict=True):
            line[: len(ids)] = ids[:width]
        # A prompt that fills the width is in no batch.
        lengths = np.array([len(ids) for ids in batch.prompts], np.int64)
        lengths[list(refused)] = width
        source_lengths = np.array([len(ids) for ids in batch.sources], np.int64)
        sources = np.full(
            (len(lengths), int(source_lengths.max(initial=0))), config.pad_token_id, np.int64
        )
        for line, ids in zip(sources, batch.sources, strict=True):
            line[: len(ids)] = ids
        return Prompts(sources, source_lengths, token_ids, lengths), limits, refused

"""Many inputs through one model: a stretch at a time, each with its answer or its error.

It knows no file and no format.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bart_onnx.configured import Asked
from bart_onnx.errors import DecodingError, InputError
from bart_onnx.input_lines import Line
from bart_onnx.packing import ENCODER_SPECIALS
from bart_onnx.results import Result
from bart_onnx.text_generator import TextGenerator

# Enough for the rows of a batch to be of like length; not so much that a killed run loses hours.
CHUNK_TOKENS = 16_384
_BYTES_A_TOKEN = 4  # about what English takes; where a stretch ends need not be exact


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        texts: what was generated, best first; one unless several were asked for.
        result: what is known of it, where that was asked for.
        error: why there is nothing; None where there is.
        is_long: whether the text has more tokens than the model reads.
    """

    line: Line
    texts: tuple[str, ...] = ("",)
    result: Result | None = None
    error: str | None = None
    is_long: bool = False


class Bulk:
    """A model with what is asked of it, for inputs that come in stretches.

    What a stretch holds follows from the inputs alone, so that a run that goes on where another
    stopped finds what that would have found, drawn tokens included.

    Args:
        chunk_tokens: about how many tokens of sources a stretch holds.
        prefix: what the model reads before every text.

    Raises:
        InputError: `chunk_tokens` below 1, or a model without preprocessor.
    """

    def __init__(
        self,
        lm: TextGenerator,
        asked: Asked,
        chunk_tokens: int = CHUNK_TOKENS,
        prefix: str = "",
    ) -> None:
        if chunk_tokens < 1:
            raise InputError(f"chunk_tokens is {chunk_tokens}; give at least 1.")
        if lm.preprocessor is None:
            raise InputError("Texts need a preprocessor; this model has none.")
        self._lm, self._asked, self._chunk_tokens, self._prefix = lm, asked, chunk_tokens, prefix
        self._limit = lm.preprocessor.encoder_sequence_length
        self._tokenizer = lm.preprocessor.tokenizer

    @property
    def run(self) -> str:
        """What tells this model and what is asked of it from others: a digest of each."""
        asked = dataclasses.asdict(self._asked)
        if self._asked.options.do_sample:
            asked["chunk_tokens"] = self._chunk_tokens
        if self._prefix:
            asked["prefix"] = self._prefix
        manifest = dict(self._lm.runner.bundle.manifest)
        return "-".join(_digest(each) for each in (manifest, asked))

    def chunks(self, inputs: Iterable[Line]) -> Iterator[list[Line]]:
        """The inputs in stretches."""
        chunk: list[Line] = []
        tokens = 0
        for line in inputs:
            cost = len(line.text.encode()) // _BYTES_A_TOKEN + ENCODER_SPECIALS
            if chunk and tokens + cost > self._chunk_tokens:
                yield chunk
                chunk, tokens = [], 0
            chunk.append(line)
            tokens += cost
        if chunk:
            yield chunk

    def outcomes(self, chunk: Sequence[Line]) -> list[Outcome]:
        """What becomes of each input of a stretch, in their order.

        Raises:
            InputError, InputTypeError: what is asked cannot be done, of any input.
        """
        written = [line for line in chunk if line.text.strip()]
        long = {line.index: tokens for line in written if (tokens := self._excess(line))}
        if self._asked.long_input in (None, "error"):
            found = self._answers([line for line in written if line.index not in long])
            for line in written:
                if line.index in long:
                    found[line.index] = Outcome(line, error=self._refusal(long[line.index]))
        else:
            found = self._answers(written)
        return [
            dataclasses.replace(found.get(line.index, Outcome(line)), is_long=line.index in long)
            for line in chunk
        ]

    def _answers(self, lines: Sequence[Line]) -> dict[int, Outcome]:
        """The outcome of each line, by its index."""
        if not lines:
            return {}
        failed: dict[int, str] = {}
        try:
            texts = [self._prefix + line.text for line in lines]
            answers = self._lm.answer(texts, self._seeded(lines[0].index))
        except DecodingError as error:
            answers, failed = error.results, error.failed
        found = {}
        for row, (line, answer) in enumerate(zip(lines, answers, strict=True)):
            if row in failed:
                found[line.index] = Outcome(line, error=failed[row])
            elif isinstance(answer, Result):
                best = answer.n_best or (answer,)
                found[line.index] = Outcome(line, tuple(each.text for each in best), answer)
            else:
                several = (answer,) if isinstance(answer, str) else tuple(answer)
                found[line.index] = Outcome(line, several)
        return found

    def _seeded(self, first: int) -> Asked:
        """What is asked, with a seed of its own where tokens are drawn.

        A call numbers its rows from 0, so that under one seed all stretches would draw alike.
        """
        options = self._asked.options
        if not options.do_sample or options.seed is None or first == 0:
            return self._asked
        state = np.random.SeedSequence([options.seed, first]).generate_state(1)
        seed = int(state[0] >> 1)  # an option's integers end at 2**31
        return dataclasses.replace(self._asked, options=dataclasses.replace(options, seed=seed))

    def _excess(self, line: Line) -> int:
        """How many tokens a text has that is too long; 0 of one that fits."""
        text = self._prefix + line.text
        # A token holds at least a byte, so that short texts need not be counted.
        if len(text.encode()) + ENCODER_SPECIALS <= self._limit:
            return 0
        tokens = len(self._tokenizer.encode_batch([text])[0]) + ENCODER_SPECIALS
        return tokens if tokens > self._limit else 0

    def _refusal(self, tokens: int) -> str:
        return (
            f"The text has {tokens} tokens; this model reads {self._limit}. Shorten it, or choose "
            "--long-input truncate or split."
        )


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:12]

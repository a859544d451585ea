"""Completions as OpenAI writes them: from found sequences to choices. It knows no HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.tasks import Hypothesis
from bart_onnx.errors import InputError
from bart_onnx.results import Report
from bart_onnx.server.alignment_forms import clipped, offsets
from bart_onnx.server.completion_request import CompletionRequest
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.readable import readable_texts
from bart_onnx.server.requests import Hypotheses
from bart_onnx.server.served import ServedModel
from bart_onnx.streaming import HALF, Certain, decoder

IdArray = NDArray[np.int64]

# JSON has no infinity; OpenAI writes this for what is as good as impossible.
_LEAST = -9999.0


class Completion:
    """A request brought to a plan, and its answer brought to choices.

    Attributes:
        plan: what is to be decoded, a row for each prompt.
        options: how.

    Raises:
        InputError: as `generate` of the same request; a prompt that cannot be continued.
    """

    def __init__(self, model: ServedModel, asked: CompletionRequest, served: ServerOptions) -> None:
        report = None if asked.logprobs is None else Report(top_log_probs=asked.logprobs)
        self._model, self._asked, self._served = model, asked, served
        texts, ids = asked.texts, asked.ids
        long_input = asked.long_input or served.long_input
        self._call = model.asking.call(
            asked.options(),
            long_input=None if texts is None else long_input,
            report=report,
            speculate=served.speculation,
        )
        self.options = self._call.options
        if self.options.copies > served.sequences:
            raise InputError(f"{self.options.copies} beams are more than {served.sequences}.")
        if texts is not None:
            texts = readable_texts(model.preprocessor, texts, long_input)
        self._texts = texts
        batch = self._call.from_texts(texts) if ids is None else self._of_ids(ids)
        self.plan = self._call.plan(batch)
        self._sources = batch.sources
        self._aligned: dict[int, list[list[dict[str, Any]]]] = {}
        notes = [] if batch.texts is None else batch.texts.notes
        self._truncated = [bool(note) for note in notes] or [False] * len(batch.sources)
        self.prompt_tokens = sum(map(len, batch.sources))

    @property
    def count(self) -> int:
        """Sequences of a prompt."""
        return self.options.num_return_sequences

    def grown(self) -> Growing:
        """What makes pieces of one row's tokens."""
        tokenizer = self._model.preprocessor.tokenizer
        return Growing(
            decoder(tokenizer.decode_batch, tokenizer.special_token_ids), self._asked.stops
        )

    def texts(self, found: Iterable[Hypotheses]) -> list[str]:
        """The text of each sequence, prompt by prompt, up to a stop string."""
        of_prompts = map(self._call.reporter.texts, found)
        return [cut(text, self._asked.stops) for texts in of_prompts for text in texts]

    async def align(self, row: int, hypotheses: Hypotheses) -> None:
        """Find out what the choices of one prompt looked at, where that is asked for.

        Raises:
            QueueFullError, DeadlineError: too many wait for the same, or it takes too long.
        """
        if self._asked.alignments and self._texts is not None:
            served = self._served
            self._aligned[row] = await self._model.aligner.aligned(
                self._texts[row], self._sources[row], hypotheses, served.waiting, served.deadline
            )

    def choices(self, row: int, hypotheses: Hypotheses) -> list[dict[str, Any]]:
        """The choices of one prompt."""
        texts = self.texts([hypotheses])
        return [
            {
                "index": row * self.count + number,
                "text": text,
                "finish_reason": found.finish_reason,
                "logprobs": self._log_probs(found),
                "truncated": self._truncated[row],
                **self._alignments(row, number, len(text)),
            }
            for number, (found, text) in enumerate(zip(hypotheses, texts, strict=True))
        ]

    def usage(self, found: Sequence[Hypotheses]) -> dict[str, int]:
        """Tokens that were read, and that came."""
        completion = sum(
            len(each.token_ids) - each.prompt_length for several in found for each in several
        )
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }

    def _alignments(self, row: int, number: int, length: int) -> dict[str, Any]:
        aligned = self._aligned.get(row)
        return {} if aligned is None else {"alignments": clipped(aligned[number], length)}

    def _of_ids(self, prompts: list[list[int]]) -> Any:
        longest = max(map(len, prompts))
        if longest > self._model.lm.config.max_sequence_length:
            raise InputError(
                f"A prompt has {longest} tokens; this model reads "
                f"{self._model.lm.config.max_sequence_length}. Shorten it."
            )
        if max(map(max, prompts)) >= self._model.lm.config.vocabulary_size:
            raise InputError("A prompt has an id outside the model's vocabulary.")
        token_ids = np.full((len(prompts), longest), self._model.lm.config.pad_token_id, np.int64)
        mask = np.zeros(token_ids.shape, bool)
        for line, own, ids in zip(token_ids, mask, prompts, strict=True):
            line[: len(ids)], own[: len(ids)] = ids, True
        return self._call.from_arrays(
            {"encoder_token_ids": token_ids, "encoder_padding_mask": mask}
        )

    def _log_probs(self, found: Hypothesis) -> dict[str, Any] | None:
        if self._asked.logprobs is None or found.log_probs is None:
            return None
        ids, first = found.token_ids.tolist(), found.prompt_length
        told: dict[str, Any] = {
            "tokens": [self.token_text(each) for each in ids[first:]],
            "token_logprobs": [finite(each) for each in found.log_probs.tolist()],
            "top_logprobs": None,
            "text_offset": offsets(self._model.preprocessor.tokenizer, ids)[first:],
        }
        if self._asked.logprobs and found.top_ids is not None and found.top_log_probs is not None:
            told["top_logprobs"] = [
                {self.token_text(each): finite(value) for each, value in zip(*place, strict=True)}
                for place in zip(found.top_ids.tolist(), found.top_log_probs.tolist(), strict=True)
            ]
        return told

    def is_special(self, token_id: int) -> bool:
        """Whether a token is no text."""
        return token_id in self._model.preprocessor.tokenizer.special_token_ids

    def token_text(self, token_id: int) -> str:
        """A token's text; its name in the vocabulary where it is special or half a character."""
        tokenizer = self._model.preprocessor.tokenizer
        (text,) = tokenizer.decode_batch([[token_id]])
        if self.is_special(token_id) or not text or HALF in text:
            return tokenizer.id_to_token(token_id)
        return text


class Growing:
    """The text of one row as it grows; put together, the pieces are what `cut` leaves of it.

    Args:
        decoded: ids to text.
        stops: what ends the text; so much is held back as may be the beginning of one.
    """

    def __init__(self, decoded: Any, stops: Sequence[str]) -> None:
        self._certain, self._stops = Certain(decoded), stops
        self._held = max(map(len, stops), default=1) - 1
        self._given = 0

    def piece(self, ids: IdArray, complete: bool) -> str:
        """What can be added now; "" for nothing."""
        text = cut(self._certain.text(ids, complete), self._stops)
        if not complete:
            text = text[: max(len(text) - self._held, 0)]
        piece = text[self._given :]
        self._given = max(self._given, len(text))
        return piece


def cut(text: str, stops: Sequence[str]) -> str:
    """A text up to the first stop string; decoding goes on to the end of that one's last token."""
    ends = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return text[: min(ends)] if ends else text


def finite(value: float) -> float:
    """A log-probability as JSON can hold it."""
    return max(value, _LEAST)

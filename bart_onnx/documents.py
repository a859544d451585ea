"""Documents: texts, some longer than the model reads, as parts that fit. It knows no decoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from bart_onnx.errors import InputError
from bart_onnx.long_inputs import Part, describe, split
from bart_onnx.packing import ENCODER_SPECIALS
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.text_inputs import as_text_pairs, as_texts, entry

LongInput = Literal["error", "truncate", "split"]

T = TypeVar("T")


@dataclass(frozen=True)
class Documents:
    """How texts become what the encoder is given.

    Attributes:
        long_input: what becomes of one that is too long; None is the preprocessor's own way.
        overlap_sentences: how many sentences a part shares with the one before.

    Raises:
        InputError: an unknown `long_input`, or a negative overlap.
    """

    preprocessor: BartSeq2SeqLMPreprocessor
    long_input: LongInput | None = None
    overlap_sentences: int = 1

    def __post_init__(self) -> None:
        known = ("error", "truncate", "split")
        if self.long_input is not None and self.long_input not in known:
            names = ", ".join(map(repr, known))
            raise InputError(f"long_input {self.long_input!r} is unknown; known are {names}.")
        if self.overlap_sentences < 0:
            raise InputError(f"overlap_sentences is {self.overlap_sentences}; pass 0 or more.")

    @property
    def of_parts(self) -> Literal["error", "truncate"] | None:
        """What becomes of a part that is too long: none is, where texts are split."""
        return "error" if self.long_input == "split" else self.long_input

    def parts(self, text: str) -> tuple[Part, ...]:
        """The parts of a text; one unless it is split."""
        if self.long_input != "split":
            return (Part(text, 0, len(text), 0, 0),)
        limit = self.preprocessor.encoder_sequence_length
        parts = split(text, self._count, limit, self.overlap_sentences)
        # A model would invent a text for a stretch of white space.
        return tuple(part for part in parts if part.text.strip()) or parts[:1]

    def note(self, text: str, parts: Sequence[Part]) -> str:
        """What was done to a text that is too long, in a sentence; "" for one that fits."""
        if len(parts) > 1:
            return describe(parts)
        limit = self.preprocessor.encoder_sequence_length
        # A token holds at least a byte and a character four, so that short texts are not counted.
        if len(text) * 4 + ENCODER_SPECIALS <= limit:
            return ""
        count = self._count(text)
        if count <= limit:
            return ""
        return f"The text has {count} tokens; only the first {limit} of them were read."

    def _count(self, text: str) -> int:
        """Tokens of a source, its start and end among them."""
        return len(self.preprocessor.tokenizer.encode_batch([text])[0]) + ENCODER_SPECIALS


class SplitTexts:
    """A batch of texts, or of texts and prompts, and the pieces that the model is given.

    Attributes:
        texts: the texts.
        encoder_pieces: their parts one after another.
        prompts: the prompt of each piece, "" for none.
        pieces: both, in the form in which they came.
        owners: which text each piece is of.
        batched: whether they came as a batch.

    Raises:
        InputTypeError, InputKeyError, InputError: they are no texts.
    """

    def __init__(self, inputs: Any, documents: Documents) -> None:
        prompts: list[str] | None = None
        if isinstance(inputs, Mapping) and "decoder_text" in inputs:
            self.texts, prompts, self.batched = as_text_pairs(inputs)
        else:
            inputs = entry(inputs, "encoder_text") if isinstance(inputs, Mapping) else inputs
            self.texts, self.batched = as_texts(inputs, "inputs")
        self.parts = [documents.parts(text) for text in self.texts]
        self.notes = [
            documents.note(text, own) for text, own in zip(self.texts, self.parts, strict=True)
        ]
        self.owners = [owner for owner, own in enumerate(self.parts) for _ in own]
        self.encoder_pieces = [part.text for own in self.parts for part in own]
        self.prompts = [prompts[owner] if prompts else "" for owner in self.owners]
        self.pieces: Any = self.encoder_pieces
        if prompts is not None:
            self.pieces = {"encoder_text": self.encoder_pieces, "decoder_text": self.prompts}

    def by_text(self, values: Sequence[T]) -> Iterator[tuple[list[T], tuple[Part, ...], str]]:
        """For each text what was made of its pieces, its parts and its note."""
        first = 0
        for parts, note in zip(self.parts, self.notes, strict=True):
            yield list(values[first : first + len(parts)]), parts, note
            first += len(parts)


def joined_texts(texts: Sequence[str]) -> str:
    """The text of a document, of those of its parts."""
    stripped = (text.strip() for text in texts)
    return texts[0] if len(texts) == 1 else " ".join(text for text in stripped if text)

"""Readable: as much of a text as a model reads, found without bringing the rest of it to tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bart_onnx.errors import InputTooLongError
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor

# Characters of a token, at a guess; where it is wrong, twice as many are looked at.
_GUESS = 8
# Where a word ends. GPT-2's cuts lie there whatever follows, and look no further back.
_WORD_END = re.compile(r"\w(?= )")


def readable(preprocessor: BartSeq2SeqLMPreprocessor, text: str) -> str:
    """The beginning of a text, longer than the model reads and with the same tokens; or all of it.

    It ends at a word's end, so that its tokens are the first of the whole text's, and is all where
    there is no such place, or a token that the text is cut at has a blank inside.
    """
    limit = preprocessor.encoder_sequence_length
    if len(text) <= limit * _GUESS:
        return text
    tokenizer = preprocessor.tokenizer
    if any(" " in token for token in tokenizer.unsplittable_tokens):
        return text
    size = limit * _GUESS
    while end := _WORD_END.search(text, size):
        part = text[: end.end()]
        # That many are too many even without the special tokens.
        if len(tokenizer.encode_batch([part])[0]) > limit:
            return part
        size = 2 * len(part)
    return text


def readable_texts(
    preprocessor: BartSeq2SeqLMPreprocessor, texts: Sequence[str], long_input: str
) -> list[str]:
    """So much of each text as decides what the model is given.

    Raises:
        InputTooLongError: one is longer than that, and `long_input` is "error".
    """
    parts = [readable(preprocessor, text) for text in texts]
    for row, (text, part) in enumerate(zip(texts, parts, strict=True)):
        if long_input == "error" and len(part) < len(text):
            raise InputTooLongError(
                f"Text {row} has {len(text)} characters, of which the first {len(part)} alone have "
                f"more tokens than the model reads, {preprocessor.encoder_sequence_length}. "
                'Shorten it, or pass long_input="truncate" to cut it.'
            )
    return parts

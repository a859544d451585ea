"""Alignments as they are told: which characters of its prompt each piece of a text looked at most.

It knows tokens and characters, no model and no HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.packing import ENCODER_SPECIALS
from bart_onnx.streaming import HALF
from bart_onnx.tokenizer import BartTokenizer

Span = tuple[int, int]


def source_spans(
    tokenizer: BartTokenizer, text: str, source: NDArray[np.int64]
) -> list[Span | None]:
    """The characters of a prompt that each id of it stands for, blanks around them left out.

    Args:
        source: ids of what was read of it, start and end included.

    Returns:
        Start and end for each id; None for `<s>`, `</s>` and blanks alone.
    """
    (offsets,) = tokenizer.offset_batch([text])
    read = offsets[: len(source) - ENCODER_SPECIALS]
    return [None, *(_stripped(text, *span) for span in read), None]


def pieces(
    tokenizer: BartTokenizer,
    ids: Sequence[int],
    lines: NDArray[np.float32],
    spans: Sequence[Span | None],
) -> list[dict[str, Any]]:
    """Pieces of a text, and what each looked at most of what has characters.

    Args:
        ids: the tokens that came.
        lines: float32 [tokens, source], how much each looked at each id of its source.
        spans: see `source_spans`.

    Returns:
        For each token with a text, or for those that make up a character, "text", "offset",
        "source" (start and end, or None) and "weight". Offsets count code points.
    """
    distinct = sorted({span for span in spans if span is not None})
    numbers = {span: number for number, span in enumerate(distinct)}
    owners = np.array([numbers[span] for span in spans if span is not None], np.intp)
    weights = np.zeros((len(ids), len(distinct)), np.float32)
    # The ids of one character look at it together.
    np.add.at(weights.T, owners, lines.T[[span is not None for span in spans]])
    told: list[dict[str, Any]] = []
    offset = 0
    for places, text in _texts(tokenizer, ids):
        own = weights[places].mean(axis=0)
        best = int(own.argmax()) if distinct else None
        source = None if best is None else list(distinct[best])
        weight = 0.0 if best is None else round(float(own[best]), 4)
        told.append({"text": text, "offset": offset, "source": source, "weight": weight})
        offset += len(text)
    return told


def offsets(tokenizer: BartTokenizer, ids: Sequence[int]) -> list[int]:
    """Where in the text of all each token's begins, in code points.

    One of several that make up a character begins where that does, and one without a text where the
    next does.
    """
    found, offset, told = [0] * len(ids), 0, 0
    for places, text in _texts(tokenizer, ids):
        found[told : places[-1] + 1] = [offset] * (places[-1] + 1 - told)
        told, offset = places[-1] + 1, offset + len(text)
    found[told:] = [offset] * (len(ids) - told)
    return found


def clipped(told: Sequence[dict[str, Any]], length: int) -> list[dict[str, Any]]:
    """Those of a text that is cut to some length."""
    kept = [each for each in told if each["offset"] < length]
    return [{**each, "text": each["text"][: length - each["offset"]]} for each in kept]


def _texts(tokenizer: BartTokenizer, ids: Sequence[int]) -> Iterator[tuple[list[int], str]]:
    """Places of tokens and the text that they are, those of a character together; put together, the
    text of all.
    """
    special = set(tokenizer.special_token_ids)
    left = [place for place, each in enumerate(ids) if each not in special]
    held: list[int] = []
    before = ""
    for place, own in zip(
        left, tokenizer.decode_batch([[ids[each]] for each in left]), strict=True
    ):
        together = before + own
        if HALF in before and HALF in own:
            (together,) = tokenizer.decode_batch([[ids[each] for each in (*held, place)]])
        # Two parts of a character are, each for itself, other characters than together.
        if together == before + own:
            if before:
                yield held, before
            held, before = [place], own
        else:
            held, before = [*held, place], together
    if before:
        yield held, before


def _stripped(text: str, start: int, end: int) -> Span | None:
    part = text[start:end]
    start, end = start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())
    return (start, end) if start < end else None

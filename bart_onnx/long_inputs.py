"""A text of more tokens than the model reads, as parts that fit. It knows no model or tokenizer.

What a part costs is measured on its own text and never inferred: a slice is not tokenized as it is
within the whole. Estimates only say where to measure.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from bart_onnx.errors import InputError
from bart_onnx.sentences import sentence_spans

CountTokens = Callable[[str], int]

_PIECE_FILL = 0.9  # of the room, so that an even cut of a long sentence rarely needs a second one
_LONGEST_SEQUENCE = 32  # characters shown as one, such as an emoji of a family with skin tones
_ZERO_WIDTH_JOINER = "\u200d"
_JOINERS = frozenset([_ZERO_WIDTH_JOINER, *map(chr, range(0x1F3FB, 0x1F400))])  # and skin tones
_SPACE = re.compile(r"\r\n|\s")
_PARTS_NAMED = 10


@dataclass(frozen=True)
class Part:
    """A stretch of a text that fits the model.

    Attributes:
        text: what the model is given: `whole[start:end]`.
        start, end: characters of the whole text that it covers, overlap included.
        overlap: how many of its leading characters the part before covers too.
        tokens: its length in tokens, special tokens included.
        cut: whether it begins or ends inside a sentence, which alone was longer than the limit.
    """

    text: str
    start: int
    end: int
    overlap: int
    tokens: int
    cut: bool = False


@dataclass(frozen=True)
class _Unit:
    """What is never cut: a sentence, or a piece of one that is too long (not `whole`)."""

    start: int
    end: int
    tokens: int
    whole: bool


def split(
    text: str, count_tokens: CountTokens, limit: int, overlap_sentences: int = 1
) -> tuple[Part, ...]:
    """Cut a text at the ends of sentences into parts of about equal length that each fit.

    Only a sentence that is too long by itself is cut: at white space, and inside a word only where
    the word is too long.

    Args:
        text: any text.
        count_tokens: tokens of a text, special tokens included.
        limit: most tokens of a part, special tokens included.
        overlap_sentences: with how many whole sentences of the part before a part begins; fewer
            where they take more than half of the limit or leave no room for what follows.

    Returns:
        The parts in order, the text itself where it fits. `part.text[part.overlap:]` of all parts,
        joined, is the text; white space between sentences belongs to the part of the one before.

    Raises:
        InputError: a limit that a single character exceeds, or a negative overlap.
    """
    if overlap_sentences < 0:
        raise InputError(f"overlap_sentences is {overlap_sentences}; pass 0 or more.")
    tokens = count_tokens(text)
    if tokens <= limit:
        return (Part(text, 0, len(text), 0, tokens),)
    if len(text) < 2:
        raise _too_small(limit, text, tokens)
    cutter = _Cutter(text, count_tokens, limit)
    units = list(cutter.units())
    plan = _Plan(units, limit, count_tokens(""), tokens, overlap_sentences)
    return tuple(cutter.parts(units, plan))


def describe(parts: Sequence[Part]) -> str:
    """One sentence for people: how many parts, their tokens, what overlaps and what was cut."""
    if len(parts) == 1:
        return f"The text was read whole, {parts[0].tokens:,} tokens."
    repeated = sum(len(sentence_spans(part.text[: part.overlap])) for part in parts)
    cut = sum(part.cut for part in parts)
    overlap = f"{repeated:,} overlapping {'sentence' if repeated == 1 else 'sentences'}"
    inside = (
        f"{cut:,} of them {'begins or ends' if cut == 1 else 'begin or end'} inside a sentence, "
        "which alone is longer than the limit"
        if cut
        else "no sentence was cut"
    )
    return (
        f"The text was read in {len(parts):,} parts of {_tokens_of(parts)} tokens with {overlap}; "
        f"{inside}."
    )


def _tokens_of(parts: Sequence[Part]) -> str:
    tokens = [part.tokens for part in parts]
    if len(parts) > _PARTS_NAMED:
        return f"{min(tokens):,} to {max(tokens):,}"
    return ", ".join(f"{count:,}" for count in tokens[:-1]) + f" and {tokens[-1]:,}"


class _Plan:
    """Where parts should begin and end, by estimate: the fewest parts, of about equal length."""

    def __init__(
        self, units: list[_Unit], limit: int, specials: int, tokens: int, overlap_sentences: int
    ) -> None:
        costs = [max(unit.tokens - specials, 0) for unit in units]
        # Units beside each other share tokens that each alone has to pay for.
        scale = (tokens - specials) / (sum(costs) or 1)
        self._offsets = [0.0, *accumulate(cost * scale for cost in costs)]
        self._room = max(limit - specials, 1)
        self._firsts = self._overlaps(units, limit / 2 - specials, overlap_sentences)
        self._parts = self._fewest_parts()
        repeated = (self._span(first, i) for i, first in enumerate(self._firsts))
        self._usual_overlap = sum(repeated) / len(units)

    def first(self, i: int) -> int:
        """The unit that a part begins with if its units from `i` on are new."""
        return self._firsts[i]

    def fewest(self, i: int) -> int:
        """How many parts the units from `i` on need."""
        return self._parts[i]

    def end(self, i: int, parts: int) -> int:
        """The unit after that part's last, so that `parts` parts from it on are alike."""
        first = self._firsts[i]
        everything = self._span(first, len(self._offsets) - 1) + (parts - 1) * self._usual_overlap
        ideal = self._offsets[first] + everything / parts
        most = self._furthest(i)
        least = bisect_left(self._parts, 1 - parts, i + 1, most, key=lambda count: -count)
        end = bisect_left(self._offsets, ideal, least, most)
        if end > least and ideal - self._offsets[end - 1] < self._offsets[end] - ideal:
            end -= 1
        return end

    def _span(self, first: int, end: int) -> float:
        return self._offsets[end] - self._offsets[first]

    def _furthest(self, i: int) -> int:
        end = bisect_right(self._offsets, self._offsets[self._firsts[i]] + self._room) - 1
        return max(end, i + 1)

    def _overlaps(self, units: list[_Unit], most: float, sentences: int) -> list[int]:
        firsts, first = [], 0
        for i in range(len(units)):
            if i and not units[i - 1].whole:
                first = i
            first = max(first, i - sentences)
            while first < i and (
                self._span(first, i) > most or self._span(first, i + 1) > self._room
            ):
                first += 1
            firsts.append(first)
        return firsts

    def _fewest_parts(self) -> list[int]:
        parts = [0] * len(self._offsets)
        for i in reversed(range(len(parts) - 1)):
            parts[i] = 1 + parts[self._furthest(i)]
        return parts


class _Cutter:
    """Measures: the units of a text, and the parts that they make."""

    def __init__(self, text: str, count_tokens: CountTokens, limit: int) -> None:
        self._text, self._count, self._limit = text, count_tokens, limit
        self._sentences = sentence_spans(text)

    def units(self) -> Iterator[_Unit]:
        """The sentences, those that are too long in pieces."""
        for start, end in self._sentences:
            tokens = self._count(self._text[start:end])
            if tokens <= self._limit:
                yield _Unit(start, end, tokens, whole=True)
            else:
                places = [space.end() for space in _SPACE.finditer(self._text, start, end)]
                yield from self._pieces(start, end, tokens, places)

    def parts(self, units: list[_Unit], plan: _Plan) -> Iterator[Part]:
        """The parts as planned, shorter where they prove too long."""
        edges = {0, *(end for _, end in self._sentences)}
        first = new = 0
        while new < len(units):
            first, after, tokens = self._fitted(units, plan, max(first, plan.first(new)), new)
            start, end = units[first].start, units[after - 1].end
            overlap = units[new].start - start
            cut = not {start, end} <= edges
            yield Part(self._text[start:end], start, end, overlap, tokens, cut)
            new = after

    def _fitted(
        self, units: list[_Unit], plan: _Plan, first: int, new: int
    ) -> tuple[int, int, int]:
        """First unit, unit after the last, and tokens of a part whose overlap ends at `new`."""
        while first < new and self._tokens(units[first:new]) > self._limit // 2:
            first += 1
        parts = plan.fewest(new)
        after = plan.end(new, parts)
        while after - first > 1:
            tokens = self._tokens(units[first:after])
            if tokens <= self._limit:
                return first, after, tokens
            if after - new > 1:
                # Those that follow are probably as much longer than estimated.
                parts = max(parts + 1, parts * tokens // self._limit)
                after = min(plan.end(new, parts), after - 1)
            else:
                first += 1
        return first, after, units[first].tokens

    def _tokens(self, units: list[_Unit]) -> int:
        return self._count(self._text[units[0].start : units[-1].end])

    def _pieces(self, start: int, end: int, tokens: int, places: list[int]) -> Iterator[_Unit]:
        """Cut [start, end), which is too long, at some of `places` if any is inside."""
        if end - start == 1:
            raise _too_small(self._limit, self._text[start:end], tokens)
        inside = places[bisect_right(places, start) : bisect_left(places, end)]
        needed = int(tokens / (max(self._limit, 1) * _PIECE_FILL)) + 1
        number = min(max(needed, 2), end - start)
        ideals = (start + (end - start) * k // number for k in range(1, number))
        cuts = {
            _nearest(inside, ideal) if inside else self._between_characters(start, ideal, end)
            for ideal in ideals
        }
        for left, right in pairwise(sorted({start, *cuts, end})):
            cost = self._count(self._text[left:right])
            if cost <= self._limit:
                yield _Unit(left, right, cost, whole=False)
            else:
                yield from self._pieces(left, right, cost, inside)

    def _between_characters(self, start: int, ideal: int, end: int) -> int:
        """The place nearest to `ideal` that is inside no sequence, or `ideal` if none is near."""
        for distance in range(_LONGEST_SEQUENCE):
            for place in (ideal - distance, ideal + distance):
                if start < place < end and not _joined(self._text, place):
                    return place
        return ideal


def _nearest(places: list[int], ideal: int) -> int:
    after = bisect_left(places, ideal)
    return min(places[max(after - 1, 0) : after + 1], key=lambda place: abs(place - ideal))


def _joined(text: str, place: int) -> bool:
    """Whether the character at `place` is shown as one with that before it."""
    before, after = text[place - 1], text[place]
    marks = unicodedata.category(after).startswith("M") or after in _JOINERS
    return marks or before == _ZERO_WIDTH_JOINER or before + after == "\r\n"


def _too_small(limit: int, text: str, tokens: int) -> InputError:
    return InputError(
        f"A part may have {limit} tokens, but {text!r} alone has {tokens} with the special tokens. "
        f"Raise the limit to {tokens} or more."
    )

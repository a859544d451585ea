"""Long texts in parts: any text, any limit, any way to count; then real text and vocabulary."""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bart_onnx.errors import InputError
from bart_onnx.long_inputs import Part, describe, split
from bart_onnx.sentences import sentence_spans
from bart_onnx.tokenizer import BartTokenizer

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "keras_golden"
TINY = BartTokenizer.from_files(GOLDEN / "hf_checkpoint")

Count = Callable[[str], int]


def characters(text: str) -> int:
    return len(text) + 2


def utf8_bytes(text: str) -> int:
    return len(text.encode()) + 2


def words(text: str) -> int:
    return len(text.split()) + 2


def tiny_tokens(text: str) -> int:
    return len(TINY.encode_batch([text])[0]) + 2


def neither_monotone_nor_additive(text: str) -> int:
    return len(text) + 5 * (len(text) % 7 == 3) + len(text) ** 2 // 50


COUNTS = st.sampled_from(
    [characters, utf8_bytes, words, tiny_tokens, neither_monotone_nor_additive]
)
PIECES = [
    "The cat sat",
    "the dog ran away",
    "it",
    "U.S",
    "1",
    "é",
    "e\u0301",
    "👩‍👩‍👧",
    "中文",
    "x" * 30,
]
SPACES = [" ", "  ", "\n", "\r\n", "\n\n", ". ", ". The ", ". A red fox. "]
FRAGMENTS = st.sampled_from([*PIECES, *SPACES, *".!?。\"')“"])
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(FRAGMENTS, max_size=60).map("".join),
)


def check(text: str, parts: tuple[Part, ...], count: Count, limit: int, overlap: int) -> None:
    """Everything that `split` promises, but for balance."""
    assert "".join(part.text[part.overlap :] for part in parts) == text
    for part in parts:
        assert part.text == text[part.start : part.end]
        assert part.tokens == count(part.text) <= limit
    assert parts[0].start == parts[0].overlap == 0
    starts = [start for start, _ in sentence_spans(text)]
    for before, part in pairwise(parts):
        assert before.start <= part.start <= before.end < part.end
        assert part.overlap == before.end - part.start
        if part.overlap:
            assert part.start in starts
            assert before.end in starts
            assert starts.index(before.end) - starts.index(part.start) <= overlap
            assert count(part.text[: part.overlap]) <= limit // 2
    check_sentences(text, parts, count, limit)


def check_sentences(text: str, parts: tuple[Part, ...], count: Count, limit: int) -> None:
    """A sentence lies wholly in a part, or is too long; then the parts it is torn by say so."""
    torn: set[int] = set()
    for start, end in sentence_spans(text):
        if not any(part.start <= start and end <= part.end for part in parts):
            assert count(text[start:end]) > limit
        for index, part in enumerate(parts):
            if start < part.start < end or start < part.end < end:
                assert count(text[start:end]) > limit
                torn.add(index)
    assert torn == {index for index, part in enumerate(parts) if part.cut}


def check_words(text: str, parts: tuple[Part, ...], count: Count, limit: int) -> None:
    """A word is cut only where it is too long, the blank after it counted."""
    places = {0, *(space.end() for space in re.finditer(r"\r\n|\s", text))}
    places |= {end for _, end in sentence_spans(text)}
    for part in parts[:-1]:
        if part.end not in places:
            first = max(place for place in places if place < part.end)
            last = min(place for place in places if place > part.end)
            assert count(text[first:last]) > limit


# -- any text


@settings(deadline=None)
@given(TEXTS, st.integers(0, 60), st.integers(0, 4), COUNTS)
@example("", 1, 0, characters)
@example("A. B. C. D. E. F.", 5, 1, characters)
@example("aé. " * 9, 5, 1, utf8_bytes)
def test_parts_of_any_text_keep_every_promise(
    text: str, limit: int, overlap: int, count: Count
) -> None:
    try:
        parts = split(text, count, limit, overlap)
    except InputError as error:
        message = str(error)
        assert any(count(piece) > limit for piece in text or [""]), message
        return
    check(text, parts, count, limit, overlap)
    check_words(text, parts, count, limit)
    assert str(len(parts)) in describe(parts) or len(parts) == 1


@settings(deadline=None)
@given(TEXTS, st.integers(0, 60), COUNTS)
def test_every_limit_that_holds_each_character_is_enough(
    text: str, more: int, count: Count
) -> None:
    limit = max(count(character) for character in [*text, ""]) + more
    check(text, split(text, count, limit), count, limit, 1)


@settings(deadline=None)
@given(TEXTS, st.integers(0, 3), COUNTS)
def test_a_text_that_fits_is_one_part_and_itself(text: str, more: int, count: Count) -> None:
    tokens = count(text)
    assert split(text, count, tokens + more) == (Part(text, 0, len(text), 0, tokens),)


@settings(deadline=None)
@given(st.lists(st.integers(3, 60), min_size=2, max_size=60), st.integers(40, 200))
def test_the_last_part_is_no_stub(lengths: list[int], limit: int) -> None:
    """No sentence of the last part but one would make the two more alike as the last part's."""
    text = "".join("A" + "a" * (length - 3) + ". " for length in lengths)
    parts = split(text, len, limit, 0)
    assume(len(parts) > 1 and not any(part.cut for part in parts))
    before, last = parts[-2:]
    moved = sentence_spans(before.text)[-1]
    size = moved[1] - moved[0]
    if size == before.tokens or last.tokens + size > limit:
        return
    assert abs(before.tokens - last.tokens) <= abs(before.tokens - last.tokens - 2 * size)


# -- made-up text


SENTENCES = [f"Sentence number {number} is here. " for number in range(10, 20)]


def test_equal_sentences_make_equal_parts_that_overlap() -> None:
    text = "".join(SENTENCES)
    parts = split(text, words, 22, 1)
    assert [part.text for part in parts] == [
        "".join(SENTENCES[:4]),
        "".join(SENTENCES[3:7]),
        "".join(SENTENCES[6:]),
    ]
    assert [part.tokens for part in parts] == [22, 22, 22]
    assert [part.overlap for part in parts] == [0, 28, 28]
    assert not any(part.cut for part in parts)


def test_parts_are_alike_where_filling_up_would_leave_a_stub() -> None:
    parts = split("".join(SENTENCES[:5]), words, 22, 0)
    assert [part.tokens for part in parts] in ([17, 12], [12, 17])


@pytest.mark.parametrize(("overlap", "repeated"), [(0, 0), (1, 1), (2, 2), (3, 2), (100, 2)])
def test_overlap_is_at_most_what_was_asked_for_and_half_of_the_limit(
    overlap: int, repeated: int
) -> None:
    # Half of 27 holds two sentences of five words with two special tokens.
    parts = split("".join(SENTENCES), words, 27, overlap)
    assert {len(sentence_spans(part.text[: part.overlap])) for part in parts[1:]} == {repeated}


def test_overlap_gives_way_to_a_long_sentence() -> None:
    short, long = "A b c d e. ", "W" + " w" * 17 + ". "
    parts = split(short + long + short, words, 20, 1)
    assert [(part.text, part.overlap) for part in parts] == [(short, 0), (long, 0), (short, 0)]


def test_overlap_never_reaches_before_the_part_before() -> None:
    """Where two sentences fit only apart, the next part may not overlap with both again."""

    def count(text: str) -> int:
        return len(text) + 11 * (len(text) % 7 == 0)

    text = "Aaa. Aaaaaaa. Aaa. Aaaa. Aaaa. Aaaaaaa. "
    parts = split(text, count, 38, 4)
    assert len(parts) > 2
    check(text, parts, count, 38, 4)


def test_a_long_sentence_is_cut_at_white_space_evenly_and_says_so() -> None:
    short, long = "A short one. ", " ".join(f"w{number}" for number in range(100)) + ". "
    parts = split(short + long + short, words, 40, 1)
    assert [part.cut for part in parts] == [True] * len(parts)
    assert max(part.tokens for part in parts) - min(part.tokens for part in parts) <= 12
    assert all(part.text.endswith(" ") and part.overlap == 0 for part in parts)


def test_after_a_cut_sentence_whole_ones_overlap_again() -> None:
    text = " ".join(["w"] * 50) + ". " + "A b c d e. " * 12
    parts = split(text, words, 30, 1)
    assert [part.cut for part in parts] == sorted((part.cut for part in parts), reverse=True)
    assert parts[-1].overlap == len("A b c d e. ")
    assert not parts[-1].cut


def test_a_word_is_cut_only_where_it_is_too_long() -> None:
    text = "some words " + "x" * 100 + " and more words"
    parts = split(text, characters, 32, 0)
    inside = [part.end for part in parts[:-1] if not part.text.endswith(" ")]
    assert inside
    assert all(11 < place < 111 for place in inside)


@pytest.mark.parametrize(
    ("sequence", "limit"),
    [("e\u0301\u0323", 9), ("👩‍👩‍👧", 14), ("👍🏽", 7), ("क्षि", 9), ("\r\n", 7)],
)
def test_no_part_begins_inside_what_is_shown_as_one_character(sequence: str, limit: int) -> None:
    text = sequence * 40
    parts = split(text, characters, limit)
    check(text, parts, characters, limit, 1)
    assert len(parts) > 10
    for part in parts:
        assert not unicodedata.category(part.text[0]).startswith("M")
        assert part.start % len(sequence) == 0 or sequence == "क्षि"


def test_a_sequence_that_does_not_fit_is_cut_all_the_same() -> None:
    assert [part.text for part in split("e\u0301e\u0301", characters, 3)] == ["e", "\u0301"] * 2


@pytest.mark.parametrize(
    ("text", "limit", "message"),
    [
        ("", 1, "may have 1 tokens, but '' alone has 2 with"),
        ("Hello. There", 2, "may have 2 tokens, but 'H' alone has 3 with .* to 3 or more"),
        ("ab 🙂 cd", 5, "may have 5 tokens, but '🙂' alone has 6 with .* to 6 or more"),
        ("ab", -1, "may have -1 tokens"),
    ],
)
def test_a_limit_too_small_for_one_character_is_refused(
    text: str, limit: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        split(text, utf8_bytes, limit)


def test_a_negative_overlap_is_refused() -> None:
    with pytest.raises(InputError, match="overlap_sentences is -1; pass 0 or more"):
        split("text", characters, 9, -1)


# -- describe


def test_description_of_a_whole_text() -> None:
    assert describe(split("One. Two.", words, 9)) == "The text was read whole, 4 tokens."


def test_description_of_parts() -> None:
    assert describe(split("".join(SENTENCES), words, 22)) == (
        "The text was read in 3 parts of 22, 22 and 22 tokens with 2 overlapping sentences; "
        "no sentence was cut."
    )
    assert describe(split("".join(SENTENCES[:5]), words, 18)).endswith(
        "2 parts of 17 and 17 tokens with 1 overlapping sentence; no sentence was cut."
    )


def test_description_of_many_parts_and_cut_sentences() -> None:
    parts = split("One two. " + "x " * 1000 + "end", words, 52)
    assert describe(parts) == (
        f"The text was read in {len(parts)} parts of {min(part.tokens for part in parts)} to "
        f"{max(part.tokens for part in parts)} tokens with 0 overlapping sentences; "
        f"{len(parts)} of them begin or end inside a sentence, which alone is longer than the "
        "limit."
    )
    assert len(parts) > 20


@settings(deadline=None)
@given(st.lists(FRAGMENTS, max_size=60).map("".join), st.integers(0, 3))
def test_description_counts_the_sentences_that_overlap(text: str, overlap: int) -> None:
    parts = split(text, characters, 30, overlap)
    assume(len(parts) > 1)
    spans = sentence_spans(text)
    repeated = sum(
        part.start <= start and end <= part.start + part.overlap
        for part in parts
        for start, end in spans
    )
    assert f" {repeated} overlapping sentence" in describe(parts)


# -- real text and vocabulary


class Counter:
    """Tokens by BART's own vocabulary, and how often and of how much text they were asked for."""

    def __init__(self, tokenizer: BartTokenizer) -> None:
        self._tokenizer = tokenizer
        self.calls = self.characters = 0

    def __call__(self, text: str) -> int:
        self.calls += 1
        self.characters += len(text)
        return len(self._tokenizer.encode_batch([text])[0]) + 2


@pytest.fixture
def count(shared_data: Path) -> Counter:
    return Counter(BartTokenizer.from_files(shared_data / "bart_vocab"))


@pytest.fixture(scope="module")
def articles(shared_data: Path) -> list[str]:
    path = shared_data / "text" / "scitldr_a_test.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["article"] for line in lines]


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_abstracts_in_parts_of_128_tokens(
    articles: list[str], count: Counter, overlap: int
) -> None:
    results = [split(article, count, 128, overlap) for article in articles]
    calls, sentences = count.calls, sum(len(sentence_spans(article)) for article in articles)
    for article, parts in zip(articles, results, strict=True):
        check(article, parts, count, 128, overlap)
        check_words(article, parts, count, 128)
    assert sum(len(parts) > 1 for parts in results) == 584
    # One sentence of 4,274 has more than 128 tokens: 162.
    assert sum(part.cut for parts in results for part in parts) == 2
    assert calls <= sentences + 4 * sum(map(len, results))
    after = [part for parts in results for part in parts[1:]]
    assert overlap == 0 or sum(part.overlap == 0 for part in after) < 0.1 * len(after)
    spread = sorted(
        min(part.tokens for part in parts) / max(part.tokens for part in parts)
        for parts in results
        if len(parts) > 1
    )
    assert spread[len(spread) // 2] > 0.75


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_several_abstracts_in_parts_of_1024_tokens(
    articles: list[str], count: Counter, overlap: int
) -> None:
    texts = ["\n\n".join(articles[first : first + 12]) for first in range(0, 618, 12)]
    for text in texts:
        parts = split(text, count, 1024, overlap)
        check(text, parts, count, 1024, overlap)
        assert len(parts) > 1
        assert not any(part.cut for part in parts)
        repeated = {len(sentence_spans(part.text[: part.overlap])) for part in parts[1:]}
        assert repeated == {overlap}
        assert min(part.tokens for part in parts) > 0.85 * max(part.tokens for part in parts)


def test_a_megabyte_of_abstracts_is_measured_a_few_times_over(
    articles: list[str], count: Counter
) -> None:
    text = "\n\n".join(articles * 2)
    parts = split(text, count, 1024)
    assert count.characters < 5 * len(text)
    assert count.calls < 1.2 * len(sentence_spans(text))
    assert "".join(part.text[part.overlap :] for part in parts) == text
    assert max(part.tokens for part in parts) <= 1024
    fewest = count(text) / 1024
    assert fewest < len(parts) < 1.07 * fewest


def test_no_stub_where_the_second_half_is_longer_than_estimated(
    articles: list[str], count: Counter
) -> None:
    # What sentences save by standing together differs: a third here, a thirtieth there.
    text = "Hi. " * 30_000 + "\n\n".join(articles[:60])
    parts = split(text, count, 1024)
    assert "".join(part.text[part.overlap :] for part in parts) == text
    assert all(500 < part.tokens <= 1024 for part in parts)
    assert count.calls < len(sentence_spans(text)) + 3 * len(parts)


def test_short_sentences_fill_their_parts(count: Counter) -> None:
    parts = split("Hi. " * 3000, count, 1024)
    assert all(900 < part.tokens <= 1024 for part in parts)


def test_articles_without_capitals_and_full_stops(articles: list[str], count: Counter) -> None:
    text = " ".join(" ".join(articles[:60]).lower().replace(".", "").split())
    assert len(sentence_spans(text)) < 20
    parts = split(text, count, 1024)
    check(text, parts, count, 1024, 1)
    check_words(text, parts, count, 1024)
    assert any(part.cut for part in parts)
    assert min(part.tokens for part in parts) > 0.5 * 1024


@pytest.mark.parametrize(
    "unit", [".", " ", '"', "ab", "Hi. ", "e\u0301\u0301", "🙂", "\n"], ids=ascii
)
def test_hostile_text_is_split_in_good_time(unit: str, count: Counter) -> None:
    text = unit * (200_000 // len(unit))
    began = time.perf_counter()
    parts = split(text, count, 1024)
    # Measured 0.1 to 1 s, most of it in the tokenizer.
    assert time.perf_counter() - began < 20
    assert "".join(part.text[part.overlap :] for part in parts) == text
    assert max(part.tokens for part in parts) <= 1024
    assert count.characters < 8 * len(text)

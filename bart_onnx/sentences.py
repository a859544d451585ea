"""Where the sentences of a text lie, by rules for English prose. It knows no tokens.

A missed end costs little (a longer sentence), a false one tears a sentence: in doubt, no end.
"""

from __future__ import annotations

import re

# A run of marks or of white space is matched possessively and from its first character only, so
# the search is linear in any text.
_MARKS, _WIDE, _CLOSERS = r".!?…", r"。！？｡", r"\"'”’)\]}»›」』】）》〉"
_CANDIDATE = re.compile(
    rf"(?<![{_MARKS}{_WIDE}])(?:"
    rf"(?P<marks>[{_MARKS}]++)[{_CLOSERS}]*+\s++"
    rf"|(?P<wide>[{_MARKS}]*+[{_WIDE}][{_MARKS}{_WIDE}]*+)[{_CLOSERS}]*+\s*+)"
    r"|(?<=\S)[^\S\r\n\u2029]*+[\r\n\u2029]\s*+"
)
_BLANK_LINE = re.compile(r"\u2029|(?>\r\n|\r|\n)[^\S\r\n\u2029]*+[\r\n\u2029]")

_OPENERS = re.compile(r"[\"'“”‘’(\[{«‹「『【（《〈¿¡]*+")
_SIGNS = frozenset("$€£¥#@\\•*")  # begin sentences too: money, tags, formulas, lists
_LETTERS = re.compile(r"[^\W\d_]{0,3}")
_FIRST_WORD = re.compile(r"[^\W\d_]++(?=[\s,'’])")

_LAST_WORD = re.compile(r"[\w.]*+\Z")
_LOOK_BACK = 16  # characters, more than any abbreviation has
_DOTTED = re.compile(r"[^\W\d_]{1,2}(?:\.[^\W\d_]{1,2})++")  # U.S, a.m, Ph.D
_LIST_NUMBER = re.compile(r"\d{1,3}")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEVER_LAST = _words(
    "mr mrs ms mx messrs dr prof rev hon mt sen rep gov gen col lt sgt capt cmdr maj adm pres supt "
    "e.g i.e eg ie cf viz vs approx resp fig figs eq eqs eqn eqns ref refs thm"
)
_BEFORE_NUMBERS = _words(
    "no nos p pp vol vols ch chap sec secs tab ver fig figs eq eqs "
    "jan feb mar apr jun jul aug sep sept oct nov dec"
)
_SOMETIMES_LAST = _words("al inc ltd co corp bros jr sr st dept univ assn ave blvd rd sp spp")
# No surnames among them: "the U.S. The" is two sentences, but "K. He" is a man.
_OPENING_WORDS = _words(
    "A The This That These Those There We It She They Our Its Their His In On At To For From With "
    "By As If When While Although Since Because However Moreover Furthermore Finally But And Then "
    "Thus"
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where each sentence begins and ends; white space belongs to the sentence before it.

    Returns:
        Spans [start, end) in characters, in order, none empty, that cover the text without gap
        or overlap; none for an empty text.
    """
    spans, start = [], 0
    for candidate in _CANDIDATE.finditer(text):
        end = candidate.end()
        if end < len(text) and _ends_sentence(text, start, candidate):
            spans.append((start, end))
            start = end
    if start < len(text):
        spans.append((start, len(text)))
    return spans


def _ends_sentence(text: str, start: int, candidate: re.Match[str]) -> bool:
    if candidate["wide"] or _BLANK_LINE.search(text, candidate.start(), candidate.end()):
        return True
    if not candidate["marks"]:
        return False
    opened = _OPENERS.match(text, candidate.end())
    begin = opened.end() if opened else candidate.end()
    if not _begins_sentence(text, begin):
        return False
    return candidate["marks"] != "." or not _is_abbreviation(text, start, candidate.start(), begin)


def _begins_sentence(text: str, begin: int) -> bool:
    first = text[begin : begin + 1]
    if first.islower():
        letters = _LETTERS.match(text, begin + 1)  # iCaRL, mRNA
        return letters is not None and any(letter.isupper() for letter in letters[0])
    return first.isalnum() or first in _SIGNS


def _is_abbreviation(text: str, start: int, dot: int, begin: int) -> bool:
    """Whether the dot belongs to its word alone, given what follows at `begin`."""
    before = text[max(start, dot - _LOOK_BACK) : dot]
    last = _LAST_WORD.search(before)
    word = last[0].lstrip(".") if last else ""
    if _LIST_NUMBER.fullmatch(word):
        line = before[: -len(word)].rstrip(" \t")
        return not line or line[-1] in "\r\n"
    lower, acronym = word.lower(), len(word) > 1 and word.isupper()
    if lower in _BEFORE_NUMBERS and text[begin].isdigit():
        return True
    if lower in _NEVER_LAST and not acronym:
        return True
    initial = len(word) == 1 and word.isupper()
    if not (initial or lower in _SOMETIMES_LAST or _DOTTED.fullmatch(word)):
        return False
    following = _FIRST_WORD.match(text, begin)
    return following is None or following[0] not in _OPENING_WORDS

"""Sentence ends by rule: made-up cases, any text, 618 abstracts, and text made to be slow."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bart_onnx.sentences import sentence_spans

# "|" stands where a sentence ends.
CASES = [
    "",
    "   ",
    "no end at all",
    "One. |Two! |Three? |Four… |Five",
    "Runs?! |Of marks... |Then. ",
    "  A blank before. |And after.  \n",
    'He said "Stop." |Then he left. |“Go!” |(It rained.) |[Really?] |End',
    'Next "quoted." |"Quoted" begins. |(So does this.) |‘And this.’ |«Et ceci.»',
    '"Really?" he asked. |"Yes!" she cried.',
    "Mr. Smith met Dr. Jones and Prof. Lee. |They spoke.",
    "Some, e.g. BERT, or i.e. Transformers, cf. Fig. 3 and Eq. (4) vs. Others. |End.",
    "As Vaswani et al. (2017) and Yin et al. Transformer models show. |End.",
    "We follow Vaswani et al. |The rest is new.",
    "The U.S. Army left the U.S. |The U.K. stayed at 5 p.m. |It was late.",
    "J. K. Rowling and K. He wrote. |George W. Bush read.",
    "He has a Ph.D. |But Acme Inc. Chief Executive Jr. Smith has none.",
    "From X to Y. |The rest. |A variable x. |Experiments follow.",
    "He took it. |Experts said no. |Others, on Jan. 5 and at No. 10, said yes.",
    "Diagnosed with MS. |Patients of DR. |Others.",
    "Pi is 3.14 and e is 2.71828. |It costs 1.5. |$5 is 5.0 dollars. |3 remain.",
    "Version 1.2.3 of foo.py at example.com/a.b? |Yes.",
    "Scores fell. |iCaRL and mRNA rose. |mRNA too. and this goes on",
    "a lower-case. word, and etc. too. |中文 follows",
    "Title without a mark\n\n|the text\nof two lines. and more\r\n \r\n|end\u2029|really",
    "One line\r\nand another\rand a third\n",
    "Properties: \n\n|1. All minima. |2. All maxima.\n|3. Third, in 2017. |12. Twelve in all",
    "日本語。|次の文です！|「はい。」|本当？！|English. |終わり",
    "It ends.)”’ |\\textbf{Formulas} begin. |#tags too. |• And points.",
    "Bonjour. |Été arrive. |Привет. мир",
    ". . . ",
]
WORDS = ["The cat sat", "it", "U.S", "Mr", "e.g", "J", "1", "12", "3.14", "é", "e\u0301", "中文"]
SPACES = [" ", "  ", "\n", "\r\n", "\n\n", "\t", "\u2029", "\u00a0", ". ", ". The "]
FRAGMENTS = st.sampled_from([*WORDS, *SPACES, *".!?…。！\"')”(“「」-,$"])
TEXTS = st.one_of(st.text(), st.lists(FRAGMENTS, max_size=40).map("".join))


@pytest.mark.parametrize("marked", CASES)
def test_made_up_text_is_cut_where_it_says(marked: str) -> None:
    text = marked.replace("|", "")
    assert [text[start:end] for start, end in sentence_spans(text)] == [
        sentence for sentence in marked.split("|") if sentence
    ]


@settings(deadline=None)
@given(TEXTS)
def test_sentences_tile_any_text(text: str) -> None:
    spans = sentence_spans(text)
    assert all(start < end for start, end in spans)
    assert [0, *(end for _, end in spans)] == [*(start for start, _ in spans), len(text)]
    for start, _ in spans[1:]:
        assert not text[start].isspace(), "white space belongs to the sentence before"


@settings(deadline=None)
@given(TEXTS, st.data())
@example("a。「b。」. C. d", None)
def test_sentences_cut_out_are_the_same_sentences(text: str, data: st.DataObject | None) -> None:
    spans = sentence_spans(text)
    if not spans:
        return
    picks = st.integers(0, len(spans) - 1)
    ranges = (
        [sorted((data.draw(picks), data.draw(picks)))]
        if data
        else [[i, j] for i in range(len(spans)) for j in range(i, len(spans))]
    )
    for first, last in ranges:
        offset = spans[first][0]
        alone = sentence_spans(text[offset : spans[last][1]])
        assert [(offset + start, offset + end) for start, end in alone] == spans[first : last + 1]


def test_abstracts_are_cut_at_plausible_places(shared_data: Path) -> None:
    lines = (shared_data / "text" / "scitldr_a_test.jsonl").read_text(encoding="utf-8").splitlines()
    articles = [json.loads(line)["article"] for line in lines]
    assert len(articles) == 618
    sentences = [
        article[start:end] for article in articles for start, end in sentence_spans(article)
    ]
    words = sorted(len(sentence.split()) for sentence in sentences)
    # When written: 4,274, whose odd ends had been read one by one.
    assert 4200 <= len(sentences) <= 4350
    assert 20 <= words[len(words) // 2] <= 25
    torn = ("et al. ", "e.g. ", "i.e. ", "Fig. ", " vs. ", "(e.g., ", "Eq. ")
    assert [sentence for sentence in sentences if sentence.endswith(torn)] == []
    joined = [sentence for sentence in sentences if re.search(r"\. (We|The|In) ", sentence)]
    assert [sentence[:6] for sentence in joined] == ["3. The"]


@pytest.mark.parametrize(
    "unit",
    [
        *(".", " ", '"', '."', '. "', ". ", "\n \r", "a.", "A. ", "1. ", "a\n", "a", "J.K."),
        *("。", "。」", ".。", ". " + "(" * 1000, ". " + " " * 1000),
        *("." * 1000 + "a", "\n" + " " * 1000 + "a"),
    ],
    ids=ascii,
)
def test_a_megabyte_of_anything_takes_linear_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    began = time.perf_counter()
    spans = sentence_spans(text)
    # Measured 0.01 to 1.2 s; a search that looks back over the text takes hours.
    assert time.perf_counter() - began < 10
    assert spans[-1][1] == len(text)


@pytest.mark.parametrize(
    "opening", [". " + '"' * 1_000_000, ". " + "(" * 1_000_000, "." * 1_000_000]
)
def test_one_run_of_a_million_marks_takes_linear_time(opening: str) -> None:
    began = time.perf_counter()
    assert sentence_spans(opening) == [(0, len(opening))]
    assert time.perf_counter() - began < 10

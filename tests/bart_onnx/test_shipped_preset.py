"""bart_tiny_en_g2p, the preset that comes with this package: its words, size and card."""

from __future__ import annotations

from pathlib import Path

import pytest

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.store import shipped_path

WORDS = Path(__file__).resolve().parents[1] / "data" / "words.txt"


@pytest.fixture(scope="module")
def lm():
    lm = OnnxBartSeq2SeqLM.from_preset("bart_tiny_en_g2p", offline=True)
    lm.compile(sampler="greedy")
    return lm


def words():
    lines = WORDS.read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines]


def test_a_thousand_words_are_pronounced_as_written_down(lm):
    rows = words()
    assert len(rows) == 1000
    assert lm.generate([word for word, _ in rows]) == [phonemes for _, phonemes in rows]


def test_a_word_is_the_same_alone(lm):
    for word, phonemes in words()[::97]:
        assert lm.generate(word) == phonemes


def test_it_is_small():
    directory = shipped_path("bart_tiny_en_g2p")
    assert sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) < 5_000_000
    assert {path.name for path in directory.iterdir()} >= {
        "README.md",
        "training.jsonl",
        "curve.png",
    }


def test_it_has_at_most_a_million_parameters(lm):
    assert lm.count_params() <= 1_000_000


def test_it_is_no_copy_of_the_held_out_words(lm, shared_data):
    """Word error rate on every 20th held-out word; all of them: scripts/judge_g2p.py."""
    lines = (shared_data / "g2p_bart" / "en_us_heldout.tsv").read_text(encoding="utf-8").split("\n")
    rows = [line.split("\t") for line in lines if line][::20]
    found = lm.generate([word for word, _ in rows])
    wrong = sum(ours != theirs for ours, (_, theirs) in zip(found, rows, strict=True))
    assert 10 < 100 * wrong / len(rows) < 25

"""A real trained BART: the phonemes of held-out words, and the tokens of the original.

The whole of it is `scripts/evaluate_g2p.py`; this takes every 20th word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BartForConditionalGeneration

from bart_onnx import OnnxBartSeq2SeqLM
from exporters.export import export

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def evaluate_g2p() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield __import__("evaluate_g2p")


@dataclass(frozen=True)
class G2p:
    """The model, opened here and by transformers, and its character tables."""

    lm: OnnxBartSeq2SeqLM
    judge: Any
    characters: Any


@pytest.fixture(scope="module")
def g2p(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory, evaluate_g2p: ModuleType
) -> G2p:
    checkpoint = shared_data / "g2p_bart" / "en_us"
    bundle = export(str(checkpoint), tmp_path_factory.mktemp("g2p") / "b", show_progress=False)
    lm = OnnxBartSeq2SeqLM.from_preset(bundle, preprocessor=None)
    judge = BartForConditionalGeneration.from_pretrained(checkpoint).eval()
    return G2p(lm, judge, evaluate_g2p.Characters.read(checkpoint))


def test_known_words(g2p: G2p, evaluate_g2p: ModuleType) -> None:
    words = ["hello", "summarization", "onnx"]
    expected = ["hˈɛlO", "sˌʌməɹəzˈAʃən", "ˈɑnŋks"]
    assert evaluate_g2p.pronounce(g2p.lm, g2p.characters, words) == expected
    found = g2p.lm.generate(g2p.characters.encode(["hello"]), max_new_tokens=60)
    ids = found["decoder_token_ids"][found["decoder_padding_mask"]]
    assert ids.tolist() == [1, 1, 12, 45, 32, 16, 6, 2]


@pytest.mark.parametrize(("num_beams", "wrong"), [(1, 92), (4, 94)])
def test_a_sample_of_the_held_out_words(
    g2p: G2p, evaluate_g2p: ModuleType, shared_data: Path, num_beams: int, wrong: int
) -> None:
    """Every token is transformers', and the error rates follow."""
    rows = evaluate_g2p.read_words(shared_data / "g2p_bart" / "en_us_heldout.tsv")
    assert len(rows) == 9350
    sample = evaluate_g2p.spread(rows, 468)
    inputs = g2p.characters.encode([word for word, _ in sample])
    found = g2p.lm.generate(inputs, num_beams=num_beams, max_new_tokens=60)
    with torch.inference_mode():
        expected = g2p.judge.generate(
            torch.from_numpy(inputs["encoder_token_ids"]).long(),
            attention_mask=torch.from_numpy(inputs["encoder_padding_mask"]).long(),
            num_beams=num_beams,
            max_new_tokens=60,
            do_sample=False,
        ).numpy()
    counts = found["decoder_padding_mask"]
    np.testing.assert_array_equal(found["decoder_token_ids"][counts], expected[counts])
    assert np.isin(expected[~counts], (evaluate_g2p.PAD, evaluate_g2p.END)).all()
    phonemes = [g2p.characters.decode(ids) for ids in expected]
    rates = evaluate_g2p.error_rates(phonemes, [phonemes for _, phonemes in sample])
    assert rates["wrong_words"] == wrong


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)],
)
def test_edit_distance(evaluate_g2p: ModuleType, first: str, second: str, distance: int) -> None:
    assert evaluate_g2p.edit_distance(first, second) == distance

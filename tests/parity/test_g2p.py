"""A real trained BART: the phonemes of held-out words, and the figures of the original.

The whole of it is `scripts/evaluate_g2p.py`; this takes every 20th word.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from bart_onnx import OnnxBartSeq2SeqLM
from exporters.export import export

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "evaluate_g2p.py"


@pytest.fixture(scope="module")
def evaluate_g2p():
    spec = importlib.util.spec_from_file_location("evaluate_g2p", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["evaluate_g2p"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(shared_data, tmp_path_factory, evaluate_g2p):
    checkpoint = shared_data / "g2p_bart" / "en_us"
    bundle = export(str(checkpoint), tmp_path_factory.mktemp("g2p") / "b", show_progress=False)
    lm = OnnxBartSeq2SeqLM.from_preset(bundle, preprocessor=None)
    lm.compile(sampler="greedy")
    return lm, evaluate_g2p.Characters.read(checkpoint)


def test_known_words(model, evaluate_g2p):
    lm, characters = model
    words = ["hello", "summarization", "onnx"]
    assert evaluate_g2p.pronounce(lm, characters, words) == ["hˈɛlO", "sˌʌməɹəzˈAʃən", "ˈɑnŋks"]
    found = lm.generate(characters.encode(["hello"]), stop_token_ids=(2,))
    ids = found["decoder_token_ids"][found["decoder_padding_mask"]]
    assert ids.tolist() == [1, 1, 12, 45, 32, 16, 6, 2]


def test_a_sample_of_the_held_out_words(model, evaluate_g2p, shared_data):
    lm, characters = model
    rows = evaluate_g2p.read_words(shared_data / "g2p_bart" / "en_us_heldout.tsv")
    assert len(rows) == 9350
    sample = rows[::20]
    found = evaluate_g2p.pronounce(lm, characters, [word for word, _ in sample])
    rates = evaluate_g2p.error_rates(found, [phonemes for _, phonemes in sample])
    transformers = pytest.importorskip("transformers", reason="transformers is the judge here")
    import torch

    judge = transformers.BartForConditionalGeneration.from_pretrained(
        shared_data / "g2p_bart" / "en_us"
    ).eval()
    inputs = characters.encode([word for word, _ in sample])
    with torch.inference_mode():
        ids = judge.generate(
            torch.from_numpy(inputs["encoder_token_ids"]).long(),
            attention_mask=torch.from_numpy(inputs["encoder_padding_mask"]).long(),
            max_new_tokens=60,
            do_sample=False,
            num_beams=1,
        ).numpy()
    assert found == [characters.decode(row) for row in ids]
    assert 15 < rates["wer"] < 25


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)],
)
def test_edit_distance(evaluate_g2p, first, second, distance):
    assert evaluate_g2p.edit_distance(first, second) == distance

"""Examples of documentation, run: KerasNLP's page for BartSeq2SeqLM, and clients of the server.

"bart_large_en" is the tiny bundle here; nothing else is changed but what its page gets wrong. The
clients' examples are blocks of docs/serving.md, which print what the block after each says.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from test_readme import blocks_of

from bart_onnx import models, samplers
from bart_onnx.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SERVING = ROOT / "docs" / "serving.md"
# Where that page's server listens.
ADDRESS = "127.0.0.1:8000"


@pytest.fixture
def preset(tiny_bundle):
    return str(tiny_bundle)


@pytest.fixture
def lm(preset):
    lm = models.BartSeq2SeqLM.from_preset(preset)
    lm.preprocessor.encoder_sequence_length = lm.preprocessor.decoder_sequence_length = 20
    return lm


def test_use_generate_to_do_text_generation(lm):
    assert isinstance(lm.generate("the quick red fox", max_length=20), str)
    several = lm.generate(["the red dog", "two cat sat on the box"], max_length=20)
    assert [type(text) for text in several] == [str, str]


def test_compile_the_generate_function_with_a_custom_sampler(lm):
    lm.compile(sampler="greedy")
    assert lm.generate("the fox", max_length=20) == "fox the"
    lm.compile(sampler=samplers.BeamSampler(num_beams=2))
    assert isinstance(lm.generate("the fox", max_length=20), str)


def test_use_generate_with_encoder_inputs_and_an_incomplete_decoder_input(lm):
    lm.compile(sampler="greedy")
    prompted = lm.generate({"encoder_text": "the quick red dog ran and sat", "decoder_text": "box"})
    assert prompted == "box dog red ran quick"


def test_use_generate_without_preprocessing(preset):
    lm = models.BartSeq2SeqLM.from_preset(preset, preprocessor=None)
    lm.compile(sampler="greedy")
    prompt = {
        "encoder_token_ids": np.array([[0, 262, 277, 293, 2, 1, 1]]),
        "encoder_padding_mask": np.array([[1, 1, 1, 1, 1, 0, 0]]),
        "decoder_token_ids": np.array([[2, 0, 1, 1, 1, 1, 1, 1, 1, 1]]),
        "decoder_padding_mask": np.array([[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]]),
    }
    found = lm.generate(prompt, stop_token_ids=(2,))
    assert found["decoder_token_ids"][0, :8].tolist() == [2, 0, 115, 106, 277, 293, 262, 2]
    # The page's own arrays: seven decoder ids beside a mask of six.
    prompt["decoder_padding_mask"] = prompt["decoder_padding_mask"][:, :9]
    with pytest.raises(InputError, match=r"decoder_token_ids.*decoder_padding_mask"):
        lm.generate(prompt, stop_token_ids=(2,))


def test_call_fit_on_a_single_batch(lm):
    features = {
        "encoder_text": ["the quick fox jumped.", "two cat sat."],
        "decoder_text": ["the fox.", "cat two."],
    }
    before = lm.backbone.weights["token_embedding"]()
    history = lm.fit(x=features, batch_size=2, verbose=0)
    assert set(history.history) == {"loss", "sparse_categorical_accuracy"}
    assert not np.array_equal(lm.backbone.weights["token_embedding"](), before)


def test_call_fit_without_preprocessing(preset):
    x = {
        "encoder_token_ids": np.array([[0, 133, 103, 2, 1]] * 2),
        "encoder_padding_mask": np.array([[1, 1, 1, 1, 0]] * 2),
        "decoder_token_ids": np.array([[2, 0, 133, 269, 1]] * 2),
        "decoder_padding_mask": np.array([[1, 1, 1, 1, 0]] * 2),
    }
    y = np.array([[0, 133, 269, 2, 1]] * 2)
    sw = np.array([[1, 1, 1, 1, 0]] * 2)
    lm = models.BartSeq2SeqLM.from_preset(preset, preprocessor=None)
    history = lm.fit(x=x, y=y, sample_weight=sw, batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_custom_backbone_and_vocabulary():
    features = {
        "encoder_text": [" afternoon sun"],
        "decoder_text": ["noon sun"],
    }
    # The page's vocabulary lacks what its merges make, and its backbone has 50,265 tokens for it.
    vocab = {"<s>": 0, "<pad>": 1, "</s>": 2, "Ġafter": 5, "noon": 6, "Ġsun": 7}
    letters = ["Ġ", "a", "f", "t", "e", "r", "n", "o", "s", "u"]
    parts = ["Ġa", "Ġaf", "Ġaft", "Ġafte", "no", "noo", "Ġs", "Ġsu"]
    vocab |= {token: 8 + index for index, token in enumerate(letters + parts)}
    merges = ["Ġ a", "Ġ s", "n o", "Ġa f", "Ġaf t", "Ġaft e", "Ġafte r"]
    merges += ["no o", "noo n", "Ġs u", "Ġsu n"]
    tokenizer = models.BartTokenizer(vocabulary=vocab, merges=merges)
    preprocessor = models.BartSeq2SeqLMPreprocessor(
        tokenizer=tokenizer, encoder_sequence_length=128, decoder_sequence_length=128
    )
    backbone = models.BartBackbone(
        vocabulary_size=max(vocab.values()) + 1,
        num_layers=2,
        num_heads=4,
        hidden_dim=32,
        intermediate_dim=64,
        max_sequence_length=128,
        seed=0,  # so that what it learns is the same in every run
    )
    lm = models.BartSeq2SeqLM(backbone=backbone, preprocessor=preprocessor)
    lm.compile(optimizer="adam", sampler="greedy")
    lm.fit(x=features, batch_size=1, epochs=150, verbose=0)
    assert lm.generate(" afternoon sun", max_length=12) == "noon sun"


def test_a_base_class_gives_the_right_subclass(preset):
    assert isinstance(models.Seq2SeqLM.from_preset(preset), models.BartSeq2SeqLM)
    assert isinstance(models.CausalLM.from_preset(preset), models.BartSeq2SeqLM)
    assert isinstance(models.Backbone.from_preset(preset), models.BartBackbone)
    assert isinstance(models.Tokenizer.from_preset(preset), models.BartTokenizer)
    preprocessor = models.Seq2SeqLMPreprocessor.from_preset(preset)
    assert isinstance(preprocessor, models.BartSeq2SeqLMPreprocessor)
    for base in (models.Task, models.Preprocessor):
        with pytest.raises(ValueError, match="BartSeq2SeqLM"):
            base.from_preset(preset)


def test_the_names_of_keras_nlp_are_there():
    assert models.BartSeq2SeqLM.presets.keys() >= {"bart_base_en", "bart_large_en_cnn"}
    assert models.BartSeq2SeqLM is models.OnnxBartSeq2SeqLM
    names = ("Greedy", "TopK", "TopP", "Random", "Beam", "Contrastive")
    assert all(hasattr(samplers, f"{name}Sampler") for name in names)


def clients_examples():
    """Blocks that ask a server, and what they print."""
    blocks = list(blocks_of(SERVING.read_text(encoding="utf-8")))
    return [
        pytest.param(block, printed.text, id=str(block))
        for block, printed in pairwise(blocks)
        if printed.language == "text" and ADDRESS in block.text
    ]


@pytest.fixture(scope="module")
def address():
    pytest.importorskip("uvicorn", reason="the serve extra is not installed: no uvicorn")
    from server_process import running

    with running() as server:
        yield server.url.removeprefix("http://")


def interpreter_of(block):
    """What runs a block; the test is skipped where that is not there."""
    if block.language == "bash":
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        return ["bash", "-eu"]
    for package in ("openai", "huggingface_hub", "tritonclient"):
        if package in block.text:
            pytest.importorskip(package, reason=f"{package} is not installed")
    return [sys.executable, "-"]


def test_every_client_has_an_example():
    text = "".join(example.values[0].text for example in clients_examples())
    assert all(name in text for name in ("curl", "openai", "huggingface_hub", "tritonclient"))


@pytest.mark.parametrize(("block", "printed"), clients_examples())
def test_an_example_of_a_client(address, block, printed):
    done = subprocess.run(
        interpreter_of(block),
        input=block.text.replace(ADDRESS, address),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line.rstrip() for line in done.stdout.strip().splitlines()] == [
        line.rstrip() for line in printed.strip().splitlines()
    ]

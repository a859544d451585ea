"""The step graph against transformers, for every variant of checkpoint that can be made.

transformers 5.23 judges: logits within 1e-4 in float32, whole and step by step, and so the
cross-attention of every layer and head.
"""

from __future__ import annotations

import numpy as np
import pytest

transformers = pytest.importorskip("transformers", reason="transformers is the judge here")
torch = pytest.importorskip("torch", reason="transformers runs on torch")

from bart_onnx.bundle import Bundle  # noqa: E402
from bart_onnx.graphs import CROSS_ATTENTION, LOGITS  # noqa: E402
from bart_onnx.runners.ort import OrtRunner  # noqa: E402
from exporters.export import export  # noqa: E402

SMALL = {
    "vocab_size": 120,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 40,
    "init_std": 0.2,
}
VARIANTS = {
    "plain": {},
    "distilled": {"encoder_layers": 3, "decoder_layers": 1},
    "unequal_heads": {"encoder_attention_heads": 2, "decoder_attention_heads": 8},
    "unequal_widths": {"encoder_ffn_dim": 96, "decoder_ffn_dim": 48},
    "scaled": {"scale_embedding": True},
    "other_ids": {"pad_token_id": 0, "bos_token_id": 1, "decoder_start_token_id": 1},
    "biased": {},
    "untied": {"tie_word_embeddings": False},
    "float16": {},
    "bfloat16": {},
}


def make_checkpoint(variant, directory):
    """A checkpoint that transformers writes; the model that transformers reads back from it."""
    torch.manual_seed(0)
    config = transformers.BartConfig(**{**SMALL, **VARIANTS[variant]})
    model = transformers.BartForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.2)
        if variant == "untied":
            # transformers unties all three embeddings; a BART has one, and perhaps another head.
            for side in (model.model.encoder, model.model.decoder):
                side.embed_tokens.weight.copy_(model.model.shared.weight)
        if variant == "biased":
            model.final_logits_bias.normal_(0, 3)
    if variant in ("float16", "bfloat16"):
        model = model.to(getattr(torch, variant))
    model.save_pretrained(directory)
    return transformers.BartForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float32
    ).eval()


def judge(model, sources, lengths, tokens):
    """Logits of the whole decoder sequence in one pass of transformers."""
    mask = torch.arange(sources.shape[1]) < torch.from_numpy(lengths)[:, None]
    with torch.inference_mode():
        return model(
            input_ids=torch.from_numpy(sources),
            attention_mask=mask.long(),
            decoder_input_ids=torch.from_numpy(tokens),
        ).logits.numpy()


def judge_of_attention(model, sources, lengths, tokens):
    """Cross-attentions [rows, layers, heads, length, source_length] in one pass of transformers."""
    model.set_attn_implementation("eager")  # no other keeps them
    mask = torch.arange(sources.shape[1]) < torch.from_numpy(lengths)[:, None]
    with torch.inference_mode():
        layers = model(
            input_ids=torch.from_numpy(sources),
            attention_mask=mask.long(),
            decoder_input_ids=torch.from_numpy(tokens),
            output_attentions=True,
        ).cross_attentions
    return torch.stack(layers, dim=1).numpy()


def by_steps(runner, sources, lengths, tokens, steps):
    state = runner.encode(sources, lengths)
    pieces, start = [], 0
    for count in steps:
        fed = tokens[:, start : start + count]
        pieces.append(runner.step(state, fed, (LOGITS,))[LOGITS].copy())
        start += count
    return np.concatenate(pieces, axis=1)


def example(vocabulary_size):
    random = np.random.default_rng(5)
    sources = random.integers(3, vocabulary_size, (4, 30))
    tokens = random.integers(3, vocabulary_size, (4, 24))
    return sources, np.array([30, 1, 17, 8]), tokens


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_logits_equal_transformers(variant, tmp_path):
    model = make_checkpoint(variant, tmp_path / "checkpoint")
    bundle = export(str(tmp_path / "checkpoint"), tmp_path / "bundle", show_progress=False)
    runner = OrtRunner(Bundle.open(bundle))
    sources, lengths, tokens = example(runner.config.vocabulary_size)
    expected = judge(model, sources, lengths, tokens)
    for steps in ([24], [1] * 24, [2, 1, 7, 1, 13]):
        found = by_steps(runner, sources, lengths, tokens, steps)
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0, err_msg=str(steps))


@pytest.mark.parametrize("variant", ["plain", "distilled", "unequal_heads"])
def test_cross_attention_equals_transformers(variant, tmp_path):
    model = make_checkpoint(variant, tmp_path / "checkpoint")
    bundle = export(str(tmp_path / "checkpoint"), tmp_path / "bundle", show_progress=False)
    runner = OrtRunner(Bundle.open(bundle))
    for beams, steps in ((1, [9]), (1, [1] * 9), (3, [9]), (3, [1] * 9), (3, [2, 1, 6])):
        check_cross_attention(model, runner, beams, steps)


def check_cross_attention(model, runner, beams, steps):
    sources, lengths, _ = example(runner.config.vocabulary_size)
    tokens = np.random.default_rng(6).integers(3, 120, (4 * beams, 9))
    tokens[:, 0] = 2
    expected = judge_of_attention(
        model, np.repeat(sources, beams, 0), np.repeat(lengths, beams), tokens
    )
    state = runner.encode(sources, lengths)
    state.expand(beams)
    start = 0
    for count in steps:
        fed = slice(start, start + count)
        found = runner.step(state, tokens[:, fed], (CROSS_ATTENTION,))[CROSS_ATTENTION]
        np.testing.assert_allclose(found[..., :30], expected[..., fed, :], atol=1e-5, rtol=0)
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
        for row, length in enumerate(np.repeat(lengths, beams)):
            assert (found[row, ..., length:] == 0).all()
        start += count


@pytest.mark.parametrize(
    ("checkpoint", "file", "key"),
    [
        ("hf_checkpoint", "forward.npz", "logits"),
        ("hf_checkpoint", "forward.npz", "hf_logits"),
        ("hf_variants/decoder_embed_tokens_only", None, "logits"),
        ("hf_variants/scale_embedding", None, "logits"),
    ],
)
def test_golden_logits(checkpoint, file, key, golden, tmp_path):
    """Logits that KerasHub 0.32 ("logits" of forward.npz) and transformers 5.23 wrote down."""
    expected = np.load(golden / file if file else golden / checkpoint / "logits.npz")
    bundle = export(str(golden / checkpoint), tmp_path / "bundle", show_progress=False)
    sources, tokens = (
        expected[f"{side}_token_ids"].astype(np.int64) for side in ("encoder", "decoder")
    )
    lengths = expected["encoder_padding_mask"].astype(bool).sum(axis=1)
    real = expected["decoder_padding_mask"].astype(bool)
    runner = OrtRunner(Bundle.open(bundle))
    found = by_steps(runner, sources, lengths, tokens, [2] + [1] * (tokens.shape[1] - 2))
    np.testing.assert_allclose(found[real], expected[key][real], atol=1e-4, rtol=0)

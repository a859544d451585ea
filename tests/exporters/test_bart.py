"""The torch module: n steps equal one pass, and training reaches every weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import VARIANTS, random_checkpoint

from bart_onnx.graphs import CROSS_ATTENTION, LOGITS
from exporters.alignment import cross_attention
from exporters.bart import Bart
from exporters.verify import full_pass


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_steps_equal_one_pass(variant):
    config = VARIANTS[variant]
    bart = Bart.from_weights(config, random_checkpoint(config).weights)
    random = np.random.default_rng(1)
    sources = random.integers(config.vocabulary_size, size=(3, 7))
    lengths = np.array([7, 1, 4])
    tokens = random.integers(config.vocabulary_size, size=(3, 6))
    whole = full_pass(bart, sources, lengths, tokens)
    with torch.inference_mode():
        _, cross = bart.encode(torch.from_numpy(sources), torch.from_numpy(lengths))
        shape = (3, config.decoder.num_heads, 16, config.decoder_head_dim)
        caches = []
        for key, value in zip(cross[::2], cross[1::2], strict=True):
            caches += [torch.zeros(shape), torch.zeros(shape), key, value]
        start = 0
        for count in (2, 1, 3):
            fed = torch.from_numpy(tokens[:, start : start + count])
            positions = torch.arange(start, start + count).expand(3, count)
            past = torch.full((3,), start)
            logits, _, updated, queries = bart.decode(
                fed, positions, past, torch.from_numpy(lengths), caches
            )
            for index, cache in enumerate(updated):
                caches[4 * (index // 2) + index % 2] = cache
            weighed = cross_attention(queries, cross[::2], torch.from_numpy(lengths))
            for name, found in ((LOGITS, logits), (CROSS_ATTENTION, weighed)):
                expected = whole[name][..., start : start + count, :]
                np.testing.assert_allclose(found.numpy(), expected, atol=1e-4, rtol=0)
            start += count


def test_every_weight_gets_a_gradient():
    config = VARIANTS["unequal_sides"]
    bart = Bart.from_weights(config, random_checkpoint(config).weights).train()
    tokens = torch.arange(12).reshape(2, 6)
    _, cross = bart.encode(tokens, torch.tensor([6, 3]))
    empty = torch.zeros(2, config.decoder.num_heads, 6, config.decoder_head_dim)
    positions, past = torch.arange(6).expand(2, 6), torch.zeros(2, dtype=torch.int64)
    logits, _, _, _ = bart.decode(
        tokens, positions, past, torch.tensor([6, 3]), [empty, empty, *cross]
    )
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    still = [name for name, weight in bart.named_parameters() if not weight.grad.abs().sum() > 0]
    # Adding one number to every key moves no softmax, so a key's bias learns nothing (its columns
    # of the packed bias do not, the others do).
    assert still == []

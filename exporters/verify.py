"""A new bundle against the torch module: what it decodes must be what torch computes.

Torch runs first and is let go before a session opens, so that the weights are in memory once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bart_onnx.bundle import Bundle
from bart_onnx.errors import ExportError
from bart_onnx.graphs import CROSS_ATTENTION, LOGITS
from bart_onnx.runners.ort import OrtRunner
from exporters.alignment import cross_attention
from exporters.bart import Bart
from exporters.checkpoints.checkpoint import Checkpoint

# Largest difference of a value, as a share of the largest value (at least 1).
_TOLERANCES = {"fp32": 1e-4}

# Tokens fed in each step: a prompt, one token, then two at once.
_STEPS = (3, 1, 2)


# The outputs that are compared, as people call them.
_COMPARED = {LOGITS: "logits", CROSS_ATTENTION: "cross-attentions"}


@dataclass(frozen=True)
class Reference:
    """Token ids, and what torch computes for them in one pass.

    Attributes:
        encoder_token_ids: int64 [2, source_length], the second row shorter.
        encoder_lengths: int64 [2].
        decoder_token_ids: int64 [2, steps].
        outputs: float32, `full_pass` of these.
    """

    encoder_token_ids: NDArray[np.int64]
    encoder_lengths: NDArray[np.int64]
    decoder_token_ids: NDArray[np.int64]
    outputs: Mapping[str, NDArray[np.float32]]


def reference_run(checkpoint: Checkpoint) -> Reference:
    """What the torch module, with the checkpoint's own weights, says to random tokens."""
    config = checkpoint.config
    random = np.random.default_rng(0)
    length = min(24, config.max_sequence_length)
    encoder_token_ids = random.integers(config.vocabulary_size, size=(2, length))
    encoder_lengths = np.array([length, max(1, length // 2)])
    steps = min(sum(_STEPS), config.max_sequence_length)
    decoder_token_ids = random.integers(config.vocabulary_size, size=(2, steps))
    bart = Bart.from_weights(config, checkpoint.weights)
    outputs = full_pass(bart, encoder_token_ids, encoder_lengths, decoder_token_ids)
    return Reference(encoder_token_ids, encoder_lengths, decoder_token_ids, outputs)


def full_pass(
    bart: Bart,
    encoder_token_ids: NDArray[np.int64],
    encoder_lengths: NDArray[np.int64],
    decoder_token_ids: NDArray[np.int64],
) -> dict[str, NDArray[np.float32]]:
    """LOGITS and CROSS_ATTENTION of all decoder tokens in one pass of the torch module.

    Their axes are those of `bart_onnx.graphs`.
    """
    config = bart.config
    sources, lengths, tokens = (
        torch.from_numpy(array) for array in (encoder_token_ids, encoder_lengths, decoder_token_ids)
    )
    rows, length = tokens.shape
    with torch.inference_mode():
        _, cross = bart.encode(sources, lengths)
        empty = torch.zeros(rows, config.decoder.num_heads, length, config.decoder_head_dim)
        caches = [
            cache
            for key, value in zip(cross[::2], cross[1::2], strict=True)
            for cache in (empty, empty, key, value)
        ]
        positions = torch.arange(length).expand(rows, length)
        past = torch.zeros(rows, dtype=torch.int64)
        logits, _, _, queries = bart.decode(tokens, positions, past, lengths, caches)
        weighed = cross_attention(queries, cross[::2], lengths)
    return {LOGITS: logits.numpy(), CROSS_ATTENTION: weighed.numpy()}


def verify(bundle: Bundle, reference: Reference) -> dict[str, Any]:
    """Decode the reference's tokens step by step from the bundle, and compare.

    Returns:
        The figures, for the manifest.

    Raises:
        ExportError: an output is off by more than the precision's tolerance, or is no number.
    """
    found = _decode(OrtRunner(bundle), reference)
    compared = {
        name: _compare(called, found[name], reference.outputs[name], _TOLERANCES[bundle.precision])
        for name, called in _COMPARED.items()
    }
    return {**compared, "decoder_tokens": int(reference.decoder_token_ids.size)}


def _compare(
    called: str, found: NDArray[np.float32], expected: NDArray[np.float32], share: float
) -> dict[str, float]:
    largest = float(np.abs(expected).max())
    difference = float(np.abs(found - expected).max())
    tolerance = share * max(1.0, largest)
    # Written so that a NaN, which compares as false, is refused too.
    if not difference <= tolerance:
        raise ExportError(
            f"The exported graphs are not the checkpoint: {called} differ from the torch module's "
            f"by up to {difference:.3g}, allowed are {tolerance:.3g}. Nothing was published; "
            "please report this with the checkpoint's config.json."
        )
    return {"largest_difference": difference, "largest": largest, "tolerance": tolerance}


def _decode(runner: OrtRunner, reference: Reference) -> dict[str, NDArray[np.float32]]:
    """The compared outputs of every token, as `full_pass` gives them."""
    state = runner.encode(reference.encoder_token_ids, reference.encoder_lengths)
    steps, start = [], 0
    for count in _STEPS:
        token_ids = reference.decoder_token_ids[:, start : start + count]
        if token_ids.shape[1]:
            outputs = runner.step(state, token_ids, tuple(_COMPARED))
            steps.append({name: array.copy() for name, array in outputs.items()})
        start += count
    # The tokens fed are the last axis but one of both.
    joined = {name: np.concatenate([step[name] for step in steps], -2) for name in _COMPARED}
    # The runner pads sources.
    joined[CROSS_ATTENTION] = joined[CROSS_ATTENTION][..., : reference.encoder_token_ids.shape[1]]
    return joined

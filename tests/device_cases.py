"""Generation that is to be the same on every device: what is asked of the shipped preset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.runners import row_moves
from bart_onnx.runners.blocks import Block
from bart_onnx.runners.device_caches import Caches
from bart_onnx.runners.device_steps import DeviceStep
from bart_onnx.samplers import BeamSampler, ContrastiveSampler, TopPSampler

PRESET = "bart_tiny_en_g2p"
WORDS = Path(__file__).resolve().parent / "data" / "words.txt"


def words(count: int) -> list[str]:
    lines = WORDS.read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[0] for line in lines[:: len(lines) // count][:count]]


def preset(**options: Any) -> OnnxBartSeq2SeqLM:
    return OnnxBartSeq2SeqLM.from_preset(PRESET, offline=True, **options)


def compiled(sampler: Any, count: int) -> Callable[[OnnxBartSeq2SeqLM], Any]:
    """Words by a sampler that draws anew what it drew before."""

    def ask(lm: OnnxBartSeq2SeqLM) -> Any:
        lm.compile(sampler=sampler() if callable(sampler) else sampler)
        return lm.generate(words(count))

    return ask


def asked(count: int, **options: Any) -> Callable[[OnnxBartSeq2SeqLM], Any]:
    return lambda lm: lm.generate(words(count), **options)


def one_at_a_time(lm: OnnxBartSeq2SeqLM) -> Any:
    lm.compile(sampler="greedy")
    return [lm.generate(word) for word in words(8)]


def made_on_device(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is made from now on for caches and their steps, and each move of a whole block."""
    found: list[str] = []
    making: list[Any] = [Block, DeviceStep, row_moves._Move, row_moves._Put]
    for owner, name in (*((each, "__init__") for each in making), (Caches, "moved")):
        original = getattr(owner, name)

        def noted(
            *arguments: Any, original: Any = original, owner: Any = owner, **named: Any
        ) -> Any:
            found.append(owner.__name__)
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, noted)
    return found


#: What comes back as texts, and must be the same to the letter.
TEXTS: dict[str, Callable[[OnnxBartSeq2SeqLM], Any]] = {
    "greedy": compiled("greedy", 200),
    "one at a time": one_at_a_time,
    "beams of KerasHub": compiled(lambda: BeamSampler(num_beams=3), 24),
    "frozen beams of KerasHub": compiled(
        lambda: BeamSampler(num_beams=3, freeze_ended_beams=True), 24
    ),
    "top-p": compiled(lambda: TopPSampler(p=0.9, seed=7), 40),
    "contrastive": compiled(lambda: ContrastiveSampler(k=3, alpha=0.4), 12),
    "beams": asked(40, num_beams=4, length_penalty=0.8),
    "all beams": asked(12, num_beams=4, num_return_sequences=3),
    "sampling": asked(40, do_sample=True, top_k=5, seed=3),
    "rules": asked(24, no_repeat_ngram_size=2, repetition_penalty=1.3, min_length=6),
    "without drafts": asked(40, speculate=False),
}


def scores(lm: OnnxBartSeq2SeqLM) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Log-likelihoods of what greedy search finds."""
    lm.compile(sampler="greedy")
    texts = words(12)
    return np.asarray(lm.score(texts, lm.generate(texts)), np.float32)

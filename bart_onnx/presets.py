"""The built-in presets: name -> where its weights are and what it is. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bart_onnx.config import BartConfig


@dataclass(frozen=True)
class Preset:
    """One built-in preset.

    Attributes:
        sources: URIs of checkpoints, in the order in which they are tried; none for a preset
            whose bundle comes with this package.
        config: its numbers, as KerasHub's registry states them.
        description: one sentence for people.
        generation_config: generation defaults under transformers' names, for sources that hold
            none, as Keras presets do.
    """

    sources: tuple[str, ...]
    config: BartConfig
    description: str
    generation_config: Mapping[str, Any] = field(default_factory=dict)


def _large(vocabulary_size: int) -> BartConfig:
    return BartConfig(vocabulary_size, 12, 16, 1024, 4096)


# facebook/bart-large-cnn's own.
_CNN_GENERATION: Mapping[str, Any] = MappingProxyType(
    {
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "num_beams": 4,
        "length_penalty": 2.0,
        "min_length": 56,
        "max_length": 142,
        "no_repeat_ngram_size": 3,
        "early_stopping": True,
        "prefix": " ",
    }
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "bart_tiny_en_g2p": Preset(
            sources=(),
            config=BartConfig(112, 2, 4, 128, 512, max_sequence_length=64),
            description="Turns an English word into phonemes; comes with this package.",
        ),
        "bart_base_en": Preset(
            sources=("kaggle://keras/bart/keras/bart_base_en/3", "hf://facebook/bart-base"),
            config=BartConfig(50265, 6, 12, 768, 3072),
            description="6-layer BART trained on English text with its case kept.",
        ),
        "bart_large_en": Preset(
            sources=("kaggle://keras/bart/keras/bart_large_en/3", "hf://facebook/bart-large"),
            config=_large(50265),
            description="12-layer BART trained on English text with its case kept.",
        ),
        "bart_large_en_cnn": Preset(
            sources=(
                "kaggle://keras/bart/keras/bart_large_en_cnn/3",
                "hf://facebook/bart-large-cnn",
            ),
            config=_large(50264),
            description="bart_large_en fine-tuned to summarise news (CNN/DailyMail).",
            generation_config=_CNN_GENERATION,
        ),
    }
)

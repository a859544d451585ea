"""The models that the grid is run on: each as this package runs it and as transformers does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from bart_onnx import OnnxBartSeq2SeqLM
from exporters.export import export

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "data" / "keras_golden" / "hf_checkpoint"
G2P = ROOT.parent / "shared" / "data" / "g2p_bart" / "en_us"
PRESET = ROOT / "models" / "bart_tiny_en_g2p"

# Ids below are special tokens in every one of these vocabularies.
FIRST_WORD = 4


@dataclass(frozen=True)
class Seen:
    """What a model says of its own accord: rules that name such tokens change something.

    Attributes:
        tokens: the most frequent first.
        pairs: of tokens that follow each other, the most frequent first.
    """

    tokens: list[int]
    pairs: list[tuple[int, int]]


@dataclass(frozen=True)
class Pair:
    """One model on both sides.

    Attributes:
        ours: without preprocessor, so that it takes and gives ids.
        longest_source: tokens that a source of the grid has at most.
        most: tokens that an output of the grid has at most.
    """

    name: str
    ours: OnnxBartSeq2SeqLM
    judge: Any
    longest_source: int
    most: int

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are."""
        return self.ours.config.vocabulary_size

    @cached_property
    def ends(self) -> list[int]:
        """The end tokens of the checkpoint."""
        ids = self.judge.generation_config.eos_token_id
        return list(ids) if isinstance(ids, list) else [ids]

    def sources(self, random: np.random.Generator, rows: int) -> list[list[int]]:
        """Sources of unequal length, some of one or two tokens."""
        config = self.ours.config
        lengths = random.integers(1, self.longest_source - 1, rows)
        words = [random.integers(FIRST_WORD, self.vocabulary_size, n).tolist() for n in lengths]
        start, end = config.start_token_id, config.end_token_id
        return [[start, *ids, end] if len(ids) > 1 else ids for ids in words]

    @cached_property
    def seen(self) -> Seen:
        """Told by greedy and beam outputs of the judge."""
        tokens: Counter[int] = Counter()
        pairs: Counter[tuple[int, int]] = Counter()
        random = np.random.default_rng(17)
        for source in self.sources(random, 6):
            with torch.inference_mode():
                found = self.judge.generate(
                    torch.tensor([source]), num_beams=3, num_return_sequences=3, do_sample=False
                )
            for ids in found[:, 1:].tolist():
                words = [each for each in ids if each >= FIRST_WORD]
                tokens.update(words)
                pairs.update(pairwise(words))
        return Seen([each for each, _ in tokens.most_common()], [p for p, _ in pairs.most_common()])


def golden(workplace: Path) -> Pair:
    """The tiny checkpoint that the goldens were made with: random weights."""
    return _pair("golden", GOLDEN, workplace, 24, 20)


def g2p(workplace: Path) -> Pair:
    """A trained grapheme-to-phoneme BART of one layer, whose pad_token_id is 0."""
    return _pair("g2p", G2P, workplace, 20, 24)


def preset(workplace: Path) -> Pair:
    """The trained model that ships; transformers gets the checkpoint that it is saved as."""
    lm = OnnxBartSeq2SeqLM.from_preset(PRESET, offline=True)
    checkpoint = workplace / "preset_checkpoint"
    lm.save_to_preset(checkpoint, format="huggingface")
    lm.preprocessor = None
    return Pair("preset", lm, _read(checkpoint), 20, 24)


def base(workplace: Path) -> Pair:
    """bart-base's shape with random weights that do not say one token over and over.

    An embedding is likest to itself, so random weights repeat the token that is fed in. Random
    signs and sizes in the decoder's last layer norm make another token the likeliest, which depends
    on the token and, with positions twice as strong, on the place. Noise on `final_logits_bias`,
    more on the end token, lets rows end at different lengths.
    """
    checkpoint = workplace / "base_checkpoint"
    script = ROOT / "scripts" / "make_random_checkpoint.py"
    command = [sys.executable, str(script), "base", str(checkpoint)]
    subprocess.run(command, check=True, capture_output=True)
    _unlike(checkpoint)
    return _pair("base", checkpoint, workplace, 24, 14)


MODELS: dict[str, Callable[[Path], Pair]] = {
    "golden": golden,
    "g2p": g2p,
    "preset": preset,
    "base": base,
}


def missing(name: str) -> str:
    """Why a model cannot be had here; "" where it can."""
    return f"{G2P} is not there" if name == "g2p" and not G2P.is_dir() else ""


def _pair(name: str, checkpoint: Path, workplace: Path, longest_source: int, most: int) -> Pair:
    bundle = export(str(checkpoint), workplace / f"{name}_bundle", show_progress=False)
    lm = OnnxBartSeq2SeqLM.from_preset(bundle, preprocessor=None, offline=True)
    return Pair(name, lm, _read(checkpoint), longest_source, most)


def _read(checkpoint: Path) -> Any:
    model = transformers.BartForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32
    )
    return model.eval()


def _unlike(checkpoint: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path, random = checkpoint / "model.safetensors", np.random.default_rng(3)
    tensors = load_file(path)
    config = json.loads((checkpoint / "config.json").read_text())
    last = f"model.decoder.layers.{config['decoder_layers'] - 1}.final_layer_norm.weight"
    tensors[last] = random.normal(0, 4, tensors[last].shape).astype(np.float32)
    places = "model.decoder.embed_positions.weight"
    tensors[places] = tensors[places] * np.float32(2)
    bias = random.normal(0, 0.5, tensors["final_logits_bias"].shape)
    bias[0, config["eos_token_id"]] = 7.0
    tensors["final_logits_bias"] = bias.astype(np.float32)
    save_file(tensors, path, metadata={"format": "pt"})

"""Tiny BARTs for tests: random weights of any config, as Checkpoints and as bundles."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from bart_onnx.bundle import Bundle
from bart_onnx.config import BartConfig
from bart_onnx.weights import weight_shapes
from exporters.assembly import build
from exporters.checkpoints.checkpoint import Checkpoint
from exporters.progress import Progress

TINY = BartConfig(101, 2, 4, 32, 64, max_sequence_length=96)

# Every way in which a config changes the graphs.
VARIANTS = {
    "plain": TINY,
    "scaled_embedding": BartConfig(101, 1, 4, 32, 64, max_sequence_length=96, scale_embedding=True),
    "logits_bias": BartConfig(101, 1, 4, 32, 64, max_sequence_length=96, final_logits_bias=True),
    "untied": BartConfig(101, 1, 4, 32, 64, max_sequence_length=96, tied_embeddings=False),
    "unequal_sides": BartConfig(
        101,
        3,
        4,
        32,
        64,
        max_sequence_length=96,
        decoder_num_layers=1,
        decoder_num_heads=2,
        decoder_intermediate_dim=48,
    ),
    "wide": BartConfig(257, 1, 8, 512, 512, max_sequence_length=512),
    "few_tokens": BartConfig(11, 1, 1, 8, 8, max_sequence_length=8),
}


def random_checkpoint(config: BartConfig, seed: int = 0) -> Checkpoint:
    """Weights so wide, and norms about 1, so that attention looks around."""
    shapes = weight_shapes(config)

    def read(name: str) -> np.ndarray:
        index = list(shapes).index(name)
        spread = 1.1 / np.sqrt(config.hidden_dim)
        values = np.random.default_rng([seed, index]).normal(0, spread, shapes[name])
        return (values + name.endswith(".gamma")).astype(np.float32)

    return Checkpoint(
        source="random",
        format="huggingface",
        config=config,
        generation_config={},
        weights={name: partial(read, name) for name in shapes},
        weight_bytes=sum(4 * int(np.prod(shape)) for shape in shapes.values()),
        source_dtypes=dict.fromkeys(shapes, "float32"),
    )


def export_checkpoint(checkpoint: Checkpoint, directory: Path, precision: str = "fp32") -> Bundle:
    """The bundle of a checkpoint that is in no file."""
    directory.mkdir(parents=True)
    build("random", "random", checkpoint, precision, directory, Progress(shown=False))
    return Bundle.open(directory)

"""A training run in a process of its own, which kills itself at a step if told to.

    python training_child.py DIRECTORY [STEP]

It resumes from DIRECTORY and leaves weights.npz and history.json there if it lives.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from bart_onnx.config import BartConfig
from bart_onnx.initializer import initialize
from bart_onnx.training_options import (
    Checkpointing,
    EarlyStopping,
    FitOptions,
    OptimizerOptions,
    WarmUp,
)
from exporters.bart import Bart
from exporters.model_weights import weights_of
from exporters.training.examples import Examples
from exporters.training.trainer import Callbacks, Trainer

CONFIG = BartConfig(31, 1, 2, 16, 32, dropout=0.2, max_sequence_length=12)


def reversals(count: int, seed: int = 0, config: BartConfig = CONFIG) -> Examples:
    """Sequences of 2 to 8 tokens and the same backwards, padded to the last position."""
    random = np.random.default_rng(seed)
    width = config.max_sequence_length
    sources, targets = np.full((2, count, width + 1), 1)
    for row in range(count):
        tokens = random.integers(3, config.vocabulary_size, random.integers(2, 9))
        sources[row, : len(tokens) + 2] = [0, *tokens, 2]
        targets[row, : len(tokens) + 3] = [2, 0, *tokens[::-1], 2]
    x = {
        "encoder_token_ids": sources[:, :width],
        "encoder_padding_mask": sources[:, :width] != 1,
        "decoder_token_ids": targets[:, :-1],
        "decoder_padding_mask": targets[:, :-1] != 1,
    }
    return Examples.checked(x, targets[:, 1:], targets[:, 1:] != 1, config=config)


def options(directory: Path) -> FitOptions:
    """Three epochs of 8 batches, with a checkpoint every third step."""
    return FitOptions(
        batch_size=6,
        epochs=3,
        seed=5,
        bucket_batches=2,
        early_stopping=EarlyStopping(patience=2),
        checkpointing=Checkpointing(directory, every_steps=3),
        show_progress=False,
    )


def main() -> None:
    directory = Path(sys.argv[1])
    last = int(sys.argv[2]) if len(sys.argv) > 2 else None

    def kill(step: int, logs: Mapping[str, float]) -> None:
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    optimizer = OptimizerOptions(
        "muon", WarmUp(1e-2, 4, 30), clip_norm=1.0, average_momentum=0.9, weight_decay=0.01
    )
    trainer = Trainer(Bart.from_weights(CONFIG, initialize(CONFIG, 1)), optimizer, 0.1, "cpu")
    history = trainer.fit(reversals(45), options(directory), reversals(9, 1), Callbacks(kill))
    weights = {name: read() for name, read in weights_of(trainer.bart).items()}
    np.savez(directory / "weights.npz", **weights)
    (directory / "history.json").write_text(json.dumps([history.history, history.epoch]))


if __name__ == "__main__":
    main()

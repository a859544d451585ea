"""Loss, accuracy and logits of a `Bart` on given sequences. It changes no weight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.bart import Bart
from exporters.training.batches import in_order, sequence_batch, target_batch
from exporters.training.examples import Examples, Sequences
from exporters.training.objective import Totals, objective
from exporters.training.teacher_forcing import token_logits


def evaluate(
    bart: Bart, examples: Examples, batch_size: int = 32, label_smoothing: float = 0.0
) -> dict[str, float]:
    """Keras' `evaluate`: "loss" and "sparse_categorical_accuracy" over all examples."""
    totals = Totals()
    with _judging(bart) as device:
        for rows in in_order(len(examples), batch_size):
            batch = target_batch(examples, rows, device)
            totals += objective(token_logits(bart, batch), batch, label_smoothing)[1]
    return totals.logs()


def predict(bart: Bart, sequences: Sequences, batch_size: int = 32) -> NDArray[np.float32]:
    """Keras' `predict`: logits [rows, width, vocabulary] at every place, padding included."""
    width = sequences.decoder_token_ids.shape[1]
    shape = (len(sequences), width, bart.config.vocabulary_size)
    logits = np.empty(shape, np.float32)
    with _judging(bart) as device:
        for rows in in_order(len(sequences), batch_size):
            batch = sequence_batch(sequences, rows, device, width)
            logits[rows] = token_logits(bart, batch).float().cpu().numpy()
    return logits


@contextmanager
def _judging(bart: Bart) -> Iterator[torch.device]:
    """Without dropout and gradients; yields the device that the weights are on."""
    training = bart.training
    bart.eval()
    try:
        with torch.inference_mode():
            yield bart.token_embedding.device
    finally:
        bart.train(training)

"""What training minimises and reports: Keras' loss and accuracy. It knows no optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from exporters.training.batches import TargetBatch


@dataclass(frozen=True)
class Totals:
    """Sums over batches, from which loss and accuracy are quotients.

    Attributes:
        loss: sum of weight times cross-entropy, nats.
        places: rows times width, padding included, which Keras divides the loss by.
        correct: sum of the weights of places whose most likely token is the target.
        weight: sum of the weights.
        tokens: real tokens seen, both sides together.
    """

    loss: float = 0.0
    places: int = 0
    correct: float = 0.0
    weight: float = 0.0
    tokens: int = 0

    def __add__(self, other: Totals) -> Totals:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Totals(*(mine + others for mine, others in pairs))

    def logs(self) -> dict[str, float]:
        """Keras' metrics: two real tokens with loss 3 each in a row 4 wide give a loss of 1.5."""
        return {
            "loss": self.loss / max(1, self.places),
            "sparse_categorical_accuracy": self.correct / self.weight if self.weight else 0.0,
        }


def objective(logits: Tensor, batch: TargetBatch, label_smoothing: float) -> tuple[Tensor, Totals]:
    """The loss to minimise, a scalar, and what it adds to the totals.

    Args:
        logits: [rows, length, vocabulary].
        batch: with targets and weights [rows, length].
        label_smoothing: share of the target spread evenly over the vocabulary.
    """
    entropies = functional.cross_entropy(
        logits.flatten(0, 1),
        batch.targets.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
    )
    weights = batch.weights.flatten()
    total = (entropies * weights).sum()
    with torch.no_grad():
        right = (logits.argmax(-1) == batch.targets).flatten()
        figures = torch.stack([total.detach(), (right * weights).sum(), weights.sum()]).tolist()
    loss, correct, weight = figures
    return total / batch.places, Totals(loss, batch.places, correct, weight, batch.tokens)

"""A model in training, spoken to in arrays: what stands behind `fit`, `evaluate` and `predict`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig
from bart_onnx.initializer import Weights
from bart_onnx.training_options import FitOptions, OptimizerOptions
from exporters.bart import Bart
from exporters.model_weights import weights_of
from exporters.training.evaluation import evaluate, predict
from exporters.training.examples import Examples, Sequences
from exporters.training.position import History
from exporters.training.trainer import Callbacks, Trainer

# Inputs by name, targets, and weights of the targets or None.
Data = tuple[Any, Any, Any]


class Session:
    """A torch module with its optimizer, which lives on from one `fit` to the next, as in Keras."""

    def __init__(
        self,
        config: BartConfig,
        weights: Mapping[str, Callable[[], NDArray[np.float32]]],
        optimizer: OptimizerOptions,
    ) -> None:
        self._config = config
        self._trainer = Trainer(Bart.from_weights(config, weights), optimizer)

    def fit(
        self,
        data: Data,
        options: FitOptions,
        validation: Data | None = None,
        validation_split: float = 0.0,
        callbacks: Callbacks | None = None,
    ) -> History:
        """Train on the rows of `data`; of these the last share only validates, if one is asked."""
        examples, held = self._examples(data), None
        if validation is not None:
            held = self._examples(validation)
        elif validation_split:
            examples, held = examples.split(validation_split)
        return self._trainer.fit(examples, options, held, callbacks)

    def train_on_batch(self, data: Data) -> dict[str, float]:
        """One step on all rows."""
        return self._trainer.train_on_batch(self._examples(data))

    def evaluate(self, data: Data, batch_size: int) -> dict[str, float]:
        """Loss and accuracy of all rows."""
        return evaluate(self._trainer.bart, self._examples(data), batch_size)

    def predict(self, x: Any, batch_size: int) -> NDArray[np.float32]:
        """Logits float32 [rows, length, vocabulary]."""
        return predict(self._trainer.bart, Sequences.checked(x, self._config), batch_size)

    def weights(self) -> Weights:
        """Copies of the weights as they are now, by their names in `bart_onnx.weights`."""
        return weights_of(self._trainer.bart)

    def _examples(self, data: Data) -> Examples:
        x, y, sample_weight = data
        return Examples.checked(x, y, sample_weight, config=self._config)

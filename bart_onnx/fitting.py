"""fit, evaluate, predict and train_on_batch: from what a caller passes to arrays, and on to torch.

It knows the documented forms of data. How a model learns is `exporters.training`'s matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bart_onnx.backbone import BartBackbone
from bart_onnx.builder import open_training, training_callbacks
from bart_onnx.errors import InputError, InputTypeError
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.training_options import FitOptions, OptimizerOptions

BATCH_SIZE = 32  # as in Keras

# Keras' own rate of an optimizer that is called by its name; BART's "auto" has 2e-5.
_KERAS_RATE = 1e-3

Data = tuple[Any, Any, Any]


class Fitting:
    """One model in training: keeps the optimizer's state from one `fit` to the next."""

    def __init__(self, backbone: BartBackbone, optimizer: Any) -> None:
        self._backbone = backbone
        self._optimizer = optimizer_options(optimizer)
        self._session: Any = None
        self._weights: Any = None

    def fit(
        self,
        data: Data,
        options: FitOptions,
        validation: Data | None,
        validation_split: float,
        callbacks: Any,
    ) -> Any:
        """Train, and give the backbone its new weights; returns a History."""
        history = self._opened().fit(
            data, options, validation, validation_split, training_callbacks(*listeners(callbacks))
        )
        self._take_weights()
        return history

    def train_on_batch(self, data: Data) -> dict[str, float]:
        """One step; the backbone has its new weights afterwards."""
        figures: dict[str, float] = self._opened().train_on_batch(data)
        self._take_weights()
        return figures

    def evaluate(self, data: Data, batch_size: int) -> dict[str, float]:
        """Loss and accuracy under Keras' names."""
        figures: dict[str, float] = self._opened().evaluate(data, batch_size)
        return figures

    def predict(self, x: Any, batch_size: int) -> Any:
        """Logits float32 [rows, length, vocabulary]."""
        return self._opened().predict(x, batch_size)

    def _opened(self) -> Any:
        """The session, begun anew if the backbone has got other weights than ours."""
        if self._session is None or self._backbone.weights is not self._weights:
            self._weights = self._backbone.weights
            self._session = open_training(self._backbone.config, self._weights, self._optimizer)
        return self._session

    def _take_weights(self) -> None:
        self._backbone.weights = self._weights = self._session.weights()


def optimizer_options(optimizer: Any) -> OptimizerOptions:
    """What `compile(optimizer=...)` means.

    Raises:
        InputTypeError: neither "auto", a name nor OptimizerOptions.
        InputError: no optimizer has that name.
    """
    if isinstance(optimizer, OptimizerOptions):
        return optimizer
    if optimizer == "auto":
        return OptimizerOptions()
    if isinstance(optimizer, str):
        return OptimizerOptions(name=optimizer, learning_rate=_KERAS_RATE)  # type: ignore[arg-type]
    raise InputTypeError(
        f"optimizer is {optimizer!r}; give 'auto', 'adam', 'adamw', 'muon' or "
        "bart_onnx.training_options.OptimizerOptions."
    )


@dataclass(frozen=True)
class Rows:
    """What there is to train on or to judge by.

    Attributes:
        data: arrays of all rows: inputs, targets, and weights of the targets or None.
        batch_size: rows in a batch; a dataset's own.
        is_dataset: whether they came in batches, whose order is kept.
    """

    data: Data
    batch_size: int
    is_dataset: bool

    @classmethod
    def prepared(
        cls,
        x: Any,
        y: Any,
        sample_weight: Any,
        preprocessor: BartSeq2SeqLMPreprocessor | None,
        batch_size: int | None = None,
    ) -> Rows:
        """From any documented form.

        Args:
            x: {"encoder_text", "decoder_text"}, from which targets are made; or, without
                preprocessor, the four arrays, with y; or an iterable of batches of either, each
                x, (x, y) or (x, y, sample_weight).

        Raises:
            InputError: y or batch_size beside a dataset, or an empty dataset.
            InputTypeError: x is none of these.
        """
        if isinstance(x, Mapping):
            data = _arrays(x, y, sample_weight, preprocessor)
            return cls(data, BATCH_SIZE if batch_size is None else batch_size, False)
        if isinstance(x, str | bytes) or not isinstance(x, Iterable):
            raise InputTypeError(
                f"fit takes a dict of texts or arrays, or an iterable of batches, found {x!r:.80}."
            )
        if y is not None:
            raise InputError("y is given beside a dataset; a dataset brings its own targets.")
        if batch_size is not None:
            raise InputError("batch_size is given beside a dataset, whose batches have their own.")
        batches = [_arrays(*_parts(batch), preprocessor) for batch in x]
        if not batches:
            raise InputError("The dataset is empty; give at least one batch.")
        size = len(next(iter(batches[0][0].values())))
        return cls(_concatenated(batches), size, True)


def listeners(callbacks: Any) -> tuple[Callable[..., None], Callable[..., None]]:
    """One function for the end of a batch and one for an epoch's, from Keras-like callbacks."""
    objects: Sequence[Any] = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    objects = [each for each in objects if each is not None]

    def tell(event: str) -> Callable[..., None]:
        heard = [getattr(each, event) for each in objects if hasattr(each, event)]

        def told(number: int, figures: Mapping[str, float]) -> None:
            for each in heard:
                each(number, figures)

        return told

    return tell("on_batch_end"), tell("on_epoch_end")


def _parts(batch: Any) -> tuple[Any, Any, Any]:
    if not isinstance(batch, tuple):
        return batch, None, None
    if not 1 <= len(batch) <= 3:
        raise InputTypeError(f"A batch is x, (x, y) or (x, y, sample_weight), found {len(batch)}.")
    x, y, sample_weight = (*batch, None, None)[:3]
    return x, y, sample_weight


def _arrays(
    x: Any, y: Any, sample_weight: Any, preprocessor: BartSeq2SeqLMPreprocessor | None
) -> Data:
    if preprocessor is None:
        if y is None:
            raise InputError("y is missing: without a preprocessor, give the target ids.")
        return x, y, sample_weight
    texts = {key: [value] if isinstance(value, str) else value for key, value in x.items()}
    # As KerasHub does, whatever y is given beside texts is replaced by the texts' own.
    return preprocessor(texts)


def _concatenated(batches: list[Data]) -> Data:
    """One set of rows from several, padded on the right with zeros that no weight counts."""
    inputs = {name: _stack([batch[0][name] for batch in batches]) for name in batches[0][0]}
    weights = [
        np.ones(np.shape(y), np.float32) if weight is None else weight for _, y, weight in batches
    ]
    return inputs, _stack([y for _, y, _ in batches]), _stack(weights)


def _stack(arrays: list[Any]) -> Any:
    matrices = [np.asarray(array) for array in arrays]
    width = max(matrix.shape[1] for matrix in matrices)
    padded = [np.pad(matrix, ((0, 0), (0, width - matrix.shape[1]))) for matrix in matrices]
    return np.concatenate(padded)

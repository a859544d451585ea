"""OnnxBartSeq2SeqLM: a BART opened, compiled, trained and saved, as KerasHub's `BartSeq2SeqLM` is.

How it generates is its parent's, `text_generator`. It knows no tensor name and no file format.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx import cached_calls, samplers
from bart_onnx.backbone import BartBackbone
from bart_onnx.errors import InputError, InputTypeError
from bart_onnx.fitting import BATCH_SIZE, Fitting, Rows
from bart_onnx.locate import tokenizer_directory
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.presets import PRESETS
from bart_onnx.runners.opening import BundleRunner
from bart_onnx.samplers import Sampler
from bart_onnx.text_generator import TextGenerator
from bart_onnx.training_options import Checkpointing, EarlyStopping, FitOptions

_UNSET: Any = object()

_OPENING = ("precision", "device", "threads", "offline", "verify")

# What keras' compile takes besides, and what changes how it computes but not what.
_WITHOUT_MEANING = ("run_eagerly", "jit_compile", "steps_per_execution")


class OnnxBartSeq2SeqLM(TextGenerator):
    """A BART that generates text, and can be trained (KerasHub `BartSeq2SeqLM`).

    Args:
        backbone: its numbers and weights.
        preprocessor: from text to ids and back; with None everything takes and gives arrays.
        name: kept for `get_config`.
        compile: choose sampler, optimizer and loss at once, as `compile()` does.
    """

    presets = PRESETS
    backbone_cls = BartBackbone
    preprocessor_cls = BartSeq2SeqLMPreprocessor

    def __init__(
        self,
        backbone: BartBackbone,
        preprocessor: BartSeq2SeqLMPreprocessor | None = None,
        *,
        name: str = "bart_seq2_seq_lm",
        compile: bool = True,
    ) -> None:
        if not isinstance(backbone, BartBackbone):
            raise InputTypeError(f"backbone must be a BartBackbone, found {backbone!r:.80}.")
        if not isinstance(preprocessor, BartSeq2SeqLMPreprocessor | None):
            raise InputTypeError(
                "preprocessor must be a BartSeq2SeqLMPreprocessor or None, found "
                f"{preprocessor!r:.80}."
            )
        self.backbone, self.preprocessor, self.name = backbone, preprocessor, name
        if compile:
            self.compile()

    @classmethod
    def from_preset(
        cls,
        preset: str | Path,
        load_weights: bool = True,
        *,
        preprocessor: BartSeq2SeqLMPreprocessor | None = _UNSET,
        name: str = "bart_seq2_seq_lm",
        compile: bool = True,
        **options: Any,
    ) -> OnnxBartSeq2SeqLM:
        """Open a preset's bundle; export it first if there is none and torch is installed.

        Args:
            preset: a bundle's or checkpoint's directory, `hf://org/name[@revision]`,
                `kaggle://org/model/keras/variant[/version]`, or a built-in name.
            load_weights: with False the model has the preset's numbers and random weights.
            preprocessor: one to use instead of the preset's; with None no tokenizer file is read
                and `generate` takes arrays.
            name, compile: see the constructor.
            options: precision, device, threads, offline and verify; see `BartBackbone.from_preset`.

        Raises:
            PresetError: no preset answers to the name.
            BundleError, CheckpointError, DownloadError, ExportError, MissingPackageError,
            DeviceError: as their messages say.
        """
        unknown = sorted(set(options) - set(_OPENING))
        if unknown:
            raise InputTypeError(
                f"from_preset takes no {', '.join(unknown)}; it takes preprocessor, name, compile, "
                f"{', '.join(_OPENING)}."
            )
        text = str(preset) if isinstance(preset, Path) else preset
        backbone = BartBackbone.from_preset(text, load_weights, **options)
        if load_weights:
            backbone.open()
        if preprocessor is _UNSET:
            directory = tokenizer_directory(text, bool(options.get("offline")))
            longest = min(1024, backbone.max_sequence_length)
            preprocessor = BartSeq2SeqLMPreprocessor.from_files(directory, longest)
        return cls(backbone, preprocessor, name=name, compile=compile)

    @property
    def runner(self) -> BundleRunner:
        """The graphs that hold the backbone's weights as they are now."""
        return self.backbone.runner

    def compile(
        self,
        optimizer: Any = "auto",
        loss: Any = "auto",
        *,
        weighted_metrics: Any = "auto",
        sampler: str | Mapping[str, Any] | Sampler = "top_k",
        **keras_options: Any,
    ) -> None:
        """Choose the sampler that `generate` uses, and what `fit` optimizes.

        Made by the constructor too, so that a new model draws from the 5 likeliest tokens, as
        KerasHub's does. For the likeliest token at every step: compile(sampler="greedy").

        Args:
            optimizer: "auto" (Adam at 2e-5), "adam", "adamw", "muon" (at Keras' 1e-3), or
                `bart_onnx.training_options.OptimizerOptions`.
            loss, weighted_metrics: "auto": cross-entropy and accuracy, as KerasHub's.
            sampler: a name, a Sampler or its config; see `bart_onnx.samplers.get`. The object
                itself is used: its random numbers move on from call to call.
            keras_options: run_eagerly, jit_compile and steps_per_execution may be given; they
                change no result and mean nothing here.

        Raises:
            InputError: no sampler or optimizer has that name, or another loss is asked for.
            InputTypeError: no sampler at all, or another keyword.
        """
        unknown = sorted(set(keras_options) - set(_WITHOUT_MEANING))
        if unknown:
            raise InputTypeError(
                f"compile takes no {', '.join(unknown)}; it takes optimizer, loss, "
                f"weighted_metrics, sampler, and without effect {', '.join(_WITHOUT_MEANING)}."
            )
        chosen = samplers.get(sampler)
        if chosen is None:
            raise InputTypeError("sampler is None; give a name or a Sampler, for example 'greedy'.")
        for name, value in (("loss", loss), ("weighted_metrics", weighted_metrics)):
            if not isinstance(value, str) or value != "auto":
                raise InputError(f"{name} is {value!r}; this package has Keras' own only: 'auto'.")
        self._fitting = Fitting(self.backbone, optimizer)
        self.sampler = chosen

    def __call__(self, inputs: Mapping[str, Any]) -> NDArray[np.float32]:
        """Logits float32 [rows, target_length, vocabulary] of the four arrays.

        Raises:
            InputTypeError: texts are given; preprocess them first, or call generate.
        """
        if not isinstance(inputs, Mapping) or "encoder_text" in inputs:
            raise InputTypeError(
                "Calling a model directly takes the four arrays, not text. Use generate(), fit(), "
                "evaluate() or predict(), or preprocess first: model(model.preprocessor(x)[0])."
            )
        return self.backbone.logits(inputs)

    def call_encoder(self, token_ids: Any, padding_mask: Any) -> NDArray[np.float32]:
        """See `cached_calls.call_encoder`."""
        return cached_calls.call_encoder(self.backbone, token_ids, padding_mask)

    def call_decoder_with_cache(
        self, *arguments: Any, **options: Any
    ) -> tuple[NDArray[np.float32], ...]:
        """See `cached_calls.call_decoder_with_cache`."""
        return cached_calls.call_decoder_with_cache(self.backbone, *arguments, **options)

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        *,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        seed: int = 0,
        early_stopping: EarlyStopping | None = None,
        checkpointing: Checkpointing | None = None,
    ) -> Any:
        """Train, as Keras' fit does; generate uses the new weights afterwards. Needs torch.

        Args:
            x, y, sample_weight: see `fitting.Rows.prepared`.
            batch_size: rows in a batch; None means 32. A dataset has its own.
            verbose: 0 draws no progress bar.
            callbacks: objects whose on_batch_end and on_epoch_end get a number and the figures.
            validation_split: the last share of arrays, which only validates.
            validation_data: x, (x, y) or (x, y, sample_weight).
            shuffle, seed: the order of rows is a function of seed and epoch.
            early_stopping, checkpointing: see `bart_onnx.training_options`.

        Returns:
            A History: `.history` has a list of each figure, `.epoch` the epochs.

        Raises:
            InputError, InputTypeError: data or options that cannot be used.
            TrainingError: the loss is no finite number; weights are those before that step.
            MissingPackageError: torch is not installed.
        """
        if validation_split and self.preprocessor is not None:
            raise InputError("validation_split is for arrays; with texts, give validation_data.")
        rows = Rows.prepared(x, y, sample_weight, self.preprocessor, batch_size)
        options = FitOptions(
            batch_size=rows.batch_size,
            epochs=epochs,
            initial_epoch=initial_epoch,
            shuffle=shuffle and not rows.is_dataset,
            seed=seed,
            early_stopping=early_stopping,
            checkpointing=checkpointing,
            show_progress=verbose != 0,
        )
        held = None
        if validation_data is not None:
            held = Rows.prepared([validation_data], None, None, self.preprocessor).data
        return self._trained().fit(rows.data, options, held, validation_split, callbacks)

    def train_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None) -> dict[str, float]:
        """One step on all rows; "loss" and "sparse_categorical_accuracy" before it."""
        rows = Rows.prepared(x, y, sample_weight, self.preprocessor)
        return self._trained().train_on_batch(rows.data)

    def evaluate(
        self, x: Any, y: Any = None, batch_size: int | None = None, *, sample_weight: Any = None
    ) -> dict[str, float]:
        """ "loss" (padding in its denominator, as Keras') and "sparse_categorical_accuracy"."""
        rows = Rows.prepared(x, y, sample_weight, self.preprocessor, batch_size)
        return self._trained().evaluate(rows.data, rows.batch_size)

    def predict(self, x: Any, batch_size: int | None = None) -> NDArray[np.float32]:
        """Logits float32 [rows, target_length, vocabulary]."""
        arrays = x if self.preprocessor is None else self.preprocessor(x)[0]
        logits: NDArray[np.float32] = self._trained().predict(arrays, batch_size or BATCH_SIZE)
        return logits

    def save_to_preset(
        self, directory: str | Path, max_shard_size: float = 10, *, format: str = "keras"
    ) -> None:
        """Write a Keras preset, or with format="huggingface" a transformers checkpoint.

        Raises:
            InputError: another format, or what a Keras preset cannot hold; it is named.
            ExportError: the directory has something in it, or cannot be written.
        """
        self.backbone.save_to_preset(
            directory, max_shard_size, format=format, preprocessor=self.preprocessor
        )

    def count_params(self) -> int:
        """How many numbers the weights hold."""
        return self.backbone.count_params()

    def get_config(self) -> dict[str, Any]:
        """Backbone, preprocessor and name, ready for JSON; weights and vocabulary are not in it."""
        preprocessor = None if self.preprocessor is None else self.preprocessor.get_config()
        backbone = self.backbone.get_config()
        return {"backbone": backbone, "preprocessor": preprocessor, "name": self.name}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> OnnxBartSeq2SeqLM:
        """A model of random weights from what `get_config` gave."""
        preprocessor = config["preprocessor"]
        if preprocessor is not None:
            preprocessor = BartSeq2SeqLMPreprocessor.from_config(preprocessor)
        backbone = BartBackbone.from_config(config["backbone"])
        return cls(backbone, preprocessor, name=config["name"])

    def _trained(self) -> Fitting:
        if self.sampler is None:
            raise InputError("The model is not compiled; call compile() first.")
        return self._fitting

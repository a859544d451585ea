"""BartBackbone: the numbers and weights of one BART, wherever they came from. No torch.

It gives hidden states; how tokens are chosen is `seq2seq_lm`'s matter.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.builder import export_bundle, export_command, save_preset
from bart_onnx.bundle import Bundle
from bart_onnx.config import BACKBONE_ARGUMENTS, BartConfig
from bart_onnx.decoding.arrays import checked_prompts
from bart_onnx.devices import CPU, Device
from bart_onnx.errors import InputError, PresetError
from bart_onnx.graphs import DECODER_SEQUENCE_OUTPUT, ENCODER_SEQUENCE_OUTPUT, LOGITS
from bart_onnx.initializer import initialize
from bart_onnx.locate import find_bundle
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.presets import PRESETS
from bart_onnx.runnable_weights import RunnableWeights, Weights
from bart_onnx.runners.opening import BundleRunner
from bart_onnx.store import user_path
from bart_onnx.tokenizer_options import keras_dtype
from bart_onnx.weights import weight_shapes


class BartBackbone:
    """BART's encoder and decoder, without the choice of tokens (KerasHub `BartBackbone`).

    Made from numbers it has random weights, KerasHub's initialiser; `from_preset` opens trained
    ones. It runs as an ONNX bundle, which is assembled at its first use where there is none yet;
    that needs torch.

    Args:
        vocabulary_size, num_layers, num_heads, hidden_dim, intermediate_dim, dropout,
        max_sequence_length: as in KerasHub; layers, heads and widths of both sides.
        dtype: "float32" or None: weights are kept in float32, and a precision is chosen at export.
        seed: of the random weights; None draws one.

    Raises:
        InputError: a number is out of its range, or dtype is another.
    """

    presets = PRESETS

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float = 0.1,
        max_sequence_length: int = 1024,
        dtype: str | None = None,
        *,
        name: str = "bart_backbone",
        trainable: bool = True,
        seed: int | None = None,
    ) -> None:
        if dtype not in (None, "float32"):
            raise InputError(
                f"dtype {dtype!r} is not kept here; weights are float32. Choose a precision when "
                "exporting."
            )
        config = BartConfig(
            vocabulary_size,
            num_layers,
            num_heads,
            hidden_dim,
            intermediate_dim,
            dropout,
            max_sequence_length,
        )
        drawn = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._start(RunnableWeights(config, initialize(config, drawn)), name, trainable)

    @classmethod
    def from_preset(
        cls,
        preset: str | Path,
        load_weights: bool = True,
        *,
        precision: str = "fp32",
        device: str | Device = CPU,
        threads: int | None = None,
        offline: bool = False,
        verify: bool = True,
        **overrides: Any,
    ) -> BartBackbone:
        """The backbone of a preset; its bundle is exported first if there is none.

        Args:
            preset: see `OnnxBartSeq2SeqLM.from_preset`.
            load_weights: with False it has the preset's numbers and random weights.
            precision: the bundle's precision.
            device: where to run: "cpu", "cuda", "cuda:1", "tensorrt", "auto", or a
                `bart_onnx.devices.Device`, which says more.
            threads: threads within an operator; None takes what affinity and cgroup allow.
            offline: use no network and export nothing.
            verify: compare every file of the bundle with its sha256.
            overrides: arguments of the constructor that win over the preset's; those that change
                shapes need load_weights=False.

        Raises:
            PresetError, BundleError, CheckpointError, DownloadError, ExportError,
            MissingPackageError, DeviceError: as their messages say.
        """
        name = str(preset) if isinstance(preset, Path) else preset
        if not load_weights and name in PRESETS:
            return cls.from_weights(PRESETS[name].config, {}).replaced(**overrides)
        bundle = find_bundle(name, precision, offline, verify)
        if bundle is None:
            if offline:
                raise PresetError(
                    f"Preset {name!r} has no {precision} bundle here, and none is exported "
                    f"offline. Run first: {export_command(name, precision)}"
                )
            bundle = export_bundle(name, precision=precision)
        backbone = cls.from_bundle(bundle, device, threads)
        if not load_weights:
            return backbone.replaced(**overrides)
        dropout = overrides.pop("dropout", backbone.dropout)
        if overrides:
            raise InputError(
                f"{', '.join(overrides)} cannot be overridden while the preset's weights are "
                "loaded; give load_weights=False."
            )
        backbone._runnable.config = dataclasses.replace(backbone.config, dropout=dropout)
        return backbone

    @classmethod
    def from_bundle(
        cls, bundle: Bundle, device: str | Device = CPU, threads: int | None = None
    ) -> BartBackbone:
        """The backbone of an opened bundle; its weights are read from it only when asked for."""
        return cls._of(RunnableWeights.of_bundle(bundle, device, threads))

    @classmethod
    def from_weights(cls, config: BartConfig, weights: Weights) -> BartBackbone:
        """A backbone of any config, unequal sides included, with the weights named."""
        return cls._of(RunnableWeights(config, weights))

    @classmethod
    def _of(cls, runnable: RunnableWeights) -> BartBackbone:
        backbone = object.__new__(cls)
        backbone._start(runnable, "bart_backbone", True)
        return backbone

    def _start(self, runnable: RunnableWeights, name: str, trainable: bool) -> None:
        self._runnable, self.name, self.trainable = runnable, name, trainable

    @property
    def config(self) -> BartConfig:
        """Its numbers, those of both sides."""
        return self._runnable.config

    @property
    def vocabulary_size(self) -> int:
        """Tokens in the vocabulary."""
        return self.config.vocabulary_size

    @property
    def num_layers(self) -> int:
        """The encoder's layers."""
        return self.config.num_layers

    @property
    def num_heads(self) -> int:
        """The encoder's attention heads."""
        return self.config.num_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the hidden states."""
        return self.config.hidden_dim

    @property
    def intermediate_dim(self) -> int:
        """Width inside the encoder's feed-forward layers."""
        return self.config.intermediate_dim

    @property
    def dropout(self) -> float:
        """Share dropped while training."""
        return self.config.dropout

    @property
    def max_sequence_length(self) -> int:
        """Positions of each side."""
        return self.config.max_sequence_length

    @property
    def weights(self) -> Weights:
        """Every weight by its name in `bart_onnx.weights`: a function that reads it, float32."""
        return self._runnable.weights

    @weights.setter
    def weights(self, weights: Weights) -> None:
        """Take other weights; what runs next runs with them."""
        self._runnable.weights = weights

    @property
    def bundle(self) -> Bundle:
        """The ONNX bundle that holds these weights, assembled now if there is none yet."""
        return self._runnable.bundle

    @property
    def runner(self) -> BundleRunner:
        """The bundle's graphs, opened at their first use."""
        return self._runnable.runner

    def open(self) -> None:
        """Open the graphs now instead of at their first use."""
        _ = self.runner

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        """Hidden states of both sides.

        Args:
            inputs: "encoder_token_ids", "encoder_padding_mask", "decoder_token_ids" and
                "decoder_padding_mask", each [rows, length], padded on the right.

        Returns:
            "encoder_sequence_output" [rows, source_length, hidden_dim] and
            "decoder_sequence_output" [rows, target_length, hidden_dim], float32. What stands at
            padding means nothing.
        """
        prompts = checked_prompts(inputs, self.config)
        encoder_token_ids, lengths = prompts.encoder_token_ids, prompts.encoder_lengths
        return {
            ENCODER_SEQUENCE_OUTPUT: self.runner.encoder_output(encoder_token_ids, lengths),
            DECODER_SEQUENCE_OUTPUT: self._decoder_output(inputs, DECODER_SEQUENCE_OUTPUT),
        }

    def logits(self, inputs: Mapping[str, Any]) -> NDArray[np.float32]:
        """Logits [rows, target_length, vocabulary] for the same inputs as a call's."""
        return self._decoder_output(inputs, LOGITS)

    def _decoder_output(self, inputs: Mapping[str, Any], name: str) -> NDArray[np.float32]:
        prompts = checked_prompts(inputs, self.config)
        state = self.runner.encode(prompts.encoder_token_ids, prompts.encoder_lengths)
        outputs = self.runner.step(state, prompts.decoder_token_ids, (name,))
        return np.array(outputs[name], np.float32)

    def save_to_preset(
        self,
        directory: str | Path,
        max_shard_size: float = 10,
        *,
        format: str = "keras",
        preprocessor: BartSeq2SeqLMPreprocessor | None = None,
    ) -> None:
        """Write a Keras preset, or with format="huggingface" a transformers checkpoint.

        Args:
            max_shard_size: largest weight file in GB.
            preprocessor: written with it; None writes no tokenizer.

        Raises:
            InputError: another format, or what a Keras preset cannot hold; it is named.
            ExportError: the directory has something in it, or cannot be written.
        """
        bundle = self._runnable.last_bundle
        save_preset(
            format,
            user_path(directory),
            self.config,
            self.weights,
            preprocessor,
            {} if bundle is None else bundle.generation_config,
            self._tokenizer_json() if preprocessor is not None else None,
            max_shard_size,
        )

    def _tokenizer_json(self) -> Path | None:
        """The bundle's tokenizer.json in Hugging Face's layout, if it has one."""
        bundle = self._runnable.bundle_so_far
        directory = bundle.tokenizer_directory if bundle else None
        path = directory / "tokenizer.json" if directory else None
        if path is None or not path.is_file() or b'"registered_name"' in path.read_bytes():
            return None
        return path

    def count_params(self) -> int:
        """How many numbers the weights hold."""
        return sum(math.prod(shape) for shape in weight_shapes(self.config).values())

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as KerasHub writes them.

        Raises:
            InputError: encoder and decoder differ, which these arguments cannot say.
        """
        if self.config.encoder != self.config.decoder:
            raise InputError(
                "Encoder and decoder of this BART differ, which a Keras config cannot say: "
                f"{self.config.encoder} and {self.config.decoder}."
            )
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras_dtype("float32"),
            **{argument: getattr(self.config, argument) for argument in BACKBONE_ARGUMENTS},
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BartBackbone:
        """A backbone of random weights from what `get_config` gave."""
        return cls(**{key: value for key, value in config.items() if key != "dtype"})

    def replaced(self, **overrides: Any) -> BartBackbone:
        """A backbone of random weights whose numbers are these, but for the ones given.

        Raises:
            InputError: an override is no argument of the constructor.
        """
        unknown = sorted(set(overrides) - set(BACKBONE_ARGUMENTS))
        if unknown:
            raise InputError(
                f"BartBackbone has no argument {', '.join(unknown)}; arguments: "
                f"{', '.join(BACKBONE_ARGUMENTS)}."
            )
        config = dataclasses.replace(self.config, **overrides)
        return BartBackbone.from_weights(config, initialize(config))

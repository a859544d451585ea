"""The names of `keras_nlp.models` for BART, so that a migration is a changed import.

The classes of KerasHub's bases are doors only: their `from_preset` gives the BART class.
"""

from __future__ import annotations

from typing import Any, NoReturn

from bart_onnx.backbone import BartBackbone
from bart_onnx.errors import InputError
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM
from bart_onnx.tokenizer import BartTokenizer

BartSeq2SeqLM = OnnxBartSeq2SeqLM

__all__ = [
    "Backbone",
    "BartBackbone",
    "BartSeq2SeqLM",
    "BartSeq2SeqLMPreprocessor",
    "BartTokenizer",
    "CausalLM",
    "OnnxBartSeq2SeqLM",
    "Preprocessor",
    "Seq2SeqLM",
    "Seq2SeqLMPreprocessor",
    "Task",
    "Tokenizer",
]


class CausalLM:
    """KerasHub's base of models that generate; every preset here is a BART."""

    @classmethod
    def from_preset(
        cls, preset: str, load_weights: bool = True, **options: Any
    ) -> OnnxBartSeq2SeqLM:
        """See `OnnxBartSeq2SeqLM.from_preset`."""
        return OnnxBartSeq2SeqLM.from_preset(preset, load_weights, **options)


class Seq2SeqLM(CausalLM):
    """KerasHub's base of encoder-decoder models that generate."""


class Backbone:
    """KerasHub's base of backbones."""

    @classmethod
    def from_preset(cls, preset: str, load_weights: bool = True, **options: Any) -> BartBackbone:
        """See `BartBackbone.from_preset`."""
        return BartBackbone.from_preset(preset, load_weights, **options)


class Tokenizer:
    """KerasHub's base of tokenizers."""

    @classmethod
    def from_preset(cls, preset: str, **options: Any) -> BartTokenizer:
        """See `BartTokenizer.from_preset`."""
        return BartTokenizer.from_preset(preset, **options)


class Seq2SeqLMPreprocessor:
    """KerasHub's base of preprocessors of encoder-decoder models."""

    @classmethod
    def from_preset(cls, preset: str, **options: Any) -> BartSeq2SeqLMPreprocessor:
        """See `BartSeq2SeqLMPreprocessor.from_preset`."""
        return BartSeq2SeqLMPreprocessor.from_preset(preset, **options)


class Task:
    """KerasHub's base of all tasks, which cannot tell which task is meant."""

    @classmethod
    def from_preset(cls, preset: str, *arguments: Any, **options: Any) -> NoReturn:
        """Refused, as by KerasHub.

        Raises:
            InputError: always; the message has the classes that can.
        """
        raise InputError(
            f"Task.from_preset cannot tell which task of {preset!r} is meant. Use "
            "BartSeq2SeqLM.from_preset or Seq2SeqLM.from_preset."
        )


class Preprocessor:
    """KerasHub's base of all preprocessors, which cannot tell which one is meant."""

    @classmethod
    def from_preset(cls, preset: str, *arguments: Any, **options: Any) -> NoReturn:
        """Refused, as by KerasHub.

        Raises:
            InputError: always; the message has the class that can.
        """
        raise InputError(
            f"Preprocessor.from_preset cannot tell which preprocessor of {preset!r} is meant. Use "
            "BartSeq2SeqLMPreprocessor.from_preset or Seq2SeqLMPreprocessor.from_preset."
        )

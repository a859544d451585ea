"""BartSeq2SeqLMPreprocessor: texts to padded id arrays and generated ids to text, as KerasHub does.

    encoder   <s> tokens </s> <pad> ...
    decoder   </s> <s> tokens [</s>] <pad> ...

It knows no model. The ids of the special tokens are the tokenizer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import InputError, InputTypeError
from bart_onnx.keras_objects import keras_object, write_keras_object
from bart_onnx.locate import tokenizer_directory
from bart_onnx.packing import (
    ENCODER_SPECIALS,
    PROMPT_SPECIALS,
    LongInput,
    checked_long_input,
    fit_encoder_rows,
    packed,
)
from bart_onnx.preprocessor_files import read_sequence_lengths
from bart_onnx.text_inputs import as_integer_array, as_text_pairs, as_texts, describe, entry
from bart_onnx.tokenizer import BartTokenizer
from bart_onnx.tokenizer_options import LONGEST, checked_length, keras_dtype

Arrays = dict[str, NDArray[Any]]


class BartSeq2SeqLMPreprocessor:
    """Packs texts for BART and unpacks what it generates.

    Args:
        tokenizer: the tokenizer.
        encoder_sequence_length: width of the encoder's arrays, 2 to 65,536.
        decoder_sequence_length: width of the decoder's arrays, prompt and specials counted, up
            to 65,536.
        long_input: what becomes of an encoder text of more tokens than fit: "truncate" cuts it on
            the right and warns, "error" refuses it.
        name, trainable, config_file: kept for KerasHub's config; nothing is trained.

    Raises:
        InputTypeError: an argument of the wrong type.
        InputError: a length that is too small, or an unknown `long_input`.
    """

    def __init__(
        self,
        tokenizer: BartTokenizer,
        encoder_sequence_length: int = 1024,
        decoder_sequence_length: int = 1024,
        *,
        long_input: LongInput = "truncate",
        name: str = "bart_seq2_seq_lm_preprocessor",
        trainable: bool = True,
        config_file: str = "preprocessor.json",
    ) -> None:
        self.tokenizer = tokenizer
        self.encoder_sequence_length = encoder_sequence_length
        self.decoder_sequence_length = decoder_sequence_length
        self.long_input = long_input
        self.name, self.trainable, self.config_file = name, trainable, config_file

    @property
    def tokenizer(self) -> BartTokenizer:
        """The tokenizer."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, value: BartTokenizer) -> None:
        if not isinstance(value, BartTokenizer):
            raise InputTypeError(f"tokenizer must be a BartTokenizer, found {describe(value)}.")
        self._tokenizer = value

    @property
    def encoder_sequence_length(self) -> int:
        """Width of the encoder's arrays."""
        return self._encoder_sequence_length

    @encoder_sequence_length.setter
    def encoder_sequence_length(self, value: int) -> None:
        self._encoder_sequence_length = checked_length(
            value, "encoder_sequence_length", least=ENCODER_SPECIALS
        )

    @property
    def decoder_sequence_length(self) -> int:
        """Width of the decoder's arrays."""
        return self._decoder_sequence_length

    @decoder_sequence_length.setter
    def decoder_sequence_length(self, value: int) -> None:
        self._decoder_sequence_length = checked_length(value, "decoder_sequence_length", least=1)

    @property
    def sequence_length(self) -> int:
        """Another name of `decoder_sequence_length`."""
        return self.decoder_sequence_length

    @sequence_length.setter
    def sequence_length(self, value: int) -> None:
        self.decoder_sequence_length = value

    @property
    def long_input(self) -> LongInput:
        """What becomes of an encoder text of more tokens than fit."""
        return self._long_input

    @long_input.setter
    def long_input(self, value: LongInput) -> None:
        self._long_input = checked_long_input(value)

    @classmethod
    def from_files(
        cls, directory: str | Path, longest: int = 1024, **overrides: Any
    ) -> BartSeq2SeqLMPreprocessor:
        """The preprocessor of a directory with a tokenizer's files.

        Args:
            longest: both sequence lengths, where no preprocessor.json there says others, and as
                far as there may be such.
            overrides: keywords of the constructor that win.

        Raises:
            MissingFileError, CheckpointError: see `BartTokenizer.from_files`.
        """
        longest = min(longest, LONGEST)
        lengths: dict[str, Any] = {
            "encoder_sequence_length": longest,
            "decoder_sequence_length": longest,
        }
        lengths |= read_sequence_lengths(Path(directory))
        tokenizer = overrides.pop("tokenizer", None) or BartTokenizer.from_files(directory)
        return cls(tokenizer, **{**lengths, **overrides})

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> BartSeq2SeqLMPreprocessor:
        """The preprocessor of a preset, a checkpoint or a bundle; see `from_files`."""
        return cls.from_files(tokenizer_directory(preset), **overrides)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BartSeq2SeqLMPreprocessor:
        """The inverse of `get_config`; its tokenizer has no vocabulary. Keras' own configs fit."""
        own = {key: value for key, value in config.items() if key != "dtype"}
        if isinstance(own.get("tokenizer"), Mapping):
            own["tokenizer"] = BartTokenizer.from_config(own["tokenizer"]["config"])
        return cls(**own)

    def save_to_preset(self, directory: str | Path) -> None:
        """Write preprocessor.json and the tokenizer's files, as a Keras preset has them."""
        path = Path(directory) / self.config_file
        write_keras_object(path, "BartSeq2SeqLMPreprocessor", self.get_config())
        self.tokenizer.save_to_preset(directory)

    def get_config(self) -> dict[str, Any]:
        """Every option and the tokenizer's config, ready for JSON."""
        config = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras_dtype("float32"),
            "tokenizer": keras_object("BartTokenizer", self.tokenizer.get_config()),
            "config_file": self.config_file,
            "encoder_sequence_length": self.encoder_sequence_length,
            "decoder_sequence_length": self.decoder_sequence_length,
        }
        # Written only where it says something, because KerasHub refuses keys that it lacks.
        if self.long_input != "truncate":
            config["long_input"] = self.long_input
        return config

    def __call__(
        self,
        x: Mapping[str, Any],
        y: object = None,
        sample_weight: object = None,
        *,
        encoder_sequence_length: int | None = None,
        decoder_sequence_length: int | None = None,
        sequence_length: int | None = None,
        long_input: LongInput | None = None,
    ) -> tuple[Arrays, NDArray[np.int32], NDArray[np.bool_]]:
        """Pack pairs of texts for training: `(x, y, sample_weight)`.

        Args:
            x: "encoder_text" and "decoder_text", each a text (rank 1 out) or a batch.
            y, sample_weight: ignored, as KerasHub does; both come from the decoder's text.
            encoder_sequence_length, decoder_sequence_length, sequence_length, long_input: for
                this call; None and 0 mean the preprocessor's own. `sequence_length` counts where
                `decoder_sequence_length` is not given.

        Returns:
            x: int32 "*_token_ids" and bool "*_padding_mask", [batch, length], of encoder and
            decoder; y: int32, the decoder's ids one place on; sample_weight: y's bool mask.

        Raises:
            InputTypeError, InputKeyError: `x` is no mapping of texts, or lacks one.
            InputError: a length too small for the special tokens, or unequal batches.
            InputTooLongError: an encoder text is too long and `long_input` is "error".
        """
        encoder_texts, decoder_texts, batched = as_text_pairs(x)
        length = self._decoder_length(decoder_sequence_length, sequence_length, least=2)
        arrays = self._packed_encoder(encoder_texts, encoder_sequence_length, long_input)
        ids, mask = self._packed_decoder(decoder_texts, length + 1, ends=True)
        # Copies, so that writing into one result does not change another.
        arrays["decoder_token_ids"] = ids[:, :-1].copy()
        arrays["decoder_padding_mask"] = mask[:, :-1].copy()
        targets, weights = ids[:, 1:].copy(), mask[:, 1:].copy()
        if batched:
            return arrays, targets, weights
        return _first_row(arrays), targets[0], weights[0]

    call = __call__

    def generate_preprocess(
        self,
        x: object,
        *,
        encoder_sequence_length: int | None = None,
        decoder_sequence_length: int | None = None,
        sequence_length: int | None = None,
        long_input: LongInput | None = None,
    ) -> Arrays:
        """Pack texts and prompts for generation; a prompt has no `</s>` after it.

        Args:
            x: a text or a batch of texts, with an empty prompt, or what `__call__` takes.
            encoder_sequence_length, decoder_sequence_length, sequence_length, long_input: as
                `__call__`. A decoder length of 1 or 2 leaves no room to generate.

        Returns:
            int32 "encoder_token_ids" and "decoder_token_ids", bool "encoder_padding_mask" and
            "decoder_padding_mask", [batch, length]; the decoder's are at least 2 wide.

        Raises:
            InputTypeError, InputKeyError, InputError, InputTooLongError: as `__call__`.
        """
        if isinstance(x, Mapping):
            encoder_texts, decoder_texts, batched = as_text_pairs(x)
        else:
            encoder_texts, batched = as_texts(x, "inputs")
            decoder_texts = [""] * len(encoder_texts)
        length = self._decoder_length(decoder_sequence_length, sequence_length, least=1)
        arrays = self._packed_encoder(encoder_texts, encoder_sequence_length, long_input)
        ids, mask = self._packed_decoder(decoder_texts, max(length, PROMPT_SPECIALS), ends=False)
        arrays |= {"decoder_token_ids": ids, "decoder_padding_mask": mask}
        return arrays if batched else _first_row(arrays)

    def generate_postprocess(self, x: Mapping[str, Any]) -> Any:
        """Turn generated ids into text, without padding and without special tokens.

        Args:
            x: integer "decoder_token_ids" and bool or integer "decoder_padding_mask",
                [batch, length] or [length]; other entries are ignored.

        Returns:
            A list of str for a batch, a str for one row.

        Raises:
            InputKeyError: one of the two is missing.
            InputTypeError, InputError: they are no such arrays, or differ in shape.
        """
        names = ("decoder_token_ids", "decoder_padding_mask")
        ids, mask = (as_integer_array(entry(x, name), name) for name in names)
        if ids.shape != mask.shape:
            raise InputError(
                f"decoder_token_ids has shape {ids.shape}, but decoder_padding_mask has "
                f"{mask.shape}; they must be equal."
            )
        keep = (mask != 0) & ~np.isin(ids, self._special_ids())
        rows = [row[kept].tolist() for row, kept in zip(_rows(ids), _rows(keep), strict=True)]
        texts = self.tokenizer.decode_batch(rows)
        return texts if ids.ndim == 2 else texts[0]

    def _packed_encoder(
        self, texts: list[str], sequence_length: int | None, long_input: LongInput | None
    ) -> Arrays:
        length = checked_length(
            sequence_length or self.encoder_sequence_length,
            "encoder_sequence_length",
            least=ENCODER_SPECIALS,
        )
        rows = self.tokenizer.encode_batch(texts)
        rows = fit_encoder_rows(rows, length, long_input or self.long_input)
        start, end, pad = self._packing_ids()
        ids, mask = packed(rows, [start], [end], length, pad)
        return {"encoder_token_ids": ids, "encoder_padding_mask": mask}

    def _packed_decoder(
        self, texts: list[str], length: int, *, ends: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        start, end, pad = self._packing_ids()
        rows = self.tokenizer.encode_batch(texts)
        return packed(rows, [end, start], [end] if ends else [], length, pad)

    def _decoder_length(self, decoder: int | None, either: int | None, *, least: int) -> int:
        length = decoder or either or self.decoder_sequence_length
        return checked_length(length, "decoder_sequence_length", least=least)

    def _packing_ids(self) -> tuple[int, int, int]:
        """Ids of start, end and pad."""
        tokenizer = self.tokenizer
        tokens = (tokenizer.start_token, tokenizer.end_token, tokenizer.pad_token)
        start, end, pad = (tokenizer.token_to_id(token) for token in tokens)
        return start, end, pad

    def _special_ids(self) -> list[int]:
        return [token_id for token_id in self.tokenizer.special_token_ids if token_id is not None]


def _first_row(arrays: Arrays) -> Arrays:
    return {name: array[0] for name, array in arrays.items()}


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.ndim == 2 else array[np.newaxis]

"""BartTokenizer: text to token ids and back, with KerasHub's surface and BART's own word cuts.

It adds no special token and knows no model; `BartSeq2SeqLMPreprocessor` packs its ids.
"""

from __future__ import annotations

from collections.abc import Iterable, KeysView, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bart_onnx import tokenizer_files as files
from bart_onnx.bpe import END_TOKEN, PAD_TOKEN, START_TOKEN, AddedToken, BytePairEncoding
from bart_onnx.errors import InputError
from bart_onnx.keras_objects import write_keras_object
from bart_onnx.locate import tokenizer_directory
from bart_onnx.text_inputs import as_id_rows, as_texts
from bart_onnx.tokenizer_options import TokenizerOptions, check_ids_fit, checked_length

Tokens = NDArray[Any] | list[list[int]] | list[str] | list[list[str]]


class BartTokenizer:
    """BART's byte-level BPE tokenizer.

    Args:
        vocabulary: token -> id, or the path of a JSON file of it; None leaves the tokenizer
            without one until `set_vocabulary_and_merges` or `load_assets`.
        merges: rules `"a b"`, best rank first, or the path of a text file with one a line.
        sequence_length: length that rows are cut and padded to, up to 65,536; None leaves them
            ragged.
        add_prefix_space: whether each piece of text that begins with no blank gets one.
        unsplittable_tokens: the tokens that text is cut at; None means the added tokens.
            Such a list replaces the default, so `<s>` in text is split unless it is named.
        dtype: an integer type for ids, or "string" for tokens as text.
        name, trainable, config_file: kept for KerasHub's config; nothing is trained.
        added_tokens: tokens that text is cut at, with their rules, as `AddedToken` or mappings of
            its fields; None means the three special tokens.
        unknown_token: the token for a byte that the vocabulary lacks; None drops such bytes, as
            KerasHub does. BART's own vocabulary has all 256.

    Raises:
        InputTypeError: an argument of the wrong type.
        InputError: a vocabulary without a special token, a merge or unsplittable token that is
            not in it, or only one of vocabulary and merges.
        MissingFileError, CheckpointError: a path given is not there, or its file is damaged.
    """

    file_assets: ClassVar[list[str]] = [files.VOCABULARY_FILE, files.MERGES_FILE]
    start_token: ClassVar[str] = START_TOKEN
    end_token: ClassVar[str] = END_TOKEN
    pad_token: ClassVar[str] = PAD_TOKEN

    def __init__(
        self,
        vocabulary: Mapping[str, int] | str | Path | None = None,
        merges: Iterable[str] | str | Path | None = None,
        sequence_length: int | None = None,
        add_prefix_space: bool = False,
        unsplittable_tokens: Iterable[str] | None = None,
        dtype: DTypeLike | Mapping[str, Any] = "int32",
        *,
        name: str = "bart_tokenizer",
        trainable: bool = True,
        config_file: str = files.CONFIG_FILE,
        added_tokens: Iterable[AddedToken | Mapping[str, Any]] | None = None,
        unknown_token: str | None = None,
    ) -> None:
        self._options = TokenizerOptions.checked(
            add_prefix_space=add_prefix_space,
            unsplittable_tokens=unsplittable_tokens,
            dtype=dtype,
            added_tokens=added_tokens,
            unknown_token=unknown_token,
        )
        self.name, self.trainable, self.config_file = name, trainable, config_file
        self.sequence_length = sequence_length
        self.set_vocabulary_and_merges(vocabulary, merges)

    @classmethod
    def from_files(cls, directory: str | Path, **overrides: Any) -> BartTokenizer:
        """Read the tokenizer of a bundle, Keras preset or Hugging Face checkpoint directory.

        `tokenizer.json` of Hugging Face wins over `vocab.json` with `merges.txt`; both make every
        token that they call special unsplittable. Keras' `vocabulary.json` knows only three.

        Args:
            directory: where the files lie.
            overrides: keywords of the constructor that win over what the files say.

        Raises:
            MissingFileError: no complete set of files is there.
            CheckpointError: a file is damaged, or is no BART tokenizer's.
            InputError: an override that cannot be used.
        """
        found = files.read_tokenizer_files(Path(directory))
        with files.blame(found.source):
            tokenizer = cls(found.vocabulary, found.merges, **found.options)
        if not overrides:
            return tokenizer
        return cls(found.vocabulary, found.merges, **{**found.options, **overrides})

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> BartTokenizer:
        """The tokenizer of a preset, a checkpoint or a bundle; see `from_files`.

        Raises:
            PresetError, DownloadError: no preset answers to that name.
        """
        return cls.from_files(tokenizer_directory(preset), **overrides)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BartTokenizer:
        """The inverse of `get_config`: a tokenizer without vocabulary. Keras' own configs fit."""
        return cls(**config)

    def get_config(self) -> dict[str, Any]:
        """Every option, ready for JSON; the vocabulary and the merges are not in it."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "config_file": self.config_file,
            "sequence_length": self.sequence_length,
            **self._options.to_config(),
        }

    def set_vocabulary_and_merges(
        self,
        vocabulary: Mapping[str, int] | str | Path | None,
        merges: Iterable[str] | str | Path | None,
    ) -> None:
        """Take another vocabulary, or none (None, None). Arguments and errors: the class'."""
        if vocabulary is None and merges is None:
            self._encoding: BytePairEncoding | None = None
            return
        if vocabulary is None or merges is None:
            missing = "vocabulary" if vocabulary is None else "merges"
            raise InputError(f"A tokenizer needs both vocabulary and merges; {missing} is None.")
        if isinstance(vocabulary, str | Path):
            vocabulary = files.read_vocabulary(Path(vocabulary))
        encoding = BytePairEncoding(
            vocabulary,
            files.read_merges(Path(merges)) if isinstance(merges, str | Path) else merges,
            self._options.cuts,
            unknown_token=self._options.unknown_token,
            add_prefix_space=self._options.add_prefix_space,
        )
        check_ids_fit(self.dtype, max(encoding.tokens_by_id))
        self._encoding = encoding

    def save_assets(self, dir_path: str | Path) -> None:
        """Write `vocabulary.json` and `merges.txt` into a directory, which is made if need be."""
        encoding = self._require_encoding()
        files.write_assets(Path(dir_path), encoding.vocabulary, encoding.merges)

    def save_to_preset(self, directory: str | Path) -> None:
        """Write tokenizer.json and assets/tokenizer/, as a Keras preset has them."""
        path = Path(directory) / self.config_file
        write_keras_object(path, "BartTokenizer", self.get_config())
        self.save_assets(path.parent / "assets" / "tokenizer")

    def load_assets(self, dir_path: str | Path) -> None:
        """Read what `save_assets` wrote; options stay as they are.

        Raises:
            MissingFileError, CheckpointError: a file is not there or damaged.
        """
        self.set_vocabulary_and_merges(*files.read_assets(Path(dir_path)))

    @property
    def vocabulary(self) -> dict[str, int] | None:
        """A copy of token -> id; None where none is set."""
        return None if self._encoding is None else dict(self._encoding.vocabulary)

    @property
    def merges(self) -> list[str] | None:
        """A copy of the merge rules, a `#version` line included; None where none are set."""
        return None if self._encoding is None else list(self._encoding.merges)

    @property
    def sequence_length(self) -> int | None:
        """Length that rows are cut and padded to; None leaves them ragged."""
        return self._sequence_length

    @sequence_length.setter
    def sequence_length(self, value: int | None) -> None:
        if value is not None:
            value = checked_length(value, "sequence_length", least=1)
        self._sequence_length = value

    @property
    def dtype(self) -> str:
        """Name of the integer type of ids, or "string"."""
        return self._options.dtype

    @property
    def add_prefix_space(self) -> bool:
        """Whether each piece of text that begins with no blank gets one."""
        return self._options.add_prefix_space

    @property
    def unsplittable_tokens(self) -> list[str]:
        """The tokens that text is cut at."""
        return [cut.content for cut in self._options.cuts]

    @property
    def special_tokens(self) -> list[str]:
        """Start, end and pad, then the file's other special tokens in its order."""
        return self._options.special_tokens

    @property
    def special_token_ids(self) -> list[int | None]:
        """Ids of `special_tokens`, in their order; None where no vocabulary is set."""
        return [self._special_id(token) for token in self.special_tokens]

    @property
    def start_token_id(self) -> int | None:
        """Id of `<s>`; None where no vocabulary is set."""
        return self._special_id(START_TOKEN)

    @property
    def end_token_id(self) -> int | None:
        """Id of `</s>`; None where no vocabulary is set."""
        return self._special_id(END_TOKEN)

    @property
    def pad_token_id(self) -> int | None:
        """Id of `<pad>`; None where no vocabulary is set."""
        return self._special_id(PAD_TOKEN)

    def get_vocabulary(self) -> KeysView[str]:
        """The tokens. Raises InputError where no vocabulary is set."""
        return self._require_encoding().vocabulary.keys()

    def vocabulary_size(self) -> int:
        """Number of tokens. Raises InputError where no vocabulary is set."""
        return len(self._require_encoding().vocabulary)

    def id_to_token(self, id: int) -> str:
        """The token of an id. Raises InputError where none has it."""
        return self._require_encoding().token(id)

    def token_to_id(self, token: str) -> int:
        """The id of a token. Raises InputError where the vocabulary lacks it."""
        return self._require_encoding().token_id(token)

    def __call__(self, inputs: object) -> Tokens:
        """`tokenize`."""
        return self.tokenize(inputs)

    def tokenize(self, inputs: object) -> Tokens:
        """Turn text into ids, or into tokens where dtype is "string"; no special token is added.

        Args:
            inputs: str or UTF-8 bytes, or a list, tuple or array of them.

        Returns:
            For one text an array [tokens]; for a batch a list of lists of int, or with
            `sequence_length` an array [batch, sequence_length] padded with `pad_token_id`.
            With dtype "string" lists of str, padded with `<pad>`.

        Raises:
            InputTypeError: no text.
            InputError: text that UTF-8 cannot hold, or no vocabulary.
        """
        texts, batched = as_texts(inputs, "inputs")
        encoding = self._require_encoding()
        rows = encoding.encode(texts)
        if self._sequence_length is not None:
            width, pad = self._sequence_length, encoding.vocabulary[PAD_TOKEN]
            rows = [row[:width] + [pad] * (width - len(row)) for row in rows]
        if self.dtype == "string":
            strings = [[encoding.tokens_by_id[token_id] for token_id in row] for row in rows]
            return strings if batched else strings[0]
        if not batched:
            return np.array(rows[0], dtype=self.dtype)
        if self._sequence_length is None:
            return rows
        return np.array(rows, dtype=self.dtype).reshape(len(rows), self._sequence_length)

    def detokenize(self, inputs: object) -> str | list[str]:
        """Turn ids into text; special tokens come out as their text, unknown ids as nothing.

        Args:
            inputs: an int, a list or tuple of ints or of rows, or an integer array of rank 0 to 2.

        Returns:
            A str, or a list of str for a batch. Bytes that are no UTF-8 become U+FFFD.

        Raises:
            InputTypeError: no ids.
            InputError: a negative id, or no vocabulary.
        """
        rows, batched = as_id_rows(inputs, "inputs")
        texts = self.decode_batch(rows)
        return texts if batched else texts[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, whatever `sequence_length` and `dtype` say. Errors: `tokenize`'s."""
        return self._require_encoding().encode(texts)

    def offset_batch(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Characters, start and end, of each text that the ids of `encode_batch` stand for."""
        return self._require_encoding().offsets(texts)

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row of ids. Errors: `detokenize`'s."""
        return self._require_encoding().decode(rows)

    def _special_id(self, token: str) -> int | None:
        return None if self._encoding is None else self._encoding.vocabulary.get(token)

    def _require_encoding(self) -> BytePairEncoding:
        if self._encoding is None:
            raise InputError(
                "No vocabulary has been set for BartTokenizer. Pass `vocabulary` and `merges`, "
                "or call `load_assets`."
            )
        return self._encoding

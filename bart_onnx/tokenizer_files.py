"""A tokenizer on disk, in the three layouts BART is published in. It knows no tokenizer object.

Hugging Face   tokenizer.json                      wins where the next is there too
Hugging Face   vocab.json + merges.txt
Keras          vocabulary.json + merges.txt, here or in assets/tokenizer/, and perhaps a
               tokenizer.json, which is not Hugging Face's file of that name
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bart_onnx.bpe import (
    SPECIAL_TOKENS,
    AddedToken,
    checked_merges,
    checked_vocabulary,
    merge_pairs,
)
from bart_onnx.errors import CheckpointError, InputError, MissingFileError
from bart_onnx.json_objects import LIMIT, read_object
from bart_onnx.text_inputs import describe

CONFIG_FILE = "tokenizer.json"
VOCABULARY_FILE = "vocabulary.json"
HUGGING_FACE_VOCABULARY_FILE = "vocab.json"
MERGES_FILE = "merges.txt"

# What transformers' BartTokenizer cuts out of text besides the three, if the vocabulary has it.
_MORE_HUGGING_FACE_TOKENS = ("<unk>", "<mask>")
_KERAS_OPTIONS = {"name", "trainable", "dtype", "config_file", "sequence_length"} | {
    "add_prefix_space",
    "unsplittable_tokens",
    "added_tokens",
    "unknown_token",
}
_REFUSED_BPE_SETTINGS = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
)


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files of one tokenizer say.

    Attributes:
        source: the file or directory that was read, for messages.
        vocabulary: token -> id.
        merges: rules `"a b"`, best rank first.
        options: keywords of `BartTokenizer`.
    """

    source: Path
    vocabulary: dict[str, int]
    merges: list[str]
    options: Mapping[str, Any] = field(default_factory=dict)


def read_tokenizer_files(directory: Path) -> TokenizerFiles:
    """Read the tokenizer of a bundle, preset or checkpoint directory.

    Raises:
        MissingFileError: no layout is complete there.
        CheckpointError: a file is damaged, or needs what this package does not do.
    """
    config_path = directory / CONFIG_FILE
    config = _read_object(config_path) if config_path.is_file() else None
    if config is not None and "registered_name" not in config:
        return _from_hugging_face_json(config_path, config)
    if config is None and (directory / HUGGING_FACE_VOCABULARY_FILE).is_file():
        return _from_hugging_face_pair(directory)
    for folder in (directory, directory / "assets" / "tokenizer"):
        if (folder / VOCABULARY_FILE).is_file():
            vocabulary, merges = read_assets(folder)
            if config is None:
                return TokenizerFiles(folder, vocabulary, merges)
            options = _keras_options(config_path, config)
            return TokenizerFiles(config_path, vocabulary, merges, options)
    found = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    raise MissingFileError(
        f"No tokenizer in {directory}: looked for {CONFIG_FILE}, {HUGGING_FACE_VOCABULARY_FILE} "
        f"with {MERGES_FILE}, and {VOCABULARY_FILE} with {MERGES_FILE}; "
        f"found {', '.join(found) or 'nothing'}. Copy the tokenizer's files there."
    )


def read_assets(directory: Path) -> tuple[dict[str, int], list[str]]:
    """Read Keras' `vocabulary.json` and `merges.txt`.

    Raises:
        MissingFileError: one of them is not there.
        CheckpointError: one of them is damaged.
    """
    return _read_pair(directory / VOCABULARY_FILE, directory / MERGES_FILE)


def write_assets(directory: Path, vocabulary: Mapping[str, int], merges: Sequence[str]) -> None:
    """Write `vocabulary.json` (one line of ASCII) and `merges.txt` (one rule a line), as Keras."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / VOCABULARY_FILE).write_text(json.dumps(dict(vocabulary)), encoding="utf-8")
    text = "".join(f"{rule}\n" for rule in merges)
    (directory / MERGES_FILE).write_text(text, encoding="utf-8", newline="\n")


def read_vocabulary(path: Path) -> dict[str, int]:
    """Read a JSON object of token -> id.

    Raises:
        MissingFileError: it is not there.
        CheckpointError: it is damaged or lacks a special token.
    """
    with blame(path):
        return checked_vocabulary(_read_object(path))


def read_merges(path: Path) -> list[str]:
    """Read one merge rule a line; blanks at line ends and empty lines at the end are dropped.

    Raises:
        MissingFileError: it is not there.
        CheckpointError: it is no UTF-8, or larger than any.
    """
    rules = [line.rstrip() for line in _read_text(path).split("\n")]
    while rules and not rules[-1]:
        rules.pop()
    return rules


@contextmanager
def blame(path: Path) -> Iterator[None]:
    """Turn what is wrong with values that came from a file into an error that names the file."""
    try:
        yield
    except InputError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error


def _from_hugging_face_json(path: Path, content: Mapping[str, Any]) -> TokenizerFiles:
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        found = model.get("type") if isinstance(model, dict) else describe(model)
        raise CheckpointError(
            f"{path} must hold a BPE model as BART's does, found {found!s:.80}. "
            "Use the tokenizer files of a BART checkpoint."
        )
    pre_tokenizer = _checked_pipeline(path, content)
    for name in _REFUSED_BPE_SETTINGS:
        if model.get(name):
            raise CheckpointError(
                f"{path} sets {name} to {model[name]!r:.80} in its BPE model, which BART does not "
                "use and this package does not do. Use the tokenizer files of a BART checkpoint."
            )
    added = content.get("added_tokens") or []
    with blame(path):
        vocabulary = checked_vocabulary(_with_added_ids(path, model.get("vocab"), added))
        merges = checked_merges(_joined_merges(model.get("merges")))
        tokens = [_added_token(entry) for entry in added]
    options = {
        "added_tokens": tokens,
        "unknown_token": model.get("unk_token"),
        "add_prefix_space": pre_tokenizer.get("add_prefix_space", True),
    }
    return TokenizerFiles(path, vocabulary, merges, options)


def _checked_pipeline(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The pre-tokenizer's settings, once nothing around the model departs from BART's."""
    wanted = {"normalizer": None, "pre_tokenizer": "ByteLevel", "decoder": "ByteLevel"}
    for stage, kind in wanted.items():
        settings = content.get(stage)
        found = settings.get("type", "no type") if isinstance(settings, dict) else None
        if found != kind or (found is None and settings is not None):
            raise CheckpointError(
                f"{path} must have {stage} {kind} as BART's does, found {describe(settings)}. "
                "Use the tokenizer files of a BART checkpoint."
            )
    pre_tokenizer: dict[str, Any] = content["pre_tokenizer"]
    if not pre_tokenizer.get("use_regex", True):
        raise CheckpointError(
            f"{path} turns use_regex off in its pre_tokenizer, but BART cuts text by GPT-2's "
            "regular expression. Use the tokenizer files of a BART checkpoint."
        )
    return pre_tokenizer


def _with_added_ids(path: Path, vocabulary: object, added: object) -> object:
    """The model's vocabulary and the added tokens that it lacks."""
    if not isinstance(added, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("content"), str) for entry in added
    ):
        raise CheckpointError(
            f"{path} must list added_tokens as objects with a content, found {describe(added)}."
        )
    if not isinstance(vocabulary, dict):
        return vocabulary
    whole = dict(vocabulary)
    for entry in added:
        content, token_id = entry["content"], entry.get("id")
        if whole.setdefault(content, token_id) != token_id:
            raise CheckpointError(
                f"{path} gives added token {content!r:.80} the id {token_id!s:.40}, but its "
                f"vocabulary has {whole[content]!s:.40} for it. Make them agree."
            )
    return whole


def _joined_merges(merges: object) -> object:
    """Rules as `"a b"`; newer files keep them as pairs."""
    if not isinstance(merges, list):
        return merges
    return [
        " ".join(rule)
        if isinstance(rule, list) and all(isinstance(part, str) for part in rule)
        else rule
        for rule in merges
    ]


def _added_token(entry: Mapping[str, Any]) -> AddedToken:
    return AddedToken(
        entry["content"],
        special=entry.get("special", False),
        lstrip=entry.get("lstrip", False),
        rstrip=entry.get("rstrip", False),
        single_word=entry.get("single_word", False),
    )


def _from_hugging_face_pair(directory: Path) -> TokenizerFiles:
    vocabulary, merges = _read_pair(
        directory / HUGGING_FACE_VOCABULARY_FILE, directory / MERGES_FILE
    )
    contents = [*SPECIAL_TOKENS, *(t for t in _MORE_HUGGING_FACE_TOKENS if t in vocabulary)]
    options = {"added_tokens": [AddedToken(content) for content in contents]}
    return TokenizerFiles(directory, vocabulary, merges, options)


def _read_pair(vocabulary_path: Path, merges_path: Path) -> tuple[dict[str, int], list[str]]:
    vocabulary, merges = read_vocabulary(vocabulary_path), read_merges(merges_path)
    with blame(merges_path):
        merge_pairs(merges, vocabulary)
    return vocabulary, merges


def _keras_options(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's keywords in a Keras `tokenizer.json`."""
    config = content.get("config")
    if content.get("class_name") != "BartTokenizer" or not isinstance(config, dict):
        raise CheckpointError(
            f"{path} must describe a BartTokenizer, found {describe(content.get('class_name'))}. "
            "Use the preset of a BART."
        )
    unknown = sorted(set(config) - _KERAS_OPTIONS)
    if unknown:
        raise CheckpointError(
            f"{path} sets {', '.join(unknown):.200}; known are {', '.join(sorted(_KERAS_OPTIONS))}."
        )
    return dict(config)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except InputError as error:
        raise CheckpointError(f"{path} {error}. Copy or download it again.") from None


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > LIMIT:
            raise CheckpointError(
                f"{path} has {size} bytes; expected at most {LIMIT}. Copy it again."
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise _missing(path) from error
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path} must be UTF-8 text: {error}. Copy or download it again."
        ) from error


def _missing(path: Path) -> MissingFileError:
    return MissingFileError(f"{path} is not there. Copy it from the checkpoint.")

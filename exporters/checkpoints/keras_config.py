"""Reads the JSON files of a Keras preset: the backbone's numbers and what they may not say.

Nothing is made from a class name: names are compared with a short list, and what is needed is
taken from under them. It knows no weight file but for the shapes that settle a config.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bart_onnx.config import BartConfig
from bart_onnx.errors import CheckpointError, InputError
from bart_onnx.tokenizer_options import LONGEST

BACKBONE, TASK = "BartBackbone", "BartSeq2SeqLM"
TOKENIZER = "BartTokenizer"
# The second is KerasNLP's older one, which packed for training only.
PREPROCESSORS = ("BartSeq2SeqLMPreprocessor", "BartPreprocessor")
LENGTHS = ("encoder_sequence_length", "decoder_sequence_length")
SPECIAL_TOKENS = {"start_token_id": "<s>", "pad_token_id": "<pad>", "end_token_id": "</s>"}

_KERAS_HUB_CLASSES = (BACKBONE, TASK, *PREPROCESSORS, TOKENIZER)
_POLICIES = ("DTypePolicy", "FloatDTypePolicy")
_DTYPES = ("float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
_OBJECT_KEYS = {"module", "class_name", "config", "registered_name"}
# The next are of archives and of KerasNLP; nothing here reads them.
_OBJECT_KEYS |= {"shared_object_id", "assets", "weights"}
# How a model was trained and built: never looked into.
_UNREAD_KEYS = {"build_config", "compile_config"}
# Largest number taken: a bound on the work that a hostile file can ask for, far above any BART.
_SIZES: Mapping[str, int] = {
    "vocabulary_size": 1 << 24,
    "num_layers": 1000,
    "num_heads": 1 << 12,
    "hidden_dim": 1 << 16,
    "intermediate_dim": 1 << 20,
    "max_sequence_length": 1 << 24,
}
_LAYER_NUMBER = re.compile(r"layers/transformer_(?:encoder|decoder)(?:_(\d{1,6}))?/.*")
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxlong = _SHOWN.maxother = 80


def check_objects(values: Mapping[str, Any], path: Path) -> None:
    """Refuse a file in which any serialized object is no part of a BART.

    Raises:
        CheckpointError: a class outside the list, one from a module that is not Keras' or
            KerasHub's, a quantized model, or an object with a key that is none of theirs.
    """
    for value in _objects(values):
        name, registered, module = (
            value.get(key) for key in ("class_name", "registered_name", "module")
        )
        if name == "DTypePolicyMap" or "Quantized" in str(name):
            raise CheckpointError(
                f"{path} has dtypes layer by layer ({_SHOWN.repr(name)}): the model was quantized. "
                "Save the preset without quantization."
            )
        is_policy = name in _POLICIES and registered is None
        known = (f"keras_hub>{name}", f"keras_nlp>{name}")
        is_barts = name in _KERAS_HUB_CLASSES and registered in known
        home = r"keras(\.[a-z_0-9]+)*" if is_policy else r"keras_(hub|nlp)(\.[a-z_0-9]+)*"
        if not (is_policy or is_barts) or not re.fullmatch(home, str(module)):
            raise CheckpointError(
                f"{path} names the class {_SHOWN.repr(name)} (registered as "
                f"{_SHOWN.repr(registered)}, of {_SHOWN.repr(module)}), and only "
                f"{', '.join((*_KERAS_HUB_CLASSES, *_POLICIES))} of KerasHub, KerasNLP and Keras "
                "can be read; choose the preset of a BART."
            )
        unknown = sorted(set(value) - _OBJECT_KEYS - _UNREAD_KEYS)
        if unknown:
            raise _bad(path, f"{name} keys", unknown, f"none but {', '.join(sorted(_OBJECT_KEYS))}")


def config_of(values: object, path: Path, *classes: str) -> dict[str, Any]:
    """What is under "config" of an object of one of these classes.

    Raises:
        CheckpointError: it is of another class, or has no such mapping.
    """
    found = values.get("class_name") if isinstance(values, dict) else values
    if not isinstance(values, dict) or found not in classes:
        raise _bad(path, "class_name", found, " or ".join(classes))
    config = values.get("config")
    if not isinstance(config, dict):
        raise _bad(path, "config", config, "an object")
    return config


def backbone_config(values: object, path: Path, vocabulary: Mapping[str, Any] | None) -> BartConfig:
    """The numbers of a serialized BartBackbone; token ids are those of `vocabulary`.

    Without one they are BART's own: 0, 1 and 2. KerasHub's decoder always starts with `</s>`.

    Raises:
        CheckpointError: a number is missing, unknown or cannot be, or a special token is missing.
    """
    config = config_of(values, path, BACKBONE)
    unknown = sorted(set(config) - {*_SIZES, "name", "trainable", "dtype", "dropout"})
    if unknown:
        raise _bad(path, "config keys", unknown, f"none but BartBackbone's: {', '.join(_SIZES)}")
    _check_dtype(config.get("dtype"), path)
    fields: dict[str, Any] = {"max_sequence_length": 1024, "dropout": 0.1}
    for key, limit in _SIZES.items():
        if key in config or key not in fields:
            fields[key] = whole_number(config.get(key), key, path, limit)
    dropout = config.get("dropout", 0.1)
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise _bad(path, "dropout", dropout, "a number from 0 to below 1")
    fields["dropout"] = float(dropout)
    for field, token in SPECIAL_TOKENS.items() if vocabulary is not None else ():
        token_id = (vocabulary or {}).get(token)
        fields[field] = whole_number(token_id, f"vocabulary's {token}", path, (1 << 24) - 1, 0)
    if vocabulary is not None:
        fields["decoder_start_token_id"] = fields["end_token_id"]
    return _checked(fields, path)


def config_of_shapes(shapes: Mapping[str, tuple[int, ...]], path: Path) -> BartConfig:
    """The numbers that the shapes of a backbone's datasets (plain names) tell.

    Raises:
        CheckpointError: a dataset that tells them is missing or of another rank.
    """
    first = "layers/transformer_encoder"
    wanted = {
        "layers/reversible_embedding/vars/0": 2,
        "layers/position_embedding/vars/0": 2,
        f"{first}/_self_attention_layer/query_dense/vars/0": 3,
        f"{first}/_feedforward_intermediate_dense/vars/0": 2,
    }
    for name, rank in wanted.items():
        if len(shapes.get(name, ())) != rank:
            found = f"the shape {list(shapes[name])}" if name in shapes else "none"
            raise CheckpointError(
                f"{path} tells no BART's numbers: expected a dataset {name} of rank {rank}, found "
                f"{found}. Give the weights of a BartBackbone or BartSeq2SeqLM."
            )
    embedding, positions, query, feedforward = (shapes[name] for name in wanted)
    numbers = [int(match[1] or 0) for match in map(_LAYER_NUMBER.fullmatch, shapes) if match]
    fields = {
        "vocabulary_size": embedding[0],
        "num_layers": max(numbers) + 1,
        "num_heads": query[1],
        "hidden_dim": embedding[1],
        "intermediate_dim": feedforward[1],
        "max_sequence_length": positions[0],
    }
    for key, limit in _SIZES.items():
        whole_number(fields[key], key, path, limit)
    return _checked(fields, path)


def sequence_lengths(config: Mapping[str, Any], path: Path) -> dict[str, int]:
    """The lengths in a preprocessor's config; KerasHub writes none.

    Raises:
        CheckpointError: one is no length.
    """
    return {key: whole_number(config[key], key, path, LONGEST) for key in LENGTHS if key in config}


def whole_number(value: object, key: str, path: Path, high: int, low: int = 1) -> int:
    """`value` if it is an int in [low, high]; a bool is none.

    Raises:
        CheckpointError: it is not.
    """
    if type(value) is not int or not low <= value <= high:
        raise _bad(path, key, value, f"an integer from {low} to {high}")
    return value


def _objects(values: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """`values` and every serialized object in it, without a recursion that a file could exhaust."""
    waiting: list[Any] = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value is values or "class_name" in value or "registered_name" in value:
                yield value
            waiting += (part for key, part in value.items() if key not in _UNREAD_KEYS)
        elif isinstance(value, list):
            waiting += value


def _check_dtype(dtype: object, path: Path) -> None:
    name = dtype
    if isinstance(dtype, Mapping):
        inner = dtype.get("config")
        name = inner.get("name") if isinstance(inner, Mapping) else None
    if dtype is not None and name not in _DTYPES:
        raise _bad(path, "dtype", name, f"one of {', '.join(_DTYPES)}")


def _checked(fields: Mapping[str, Any], path: Path) -> BartConfig:
    try:
        return BartConfig(**fields)
    except InputError as error:
        raise CheckpointError(f"{path} contradicts itself: {error}") from error


def _bad(path: Path, key: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{path} has {key} = {_SHOWN.repr(value)}; expected {expected}. "
        "Correct the file or download the preset again."
    )

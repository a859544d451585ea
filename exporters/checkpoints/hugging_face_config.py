"""Reads Hugging Face's config.json into a BartConfig. It knows no tensor."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bart_onnx.config import BartConfig
from bart_onnx.errors import CheckpointError, InputError

# Field of BartConfig: its keys, the first one present counts, and the largest value taken (a bound
# on the work that a hostile file can ask for, far above any BART).
_SIZES: Mapping[str, tuple[tuple[str, ...], int]] = {
    "vocabulary_size": (("vocab_size",), 1 << 24),
    "hidden_dim": (("d_model", "hidden_size"), 1 << 16),
    "max_sequence_length": (("max_position_embeddings",), 1 << 24),
    "num_layers": (("encoder_layers", "num_hidden_layers"), 1000),
    "num_heads": (("encoder_attention_heads", "num_attention_heads"), 1 << 12),
    "intermediate_dim": (("encoder_ffn_dim",), 1 << 20),
    "decoder_num_layers": (("decoder_layers",), 1000),
    "decoder_num_heads": (("decoder_attention_heads",), 1 << 12),
    "decoder_intermediate_dim": (("decoder_ffn_dim",), 1 << 20),
}
_TOKEN_IDS = {
    "start_token_id": "bos_token_id",
    "pad_token_id": "pad_token_id",
    "end_token_id": "eos_token_id",
    "decoder_start_token_id": "decoder_start_token_id",
}
# What a BART is, whether or not the file says so.
_FIXED: Mapping[str, object] = {
    "activation_function": "gelu",
    "is_encoder_decoder": True,
    "is_decoder": False,
    "normalize_before": False,
    "normalize_embedding": True,
    "static_position_embeddings": False,
    "add_final_layer_norm": False,
}
# By which transformers takes a model's code from its repository.
_CODE = ("auto_map", "custom_pipelines", "trust_remote_code")
_ARCHITECTURES = ("BartForConditionalGeneration", "BartModel")
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxlong = _SHOWN.maxother = 80
_KNOWN_OTHERS = {
    "mbart": "mBART",
    "pegasus": "Pegasus",
    "bigbird_pegasus": "BigBird-Pegasus",
    "blenderbot": "Blenderbot",
    "led": "LED",
    "marian": "Marian",
    "plbart": "PLBART",
    "mvp": "MVP",
}


def bart_config(values: Mapping[str, Any], path: Path) -> BartConfig:
    """The numbers in a config.json that was read from `path`.

    `tied_embeddings` is what the file asks for and `final_logits_bias` is False: both are settled
    by the weights. Token ids that are absent or null take transformers' defaults (0, 1, 2, 2).

    Raises:
        CheckpointError: the file describes no BART language model, lacks a number, or holds one
            that cannot be.
    """
    _check_model(values, path)
    fields: dict[str, Any] = {
        field: _size(values, path, keys, limit) for field, (keys, limit) in _SIZES.items()
    }
    for field, key in _TOKEN_IDS.items():
        value = values.get(key)
        if isinstance(value, list) and value and key == "eos_token_id":
            value = value[0]  # generation ends at any of them; padding and packing use the first
        if value is not None:
            fields[field] = integer(value, key, path, 0, (1 << 24) - 1)
    fields["scale_embedding"] = _boolean(values, path, "scale_embedding", False)
    fields["tied_embeddings"] = _boolean(values, path, "tie_word_embeddings", True)
    fields["dropout"] = _probability(values, path, "dropout", 0.1)
    try:
        return BartConfig(**fields)
    except InputError as error:
        raise CheckpointError(f"{path} contradicts itself: {error}") from error


def integer(value: object, key: str, path: Path, low: int, high: int) -> int:
    """`value` if it is an int in [low, high]; a bool is none.

    Raises:
        CheckpointError: it is not.
    """
    if type(value) is not int or not low <= value <= high:
        raise bad_value(path, key, value, f"an integer from {low} to {high}")
    return value


def bad_value(path: Path, key: str, value: object, expected: str) -> CheckpointError:
    """The error for a value that cannot be."""
    return CheckpointError(
        f"{path} has {key} = {_SHOWN.repr(value)}; expected {expected}. "
        "Correct the file or download the checkpoint again."
    )


def _check_model(values: Mapping[str, Any], path: Path) -> None:
    if "registered_name" in values:
        raise CheckpointError(
            f"{path} belongs to a Keras preset (registered_name "
            f"{_SHOWN.repr(values['registered_name'])}), and this reads Hugging Face "
            "checkpoints; read the directory as a Keras preset."
        )
    model_type = values.get("model_type")
    if model_type != "bart":
        name = _KNOWN_OTHERS.get(model_type) if isinstance(model_type, str) else None
        raise CheckpointError(
            f"{path} has model_type {_SHOWN.repr(model_type)}{f' ({name})' if name else ''}, "
            "and only 'bart' can be read; choose a checkpoint of BART."
        )
    architectures = values.get("architectures") or []
    if not isinstance(architectures, list):
        raise bad_value(path, "architectures", architectures, "a list of class names")
    for architecture in architectures:
        if architecture not in _ARCHITECTURES:
            raise CheckpointError(
                f"{path} was saved by {_SHOWN.repr(architecture)}, and only BART language "
                f"models can be read ({', '.join(_ARCHITECTURES)}); choose such a checkpoint."
            )
    for key, expected in _FIXED.items():
        found = values.get(key)
        if found is not None and found != expected:
            raise bad_value(path, key, found, f"{expected!r}, the only one that BART has")
    for key in _CODE:
        if values.get(key):
            raise CheckpointError(
                f"{path} has {key}, which names code of the checkpoint's author; nothing is run "
                "here but this package. Choose a checkpoint of transformers' own BART."
            )
    if values.get("quantization_config") is not None:
        raise CheckpointError(
            f"{path} has a quantization_config, and only float weights can be read; "
            "choose the checkpoint that was quantized."
        )


def _size(values: Mapping[str, Any], path: Path, keys: tuple[str, ...], limit: int) -> int:
    for key in keys:
        if values.get(key) is not None:
            return integer(values[key], key, path, 1, limit)
    raise CheckpointError(
        f"{path} lacks {' and '.join(keys)}; a BART cannot be built without. "
        "Download the checkpoint again."
    )


def _boolean(values: Mapping[str, Any], path: Path, key: str, default: bool) -> bool:
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise bad_value(path, key, value, "true or false")
    return value


def _probability(values: Mapping[str, Any], path: Path, key: str, default: float) -> float:
    value = values.get(key)
    if value is None:
        return default
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise bad_value(path, key, value, "a number from 0 to below 1")
    return float(value)

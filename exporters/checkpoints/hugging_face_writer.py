"""Writes a BART as a checkpoint in Hugging Face's layout, which transformers loads. It needs none
of its packages.

It knows the layout; Hugging Face's names for tensors have their own module.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig
from bart_onnx.publish import staged
from bart_onnx.tokenizer import BartTokenizer
from bart_onnx.weights import (
    FINAL_LOGITS_BIAS,
    LM_HEAD,
    TOKEN_EMBEDDING,
    unread_positions,
    weight_shapes,
)
from exporters.checkpoints.hugging_face_generation import PREFIX_KEY, TASK_KEY
from exporters.checkpoints.hugging_face_names import (
    BIAS_NAME,
    EMBEDDING_NAMES,
    HEAD_NAME,
    POSITION_OFFSET,
    file_name,
    is_transposed,
)
from exporters.checkpoints.safetensors_writer import Tensor, write_tensors

Reader = Callable[[], NDArray[np.float32]]

_GIGABYTE = 10**9  # as transformers counts
_TOKEN_IDS = {
    "bos_token_id": "start_token_id",
    "pad_token_id": "pad_token_id",
    "eos_token_id": "end_token_id",
    "decoder_start_token_id": "decoder_start_token_id",
}
# The first line of merges.txt, which readers of Hugging Face's layout skip unread.
_MERGES_VERSION = "#version: 0.2"


def write(
    directory: Path,
    config: BartConfig,
    weights: Mapping[str, Reader],
    tokenizer: BartTokenizer | None = None,
    *,
    generation_config: Mapping[str, Any] | None = None,
    tokenizer_json: Path | None = None,
    max_shard_size: float = 10,
) -> None:
    """Write a checkpoint into a new or empty directory, whole or not at all.

    Args:
        directory: the checkpoint's directory.
        config: what the model is.
        weights: name (`bart_onnx.weights`) to a function that reads it; read one at a time, and
            written as float32. The rows that nothing reads are zeros where none are given.
        tokenizer: its tokenizer, for vocab.json and merges.txt; None writes none.
        generation_config: generation defaults under transformers' names.
        tokenizer_json: the source's own tokenizer.json in Hugging Face's layout, copied.
        max_shard_size: largest size in GB (10**9 bytes) of one weight file.

    Raises:
        ExportError: the directory has something in it, or cannot be written.
    """
    generation = dict(generation_config or {})
    elsewhere = {key: generation.pop(key) for key in (TASK_KEY, PREFIX_KEY) if key in generation}
    ids = {key: getattr(config, field) for key, field in _TOKEN_IDS.items()}
    with staged(directory) as staging:
        _write_json(staging / "config.json", {**_config(config), **ids, **elsewhere})
        _write_json(staging / "generation_config.json", {**ids, **generation})
        if tokenizer is not None:
            _write_tokenizer(staging, config, tokenizer)
        if tokenizer_json is not None:
            shutil.copyfile(tokenizer_json, staging / "tokenizer.json")
        write_tensors(staging, _tensors(config, weights), max_shard_size * _GIGABYTE)


def _config(config: BartConfig) -> dict[str, Any]:
    encoder, decoder = config.encoder, config.decoder
    return {
        "architectures": ["BartForConditionalGeneration"],
        "model_type": "bart",
        "is_encoder_decoder": True,
        "activation_function": "gelu",
        "vocab_size": config.vocabulary_size,
        "d_model": config.hidden_dim,
        "max_position_embeddings": config.max_sequence_length,
        "encoder_layers": encoder.num_layers,
        # KerasHub and other readers of older files know the encoder's layers by this name.
        "num_hidden_layers": encoder.num_layers,
        "encoder_attention_heads": encoder.num_heads,
        "encoder_ffn_dim": encoder.intermediate_dim,
        "decoder_layers": decoder.num_layers,
        "decoder_attention_heads": decoder.num_heads,
        "decoder_ffn_dim": decoder.intermediate_dim,
        "dropout": config.dropout,
        "scale_embedding": config.scale_embedding,
        "tie_word_embeddings": config.tied_embeddings,
        "dtype": "float32",
    }


def _write_tokenizer(directory: Path, config: BartConfig, tokenizer: BartTokenizer) -> None:
    _write_json(directory / "vocab.json", tokenizer.vocabulary or {}, indent=None)
    merges = [rule for rule in tokenizer.merges or [] if not rule.startswith("#version")]
    text = "".join(f"{rule}\n" for rule in [_MERGES_VERSION, *merges])
    (directory / "merges.txt").write_text(text, encoding="utf-8", newline="\n")
    options = {
        "tokenizer_class": "BartTokenizer",
        "add_prefix_space": tokenizer.add_prefix_space,
        "model_max_length": config.max_sequence_length,
    }
    _write_json(directory / "tokenizer_config.json", options)


def _tensors(config: BartConfig, weights: Mapping[str, Reader]) -> dict[str, Tensor]:
    """Hugging Face's name to tensor, for everything that transformers itself would write."""
    vocabulary = config.vocabulary_size
    tensors = {
        BIAS_NAME: Tensor((1, vocabulary), lambda: np.zeros((1, vocabulary), dtype=np.float32))
    }
    special = {
        TOKEN_EMBEDDING: f"model.{EMBEDDING_NAMES[0]}",
        LM_HEAD: HEAD_NAME,
        FINAL_LOGITS_BIAS: BIAS_NAME,
    }
    if not config.tied_embeddings:
        # transformers then ties nothing, and would leave both sides' embeddings as they were born.
        copy = Tensor((vocabulary, config.hidden_dim), weights[TOKEN_EMBEDDING])
        tensors |= {f"model.{name}": copy for name in EMBEDDING_NAMES[1:]}
    for name, shape in weight_shapes(config).items():
        read = weights[name]
        if name in special:
            rows = (1, vocabulary) if name == FINAL_LOGITS_BIAS else shape
            tensors[special[name]] = Tensor(rows, read)
        elif name.endswith(".position_embedding"):
            side = name.split(".")[0]
            rows = (shape[0] + POSITION_OFFSET, shape[1])
            read = _with_unread_rows(read, weights.get(unread_positions(side)))
            tensors[f"model.{file_name(name)}"] = Tensor(rows, read)
        elif is_transposed(name):
            tensors[f"model.{file_name(name)}"] = Tensor(shape[::-1], _transposed(read))
        else:
            tensors[f"model.{file_name(name)}"] = Tensor(shape, read)
    return tensors


def _with_unread_rows(read: Reader, read_first: Reader | None) -> Reader:
    """The position table as the file has it, with the rows that no position reads in front."""

    def table() -> NDArray[np.float32]:
        rows = read()
        unread = np.zeros((POSITION_OFFSET, rows.shape[1]), dtype=np.float32)
        return np.concatenate([read_first() if read_first else unread, rows])

    return table


def _transposed(read: Reader) -> Reader:
    return lambda: read().T


def _write_json(path: Path, content: Mapping[str, Any], indent: int | None = 2) -> None:
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")

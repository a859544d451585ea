"""Writes a BART as a Keras preset that KerasHub 0.32 loads. It needs no Keras.

It knows the preset's layout; Keras' names for weights have their own module.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BACKBONE_ARGUMENTS, BartConfig
from bart_onnx.errors import InputError
from bart_onnx.keras_objects import keras_object
from bart_onnx.publish import staged
from bart_onnx.tokenizer import BartTokenizer
from bart_onnx.tokenizer_options import keras_dtype
from bart_onnx.weights import weight_shapes
from exporters.checkpoints.hdf5_sink import Hdf5Sink
from exporters.checkpoints.hugging_face_generation import FILE as GENERATION_FILE
from exporters.checkpoints.keras_config import LENGTHS, SPECIAL_TOKENS
from exporters.checkpoints.keras_names import dataset_name, dataset_shapes

Weights = Mapping[str, Callable[[], NDArray[np.float32]]]

# Whose layout this is.
_KERAS, _KERAS_HUB = "3.15.1", "0.32.0"
_GIGABYTE = 1 << 30
# What KerasHub's tokenizer takes; ours also keeps rules of added tokens, which it would refuse.
_TOKENIZER_KEYS = (
    "name",
    "trainable",
    "dtype",
    "config_file",
    "sequence_length",
    "add_prefix_space",
    "unsplittable_tokens",
)


def write(
    directory: Path,
    config: BartConfig,
    weights: Weights,
    tokenizer: BartTokenizer | None = None,
    *,
    encoder_sequence_length: int | None = None,
    decoder_sequence_length: int | None = None,
    generation_config: Mapping[str, Any] | None = None,
    max_shard_size: float = 10,
) -> None:
    """Write a preset into a new or empty directory, whole or not at all.

    Of a tokenizer's added tokens only what they are is kept: KerasHub cuts them out of text, but
    does not drop them from generated text and gives them no blanks.

    Args:
        directory: the preset's directory.
        config: what the model is.
        weights: name (`bart_onnx.weights`) to a function that reads it; read one at a time, and
            written as float32. Those that no model reads are left out.
        tokenizer: its tokenizer; None writes a preset of the backbone and task alone.
        encoder_sequence_length, decoder_sequence_length: lengths for preprocessor.json; None
            writes none, as KerasHub does, which then takes 1024.
        generation_config: generation defaults under transformers' names. KerasHub reads no such
            file and leaves it alone.
        max_shard_size: largest size in GB (2**30 bytes) of one weight file.

    Raises:
        InputError: a Keras preset cannot hold this model; the message names what.
        ExportError: the directory has something in it, or cannot be written.
    """
    _check_fits(config, tokenizer)
    given = zip(LENGTHS, (encoder_sequence_length, decoder_sequence_length), strict=True)
    lengths = {name: length for name, length in given if length is not None}
    with staged(directory) as staging:
        _write_objects(staging, config, tokenizer, lengths)
        if generation_config:
            _write_json(staging / GENERATION_FILE, generation_config)
        _write_weights(staging, config, weights, max_shard_size * _GIGABYTE)


def _check_fits(config: BartConfig, tokenizer: BartTokenizer | None) -> None:
    faults = {
        f"sides of unequal size (encoder {config.encoder}, decoder {config.decoder})": (
            config.encoder != config.decoder
        ),
        "scaled embeddings (scale_embedding)": config.scale_embedding,
        "a logits bias (final_logits_bias)": config.final_logits_bias,
        "an output projection of its own (tied_embeddings is False)": not config.tied_embeddings,
        f"decoder_start_token_id {config.decoder_start_token_id}, which is not end_token_id": (
            config.decoder_start_token_id != config.end_token_id
        ),
    }
    for field, token in SPECIAL_TOKENS.items() if tokenizer is not None else ():
        found = tokenizer.token_to_id(token) if tokenizer is not None else None
        expected = getattr(config, field)
        faults[f"{field} {expected}, when {token!r} is {found} in its tokenizer"] = (
            found != expected
        )
    held = [fault for fault, there in faults.items() if there]
    if held:
        raise InputError(
            f"This BART has {'; '.join(held)}, and a Keras preset cannot hold that. "
            'Save it with format="huggingface".'
        )


def _write_objects(
    directory: Path,
    config: BartConfig,
    tokenizer: BartTokenizer | None,
    lengths: Mapping[str, int],
) -> None:
    """Write the JSON files and the tokenizer's assets."""
    backbone = _backbone(config)
    preprocessor = _preprocessor(tokenizer, lengths) if tokenizer else None
    task = {"backbone": backbone, "preprocessor": preprocessor, "name": "bart_seq2_seq_lm"}
    files = {
        "config.json": backbone,
        "metadata.json": _metadata(config),
        "task.json": keras_object("BartSeq2SeqLM", task),
    }
    if tokenizer is not None and preprocessor is not None:
        files["preprocessor.json"] = preprocessor
        files["tokenizer.json"] = preprocessor["config"]["tokenizer"]
        tokenizer.save_assets(directory / "assets" / "tokenizer")
    for name, content in files.items():
        _write_json(directory / name, content)


def _metadata(config: BartConfig) -> dict[str, Any]:
    now = datetime.datetime.now()
    return {
        "keras_version": _KERAS,
        "keras_hub_version": _KERAS_HUB,
        "parameter_count": sum(math.prod(shape) for shape in weight_shapes(config).values()),
        "date_saved": now.strftime("%Y-%m-%d@%H:%M:%S"),
        "tasks": ["Seq2SeqLM"],
    }


def _backbone(config: BartConfig) -> dict[str, Any]:
    numbers = {name: getattr(config, name) for name in BACKBONE_ARGUMENTS}
    common = {"name": "bart_backbone", "trainable": True, "dtype": keras_dtype("float32")}
    return keras_object("BartBackbone", {**common, **numbers})


def _preprocessor(tokenizer: BartTokenizer, lengths: Mapping[str, int]) -> dict[str, Any]:
    options = tokenizer.get_config()
    inner = {key: options[key] for key in _TOKENIZER_KEYS}
    config = {
        "name": "bart_seq2_seq_lm_preprocessor",
        "trainable": True,
        "dtype": keras_dtype("float32"),
        "tokenizer": keras_object("BartTokenizer", inner),
        "config_file": "preprocessor.json",
        **lengths,
    }
    return keras_object("BartSeq2SeqLMPreprocessor", config)


def _write_weights(directory: Path, config: BartConfig, weights: Weights, limit: float) -> None:
    """Write the weights to one file or, where they are more than `limit` bytes, to several."""
    shapes = dataset_shapes(config)
    total = 4 * sum(math.prod(shape) for shape in shapes.values())
    if total <= limit:
        _write_datasets(
            directory / "model.weights.h5", list(weight_shapes(config)), shapes, weights
        )
        return
    weight_map: dict[str, str] = {}
    for index, names in enumerate(_shards(config, shapes, limit)):
        file = f"model_{index:05}.weights.h5"
        _write_datasets(directory / file, names, shapes, weights)
        weight_map |= {f"/{_group(name)}": file for name in names}
    index_content = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(directory / "model.weights.json", index_content)


def _shards(
    config: BartConfig, shapes: Mapping[str, tuple[int, ...]], limit: float
) -> Iterator[list[str]]:
    """Weights that go into one file each; those of one layer stay together."""
    groups: dict[str, list[str]] = {}
    for name in weight_shapes(config):
        groups.setdefault(_group(name), []).append(name)
    shard: list[str] = []
    filled = 0
    for names in groups.values():
        size = 4 * sum(math.prod(shapes[dataset_name(name)]) for name in names)
        if shard and filled + size > limit:
            yield shard
            shard, filled = [], 0
        shard, filled = [*shard, *names], filled + size
    yield shard


def _group(name: str) -> str:
    return dataset_name(name).rpartition("/")[0]


def _write_datasets(
    path: Path, names: list[str], shapes: Mapping[str, tuple[int, ...]], weights: Weights
) -> None:
    with path.open("w+b", buffering=0) as plain:
        sink = Hdf5Sink(plain)
        with h5py.File(sink, "w") as file:
            for name in names:
                dataset = dataset_name(name)
                array = np.asarray(weights[name](), dtype=np.float32)
                file.create_dataset(dataset, data=array.reshape(shapes[dataset]))
                if sink.error is not None:
                    break
        sink.raise_error()


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")

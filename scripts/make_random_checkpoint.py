#!/usr/bin/env python3
"""Writes a Hugging Face BART checkpoint of a named shape with seeded random weights.

    python scripts/make_random_checkpoint.py tiny DIRECTORY
    python scripts/make_random_checkpoint.py large DIRECTORY --shards 3 --dtype float16

It needs numpy only and holds a few megabytes at a time, however large the file. It knows neither
bart_onnx nor torch, so that what it writes can judge both.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from synthetic_tokenizer import write_synthetic_tokenizer

CHUNK = 1 << 20  # values drawn at a time: 4 MiB of float32
DTYPES = {"float32": ("F32", "<f4"), "float16": ("F16", "<f2")}
TOKENIZER_FILES = ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"]

Fill = Literal["normal", "ones", "zeros"]
Tensors = dict[str, tuple[tuple[int, ...], Fill]]


@dataclass(frozen=True)
class Values:
    """How tensors are filled. A value depends on its tensor and the seed, not on its file."""

    dtype: str
    seed: int
    standard_deviation: float

    def size(self, dimensions: tuple[int, ...]) -> int:
        """Bytes of a tensor."""
        return math.prod(dimensions) * np.dtype(DTYPES[self.dtype][1]).itemsize


@dataclass(frozen=True)
class Shape:
    """The numbers of a BART whose encoder and decoder are alike, and its generation defaults."""

    layers: int
    heads: int
    width: int
    feed_forward: int
    vocabulary_size: int
    tokenizer_size: int
    positions: int
    generation: Mapping[str, int | float | bool] = field(default_factory=dict)


SHAPES = {
    "tiny": Shape(2, 4, 64, 128, 261, 261, 128, {"max_length": 24}),
    "base": Shape(6, 12, 768, 3072, 50265, 50265, 1024),
    # bart-large-cnn: its embedding has no row for <mask>, the last id of its tokenizer.
    "large": Shape(
        *(12, 16, 1024, 4096, 50264, 50265, 1024),
        {
            "num_beams": 4,
            "max_length": 142,
            "min_length": 56,
            "length_penalty": 2.0,
            "no_repeat_ngram_size": 3,
            "early_stopping": True,
            "forced_bos_token_id": 0,
        },
    ),
}


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    output: Path = options.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        return _fail(f"{output} is there and not empty; name a new directory or empty this one.")
    shape = SHAPES[options.shape]
    if options.tokenizer and not any(
        (options.tokenizer / name).is_file() for name in TOKENIZER_FILES
    ):
        return _fail(f"{options.tokenizer} holds no {' or '.join(TOKENIZER_FILES)}.")
    tensors = tensor_table(shape)
    output.mkdir(parents=True, exist_ok=True)
    values = Values(options.dtype, options.seed, options.standard_deviation)
    write_weights(output, tensors, values, options.shards)
    write_tokenizer(output, shape.tokenizer_size, options.tokenizer)
    _write_json(output / "generation_config.json", generation_config(shape))
    # Last, so that what an interrupted run leaves is no checkpoint.
    _write_json(output / "config.json", model_config(shape, values))
    parameters = sum(math.prod(dimensions) for dimensions, _ in tensors.values())
    print(f"{output}: {options.shape}, {parameters:,} random {options.dtype} parameters")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("shape", choices=SHAPES, help="large is bart-large-cnn's")
    parser.add_argument("output", type=Path, help="a new or empty directory")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="weight files to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--standard-deviation",
        type=float,
        default=0.02,
        metavar="X",
        help="of the normal values; default 0.02, where training starts: such a model repeats its "
        "last token, at 0.1 its layers count for more",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIRECTORY",
        help="copy the tokenizer files from here; without it a synthetic vocabulary of the right "
        "size is written, whose merges mean nothing",
    )
    options = parser.parse_args(arguments)
    if options.shards < 1:
        parser.error(f"--shards must be at least 1, found {options.shards}")
    return options


def _fail(message: str) -> int:
    print(f"make_random_checkpoint: {message}", file=sys.stderr)
    return 1


def model_config(shape: Shape, values: Values) -> dict[str, object]:
    """config.json under Hugging Face's names."""
    sides: dict[str, object] = {}
    for side in ("encoder", "decoder"):
        sides[f"{side}_layers"] = shape.layers
        sides[f"{side}_attention_heads"] = shape.heads
        sides[f"{side}_ffn_dim"] = shape.feed_forward
    return {
        "architectures": ["BartForConditionalGeneration"],
        "model_type": "bart",
        "activation_function": "gelu",
        "d_model": shape.width,
        **sides,
        "num_hidden_layers": shape.layers,
        "vocab_size": shape.vocabulary_size,
        "max_position_embeddings": shape.positions,
        "scale_embedding": False,
        "dropout": 0.1,
        "is_encoder_decoder": True,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "init_std": values.standard_deviation,
        "dtype": values.dtype,
    }


def generation_config(shape: Shape) -> dict[str, object]:
    """generation_config.json under transformers' names."""
    return {
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
        **shape.generation,
    }


def tensor_table(shape: Shape) -> Tensors:
    """Name, dimensions and filling of every tensor, in the order of the file."""
    width = shape.width
    tensors: Tensors = {"model.shared.weight": ((shape.vocabulary_size, width), "normal")}
    for side in ("encoder", "decoder"):
        prefix = f"model.{side}"
        # Hugging Face keeps two rows before position 0.
        tensors[f"{prefix}.embed_positions.weight"] = ((shape.positions + 2, width), "normal")
        tensors |= _norm(f"{prefix}.layernorm_embedding", width)
        for index in range(shape.layers):
            tensors |= _layer(f"{prefix}.layers.{index}", side, shape)
    tensors["final_logits_bias"] = ((1, shape.vocabulary_size), "zeros")
    return tensors


def _layer(prefix: str, side: str, shape: Shape) -> Tensors:
    width, tensors = shape.width, Tensors()
    for attention in ["self_attn"] + (["encoder_attn"] if side == "decoder" else []):
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors |= _dense(f"{prefix}.{attention}.{projection}", width, width)
        tensors |= _norm(f"{prefix}.{attention}_layer_norm", width)
    tensors |= _dense(f"{prefix}.fc1", width, shape.feed_forward)
    tensors |= _dense(f"{prefix}.fc2", shape.feed_forward, width)
    return tensors | _norm(f"{prefix}.final_layer_norm", width)


def _dense(name: str, inputs: int, outputs: int) -> Tensors:
    return {f"{name}.weight": ((outputs, inputs), "normal"), f"{name}.bias": ((outputs,), "zeros")}


def _norm(name: str, width: int) -> Tensors:
    return {f"{name}.weight": ((width,), "ones"), f"{name}.bias": ((width,), "zeros")}


def write_weights(output: Path, tensors: Tensors, values: Values, shards: int) -> None:
    """Writes model.safetensors, or its shards and their index."""
    seeds = {name: [values.seed, index] for index, name in enumerate(tensors)}
    parts = _split(tensors, values, shards)
    if len(parts) == 1:
        _write_safetensors(output / "model.safetensors", tensors, values, seeds)
        return
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        _write_safetensors(output / name, part, values, seeds)
        weight_map |= dict.fromkeys(part, name)
    total_size = sum(values.size(dimensions) for dimensions, _ in tensors.values())
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    _write_json(output / "model.safetensors.index.json", index)


def _split(tensors: Tensors, values: Values, shards: int) -> list[Tensors]:
    """Cuts the table where each shard has had its share of the bytes."""
    total = sum(values.size(dimensions) for dimensions, _ in tensors.values())
    parts: list[Tensors] = [{}]
    written = 0
    for name, entry in tensors.items():
        if parts[-1] and written * shards >= total * len(parts):
            parts.append({})
        parts[-1][name] = entry
        written += values.size(entry[0])
    return parts


def _write_safetensors(
    path: Path, tensors: Tensors, values: Values, seeds: Mapping[str, list[int]]
) -> None:
    """The format by hand: length of the header (8 bytes), header (JSON), the tensors' bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dimensions, _) in tensors.items():
        end = offset + values.size(dimensions)
        header[name] = {
            "dtype": DTYPES[values.dtype][0],
            "shape": dimensions,
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, (dimensions, fill) in tensors.items():
            _write_values(file, math.prod(dimensions), fill, values, seeds[name])


def _write_values(file: BinaryIO, count: int, fill: Fill, values: Values, seed: list[int]) -> None:
    generator = np.random.default_rng(seed)
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        if fill == "normal":
            chunk = generator.standard_normal(size, dtype=np.float32)
            chunk *= np.float32(values.standard_deviation)
        else:
            chunk = np.full(size, 1.0 if fill == "ones" else 0.0, dtype=np.float32)
        file.write(chunk.astype(DTYPES[values.dtype][1], copy=False).data)


def write_tokenizer(output: Path, size: int, source: Path | None) -> None:
    """Copies the tokenizer from `source`, or writes a synthetic one of `size` tokens."""
    if source is not None:
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, output / name)
        return
    write_synthetic_tokenizer(output, size)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

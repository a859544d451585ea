"""Reads a BART checkpoint in Hugging Face's layout from a directory into a Checkpoint.

It knows which tensors a BART has and how its embeddings may be tied; file formats, names and
config.json have their own modules. Shapes are checked before any tensor is read.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig
from bart_onnx.errors import CheckpointError
from bart_onnx.weights import (
    FINAL_LOGITS_BIAS,
    LM_HEAD,
    TOKEN_EMBEDDING,
    unread_positions,
    weight_shapes,
)
from exporters.checkpoints.checkpoint import Checkpoint
from exporters.checkpoints.hugging_face_config import bart_config
from exporters.checkpoints.hugging_face_generation import generation_config
from exporters.checkpoints.hugging_face_names import (
    BIAS_NAME,
    EMBEDDING_NAMES,
    HARMLESS_NAMES,
    HEAD_NAME,
    POSITION_OFFSET,
    file_name,
    foreign_heads,
    is_transposed,
    layer_shapes,
    plain_name,
)
from exporters.checkpoints.hugging_face_weights import OpenWeights, open_weights
from exporters.checkpoints.local_files import (
    find_file,
    need_file,
    open_directory,
    read_json_object,
    some,
)
from exporters.checkpoints.safetensors_file import (
    WEIGHT_DTYPES,
    TensorEntry,
    read_tensor,
    same_values,
)

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")

_logger = logging.getLogger(__name__)

Reader = Callable[[], NDArray[np.float32]]


def read(directory: Path, *, source: str, allow_pickle: bool = False) -> Checkpoint:
    """Open the checkpoint in `directory`; `source` names it for people.

    Weights come from model.safetensors or its sharded index; pickles are read only with
    `allow_pickle`, in a child process, and only where nothing else is there. An `lm_head` that
    differs from the embedding gives `tied_embeddings=False` even where config.json says tied, as
    in transformers.

    Raises:
        MissingFileError: no such directory, no config.json, or no weights in it.
        CheckpointError: a file is damaged, contradicts another, is a pickle without
            `allow_pickle`, or describes no BART language model.
        MissingPackageError: a pickle is to be read and torch is not installed.
    """
    root = open_directory(directory, source)
    config_path = need_file(root, "config.json", source)
    values = read_json_object(config_path)
    config = bart_config(values, config_path)
    generation = generation_config(root, values, config_path, config)
    tokenizer = {name: find_file(root, name) for name in TOKENIZER_FILES}
    opened = open_weights(root, source, allow_pickle)
    try:
        tensors = _checked_tensors(config, opened, config_path)
        config, chosen = _choose(config, tensors, opened.path)
    except BaseException:
        opened.close()
        raise
    weights = {name: piece.reader(opened) for name, piece in chosen.items()}
    return Checkpoint(
        source=source,
        format="huggingface",
        config=config,
        generation_config=generation,
        weights=weights,
        weight_bytes=sum(4 * math.prod(piece.shape) for piece in chosen.values()),
        source_dtypes={name: WEIGHT_DTYPES[piece.entry.dtype] for name, piece in chosen.items()},
        tokenizer_files={name: path for name, path in tokenizer.items() if path is not None},
        close=opened.close,
    )


@dataclass(frozen=True)
class _Piece:
    """The part of a tensor that is one weight, and that weight's shape."""

    entry: TensorEntry
    shape: tuple[int, ...]
    first_row: int = 0
    last_row: int | None = None
    transpose: bool = False

    def reader(self, opened: OpenWeights) -> Reader:
        def read_weight(_alive: OpenWeights = opened) -> NDArray[np.float32]:
            # `_alive` keeps converted pickles on disk for as long as a reader is left.
            rows = slice(self.first_row, self.last_row)
            array = read_tensor(self.entry, rows, transpose=self.transpose)
            return array.reshape(self.shape)

        return read_weight


def _checked_tensors(
    config: BartConfig, opened: OpenWeights, config_path: Path
) -> dict[str, TensorEntry]:
    """Plain name to tensor, for exactly the tensors that a BART of this config has."""
    tensors: dict[str, TensorEntry] = {}
    for name, entry in opened.entries.items():
        other = tensors.setdefault(plain_name(name), entry)
        if other is not entry:
            raise CheckpointError(
                f"{opened.path} holds {other.name!r} and {name!r}, which are the same weight; "
                "remove one."
            )
    heads = foreign_heads(tensors)
    if heads:
        names = [tensors[name].name for name in heads]
        raise CheckpointError(
            f"{opened.path} holds a head for {next(iter(heads.values()))} ({some(names)}), and "
            "only BART language models can be read; choose such a checkpoint."
        )
    faults = _faults(config, tensors)
    if faults:
        raise CheckpointError(
            f"{opened.path} does not fit {config_path}: {'; '.join(faults)}. "
            "Take both files from the same checkpoint."
        )
    return tensors


def _faults(config: BartConfig, tensors: Mapping[str, TensorEntry]) -> list[str]:
    embedding = (config.vocabulary_size, config.hidden_dim)
    shapes = layer_shapes(config)
    optional = dict.fromkeys((*EMBEDDING_NAMES, HEAD_NAME), embedding)
    bias = (config.vocabulary_size,)
    prefix = "model." if any(e.name.startswith("model.") for e in tensors.values()) else ""

    missing = [prefix + name for name in shapes if name not in tensors]
    has_head = HEAD_NAME in tensors
    has_embedding = any(name in tensors for name in EMBEDDING_NAMES)
    if not has_embedding and not (config.tied_embeddings and has_head):
        missing.append(prefix + EMBEDDING_NAMES[0])
    if not config.tied_embeddings and not has_head:
        missing.append(f"{HEAD_NAME} (tie_word_embeddings is false)")
    unexpected, wrong_shapes, wrong_dtypes = [], [], []
    for name, entry in tensors.items():
        if name in HARMLESS_NAMES:
            continue
        allowed = [bias, (1, *bias)] if name == BIAS_NAME else [{**shapes, **optional}.get(name)]
        if allowed == [None]:
            unexpected.append(entry.name)
        elif entry.shape not in allowed:
            wanted = " or ".join(str(list(shape)) for shape in allowed if shape)
            wrong_shapes.append(f"{entry.name} {list(entry.shape)}, expected {wanted}")
        elif entry.dtype not in WEIGHT_DTYPES:
            wrong_dtypes.append(f"{entry.name} {entry.dtype}")
    lists = {
        "missing": missing,
        "unexpected": unexpected,
        "of wrong shape": wrong_shapes,
        f"of a dtype other than {', '.join(WEIGHT_DTYPES)}": wrong_dtypes,
    }
    return [f"{len(names)} {what}: {some(names)}" for what, names in lists.items() if names]


def _choose(
    config: BartConfig, tensors: Mapping[str, TensorEntry], path: Path
) -> tuple[BartConfig, dict[str, _Piece]]:
    """The config as the weights settle it, and where each of its weights lies."""
    embedding, head = _embeddings(config, tensors, path)
    bias = tensors.get(BIAS_NAME)
    config = dataclasses.replace(
        config,
        tied_embeddings=head is None,
        final_logits_bias=bias is not None and bool(np.any(read_tensor(bias))),
    )
    special = {TOKEN_EMBEDDING: embedding, LM_HEAD: head, FINAL_LOGITS_BIAS: bias}
    pieces = {}
    for name, shape in weight_shapes(config).items():
        entry = special[name] if name in special else tensors[file_name(name)]
        assert entry is not None
        first_row = POSITION_OFFSET if name.endswith(".position_embedding") else 0
        pieces[name] = _Piece(entry, shape, first_row, transpose=is_transposed(name))
    for side in ("encoder", "decoder"):
        table = pieces[f"{side}.position_embedding"].entry
        shape = (POSITION_OFFSET, config.hidden_dim)
        pieces[unread_positions(side)] = _Piece(table, shape, last_row=POSITION_OFFSET)
    return config, pieces


def _embeddings(
    config: BartConfig, tensors: Mapping[str, TensorEntry], path: Path
) -> tuple[TensorEntry, TensorEntry | None]:
    """The token embedding, and the output projection where it is another matrix."""
    embeddings = [tensors[name] for name in EMBEDDING_NAMES if name in tensors]
    head = tensors.get(HEAD_NAME)
    if not embeddings:
        assert head is not None
        return head, None
    first, *others = embeddings
    for other in others:
        if not same_values(first, other):
            raise CheckpointError(
                f"{path} holds {first.name!r} and {other.name!r} with different values, and "
                "this package has one token embedding for both sides; it cannot be read."
            )
    if not config.tied_embeddings:
        return first, head
    if head is None or same_values(first, head):
        return first, None
    _logger.warning(
        "config.json ties the output projection to the embedding, but %s holds %r and %r with "
        "different values; the projection is read as it is, not tied (as transformers does).",
        path,
        first.name,
        head.name,
    )
    return first, head

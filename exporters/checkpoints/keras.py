"""Reads what Keras saved of a BART into a Checkpoint: a preset's directory, a `.keras` archive, or
the weights alone. It needs no Keras, and makes nothing from the class names in the files.

It knows which files belong together; their contents have their own modules.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig
from bart_onnx.errors import CheckpointError
from bart_onnx.weights import weight_shapes
from exporters.checkpoints.checkpoint import Checkpoint
from exporters.checkpoints.hugging_face_generation import saved_generation_config
from exporters.checkpoints.keras_archive import KerasArchive
from exporters.checkpoints.keras_config import (
    BACKBONE,
    PREPROCESSORS,
    TASK,
    TOKENIZER,
    backbone_config,
    check_objects,
    config_of,
    config_of_shapes,
    sequence_lengths,
)
from exporters.checkpoints.keras_weights import (
    KerasWeights,
    match_weights,
    open_file,
    open_weights,
)
from exporters.checkpoints.local_files import (
    find_file,
    need_file,
    open_directory,
    parse_json_object,
    read_json_object,
)
from exporters.checkpoints.safetensors_file import WEIGHT_DTYPES, TensorEntry, read_tensor

_CONFIG, _TASK, _PREPROCESSOR, _TOKENIZER = (
    f"{name}.json" for name in ("config", "task", "preprocessor", "tokenizer")
)
_VOCABULARY, _MERGES = "vocabulary.json", "merges.txt"
_ASSETS = "assets/tokenizer"
_ARCHIVE_ASSET = re.compile(r"assets/(?:[a-z_]+/)*tokenizer/(vocabulary\.json|merges\.txt)")


def read(directory: Path, *, source: str) -> Checkpoint:
    """Open the Keras preset in `directory`; `source` names it for people.

    Token ids are those of its vocabulary. The tokenizer keeps the preset's options, so `<mask>`
    is special only where they say so; sequence lengths count where the preset has any. Keras
    writes no generation_config.json; `save_to_preset` does where the model has one.

    Raises:
        MissingFileError: no such directory, or a file that a preset needs is not in it.
        CheckpointError: a file is damaged or hostile, contradicts another, or is no BART's.
    """
    root = open_directory(directory, source)
    config_path = need_file(root, _CONFIG, source)
    values = read_json_object(config_path)
    check_objects(values, config_path)
    tokenizer = _preset_tokenizer(root, source)
    vocabulary = read_json_object(tokenizer[_VOCABULARY]) if _VOCABULARY in tokenizer else None
    config = backbone_config(values, config_path, vocabulary)
    generation_config = saved_generation_config(root, config)
    checkpoint = _checkpoint(source, config, open_weights(root, source), config_path, tokenizer)
    return replace(checkpoint, generation_config=generation_config)


def read_archive(path: Path, *, source: str) -> Checkpoint:
    """Open a `.keras` archive of a BartSeq2SeqLM or BartBackbone.

    Raises:
        CheckpointError: the archive is damaged or hostile, or is no BART's.
    """
    archive = KerasArchive(path)
    what = f"{_CONFIG} in {path}"
    values = parse_json_object(archive.read(_CONFIG), what)
    check_objects(values, Path(what))
    backbone: object = values
    preprocessor: object = None
    if values.get("class_name") != BACKBONE:
        task = config_of(values, Path(what), TASK, BACKBONE)
        backbone, preprocessor = task.get("backbone"), task.get("preprocessor")
    unpacked = _Unpacked()
    try:
        vocabulary = _unpack_tokenizer(archive, preprocessor, unpacked.directory)
        config = backbone_config(backbone, Path(what), vocabulary)
        member = archive.need("model.weights.h5")
        weights = open_file(path, member.start, member.size)
        files = {file.name: file for file in unpacked.directory.iterdir()}
        return _checkpoint(source, config, weights, Path(what), files, unpacked.close)
    except BaseException:
        unpacked.close()
        raise


def read_weights_file(path: Path, *, source: str, config: BartConfig | None = None) -> Checkpoint:
    """Open the weights that `save_weights` wrote of a BartSeq2SeqLM or BartBackbone.

    Args:
        config: what the model is; None takes its numbers from the datasets' shapes and BART's own
            token ids. There is no tokenizer.

    Raises:
        CheckpointError: the file is damaged or hostile, or does not fit the config.
    """
    weights = open_file(path)
    if config is None:
        shapes = {name: entry.shape for name, entry in weights.entries.items()}
        config = config_of_shapes(shapes, path)
    return _checkpoint(source, config, weights, Path("its config"), {})


def is_preset(values: Mapping[str, Any]) -> bool:
    """Whether the content of a config.json is a Keras preset's."""
    return "registered_name" in values


class _Unpacked:
    """A directory for the tokenizer of an archive; it goes when this goes or is closed."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bart_onnx-keras-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self.directory, ignore_errors=True)

    def close(self) -> None:
        """Remove the files now."""
        self._remove()


def _checkpoint(
    source: str,
    config: BartConfig,
    weights: KerasWeights,
    config_path: Path,
    tokenizer: Mapping[str, Path],
    close: Callable[[], None] = lambda: None,
) -> Checkpoint:
    chosen = match_weights(config, weights, config_path)
    shapes = weight_shapes(config)
    return Checkpoint(
        source=source,
        format="keras",
        config=config,
        generation_config={},
        weights={name: _reader(entry, shapes[name]) for name, entry in chosen.items()},
        weight_bytes=sum(4 * math.prod(shapes[name]) for name in chosen),
        source_dtypes={name: WEIGHT_DTYPES[entry.dtype] for name, entry in chosen.items()},
        tokenizer_files=tokenizer,
        close=close,
    )


def _reader(entry: TensorEntry, shape: tuple[int, ...]) -> Callable[[], NDArray[np.float32]]:
    # [width, heads, head] and [heads, head, width] are kernels with one side split: no byte moves.
    return lambda: read_tensor(entry).reshape(shape)


def _preset_tokenizer(root: Path, source: str) -> dict[str, Path]:
    """The files of a preset's tokenizer, under the names they have in a bundle."""
    files: dict[str, Path] = {}
    kinds = {_TASK: (TASK,), _TOKENIZER: (TOKENIZER,), _PREPROCESSOR: PREPROCESSORS}
    for name, classes in kinds.items():
        path = find_file(root, name)
        if path is None:
            continue
        values = read_json_object(path)
        check_objects(values, path)
        config = config_of(values, path, *classes)
        # A task's own config is in the files beside it; lengths count where somebody set them.
        if name == _TOKENIZER or (name == _PREPROCESSOR and sequence_lengths(config, path)):
            files[name] = path
    assets = [f"{_ASSETS}/{name}" for name in (_VOCABULARY, _MERGES)]
    if any(find_file(root, name) for name in assets):
        files |= {Path(name).name: need_file(root, name, source) for name in assets}
        return files
    return {}


def _unpack_tokenizer(
    archive: KerasArchive, preprocessor: object, directory: Path
) -> dict[str, Any] | None:
    """Write an archive's tokenizer as a preset has it; returns the vocabulary, if there is one."""
    if preprocessor is None:
        return None
    what = Path(f"{_CONFIG} in {archive.path}")
    config = config_of(preprocessor, what, *PREPROCESSORS)
    members = {
        match[1]: name
        for name, match in ((name, _ARCHIVE_ASSET.fullmatch(name)) for name in archive.names())
        if match
    }
    if set(members) != {_VOCABULARY, _MERGES}:
        raise CheckpointError(
            f"{archive.path} has a preprocessor, but not its tokenizer's {_VOCABULARY} and "
            f"{_MERGES}; save it again with model.save()."
        )
    for file, member in members.items():
        (directory / file).write_bytes(archive.read(member))
    objects = {_TOKENIZER: config.get("tokenizer")}
    config_of(objects[_TOKENIZER], what, TOKENIZER)
    if sequence_lengths(config, what):
        objects[_PREPROCESSOR] = preprocessor
    for file, value in objects.items():
        (directory / file).write_text(json.dumps(value), encoding="utf-8")
    return parse_json_object((directory / _VOCABULARY).read_bytes(), f"{_VOCABULARY} of {what}")

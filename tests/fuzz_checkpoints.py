"""Readers of what an export begins with: checkpoints, presets and archives of strangers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from fuzz_made import (
    archive_descriptions,
    hdf5_descriptions,
    put_archive,
    put_files,
    put_hdf5,
    put_training_state,
    training_states,
)
from fuzz_seeds import (
    CONFIG,
    JSON_WORDS,
    archive,
    as_json,
    hdf5,
    old_hdf5,
    safetensors,
    safetensors_header,
    weight_maps,
)
from fuzz_trial import Reader
from keras_files import GOLDEN, PRESET, without_child

from bart_onnx.decoding.generation_config import decoding_options, for_summarization
from bart_onnx.errors import MissingFileError
from exporters.checkpoints import hugging_face_weights, keras, keras_weights
from exporters.checkpoints.hugging_face_config import bart_config
from exporters.checkpoints.hugging_face_generation import generation_config
from exporters.checkpoints.keras_archive import KerasArchive
from exporters.checkpoints.keras_config import (
    PREPROCESSORS,
    backbone_config,
    check_objects,
    config_of,
    config_of_shapes,
    sequence_lengths,
)
from exporters.checkpoints.keras_h5 import Hdf5, find_datasets
from exporters.checkpoints.local_files import parse_json_object
from exporters.checkpoints.safetensors_file import (
    WEIGHT_DTYPES,
    read_header,
    read_tensor,
)

CONFIG_JSON = Path("config.json")
_SMALL = 1 << 16
_PARTS = ("task.json", "preprocessor.json", "tokenizer.json", "config.json")


def _hugging_face_config(data: bytes, directory: Path) -> object:
    return bart_config(parse_json_object(data, "config.json"), CONFIG_JSON)


def _keras_config(data: bytes, directory: Path) -> object:
    values = parse_json_object(data, "config.json")
    check_objects(values, CONFIG_JSON)
    if values.get("class_name") in PREPROCESSORS:
        return sequence_lengths(config_of(values, CONFIG_JSON, *PREPROCESSORS), CONFIG_JSON)
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2}
    return backbone_config(values, CONFIG_JSON, vocabulary if len(data) % 2 else None)


def _generation(data: bytes, directory: Path) -> object:
    values = parse_json_object(data, "generation_config.json")
    found = generation_config(directory, values, CONFIG_JSON, CONFIG)
    decoding_options(for_summarization(found), CONFIG, {})
    return decoding_options(found, CONFIG, {})


def _safetensors(data: bytes, directory: Path) -> object:
    entries = read_header(directory / "x.safetensors")
    for entry in list(entries.values())[:4]:
        if entry.dtype in WEIGHT_DTYPES and 0 < np.prod(entry.shape, dtype=float) < _SMALL:
            read_tensor(entry)
    return entries


def _read_hdf5(data: bytes, directory: Path) -> object:
    path = directory / "x.weights.h5"
    found = find_datasets(Hdf5(path))
    shapes = {name: entry.shape for name, entry in found.items()}
    return config_of_shapes(shapes, path)


def _read_archive(data: bytes, directory: Path) -> object:
    archive = KerasArchive(directory / "x.keras")
    for name in archive.names()[:8]:
        archive.read(name)
    values = parse_json_object(archive.read("config.json"), "config.json")
    check_objects(values, CONFIG_JSON)
    return archive.need("model.weights.h5")


def _keras_index(data: bytes, directory: Path) -> object:
    with without_child():
        return keras_weights.open_weights(directory, "x")


def _keras_preset(data: bytes, directory: Path) -> object:
    """All but the weights, which the other readers are for: they are looked for last."""
    try:
        return keras.read(directory, source="x")
    except MissingFileError as error:
        if "weights" not in str(error):
            raise
        return error


def _training_state(data: bytes, directory: Path) -> object:
    import torch

    from exporters.training.checkpoint import check_terms, load_run
    from exporters.training.position import read_place

    saved = load_run(directory, torch.device("cpu"))
    assert saved is not None
    check_terms(directory, saved.terms, {"seed": 0})
    return read_place(saved.position)


def _copy_assets(directory: Path) -> None:
    shutil.copytree(PRESET / "assets", directory / "assets", copy_function=shutil.copyfile)


def _shard(name: str, data: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes(data())


def _golden(*names: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [(GOLDEN / name).read_bytes() for name in names]


_KERAS_WORDS = (*JSON_WORDS, b"Lambda", b"class_name", b"registered_name", b"keras_hub>")

CHECKPOINTS: Mapping[str, Reader] = {
    "config_hugging_face": Reader(
        _hugging_face_config, _golden("hf_checkpoint/config.json"), words=JSON_WORDS
    ),
    "config_keras": Reader(
        _keras_config,
        _golden("keras_preset/config.json", "keras_preset/preprocessor.json"),
        words=_KERAS_WORDS,
    ),
    "generation_config": Reader(
        _generation,
        lambda: [
            as_json(
                {"num_beams": 4, "length_penalty": 2.0, "forced_bos_token_id": 0, "prefix": "a"}
            ),
            as_json({"bad_words_ids": [[1]], "sequence_bias": [[[1], 2.0]], "stop_strings": ["a"]}),
            as_json({"task_specific_params": {"summarization": {"max_length": 20}}, "top_p": 0.5}),
        ],
        words=(*JSON_WORDS, b"early_stopping", b"suppress_tokens", b"eos_token_id"),
    ),
    "safetensors": Reader(_safetensors, lambda: [safetensors()], "x.safetensors"),
    "safetensors_header": Reader(
        _safetensors,
        lambda: [safetensors_header()],
        put=lambda data, directory: (directory / "x.safetensors").write_bytes(safetensors(data)),
        words=(*JSON_WORDS, b"BF16", b"F16", b"I64", b"dtype", b"shape", b"data_offsets", b"64"),
    ),
    "safetensors_index": Reader(
        lambda data, directory: hugging_face_weights.open_weights(directory, "x", False),
        lambda: weight_maps("a.safetensors"),
        "model.safetensors.index.json",
        _shard("a.safetensors", safetensors),
        words=(*JSON_WORDS, b"a.safetensors", b"weight_map"),
    ),
    "keras_h5": Reader(_read_hdf5, lambda: [hdf5(), old_hdf5()], "x.weights.h5", apart=True),
    "keras_h5_contents": Reader(
        _read_hdf5,
        hdf5_descriptions,
        put=lambda data, directory: put_hdf5(data, directory / "x.weights.h5"),
        words=(*JSON_WORDS, b"f2", b"V2", b"S9", b"bool", b"layers/a", b"shape", b"soft", b"hard"),
    ),
    "keras_archive": Reader(_read_archive, lambda: [archive()], "x.keras"),
    "keras_archive_contents": Reader(
        _read_archive,
        archive_descriptions,
        put=lambda data, directory: put_archive(data, directory / "x.keras"),
        words=(*_KERAS_WORDS, b"assets/", b"../", b"\\\\", b"config.json", b"8", b"41471"),
    ),
    "keras_index": Reader(
        _keras_index,
        lambda: [
            as_json({"weight_map": {"/layers/a/vars": "a.weights.h5"}}),
            as_json({"weight_map": {"/layers/a/vars": ["a.weights.h5"]}}),
        ],
        "model.weights.json",
        _shard("a.weights.h5", old_hdf5),
        words=(*JSON_WORDS, b"a.weights.h5", b"weight_map"),
    ),
    "keras_preset": Reader(
        _keras_preset,
        lambda: [b"\0".join((PRESET / name).read_bytes() for name in _PARTS)],
        prepare=_copy_assets,
        put=put_files(*_PARTS),
        words=(*_KERAS_WORDS, b"sequence_length", b"tokenizer", b"unsplittable_tokens"),
    ),
    "training_state": Reader(
        _training_state,
        training_states,
        put=lambda data, directory: put_training_state(
            data, directory / "training_state.safetensors"
        ),
        words=(*JSON_WORDS, b"steps", b"fit", b"totals", b"best", b"history", b"terms"),
    ),
}

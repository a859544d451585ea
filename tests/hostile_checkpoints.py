"""Hugging Face checkpoints, tokenizers and files that no honest author wrote.

A builder gets a directory that is not there yet, and returns what is to be opened. It needs neither
torch nor transformers.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hostile_hdf5 import FULL, Builder
from hostile_presets import at_top, in_config, objects
from keras_files import GOLDEN, write_arrays

CHECKPOINT = GOLDEN / "hf_checkpoint"
PICKLE = "pytorch_model.bin"


class Evil:
    """Unpickling this starts a program."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/unpickled",)


def files(change: Callable[[Path], object]) -> Builder:
    """A checkpoint some of whose files were changed."""

    def build(directory: Path) -> Path:
        shutil.copytree(CHECKPOINT, directory, copy_function=shutil.copyfile)
        change(directory)
        return directory

    return build


def config(**changes: object) -> Builder:
    """A checkpoint whose config.json says something else."""

    def change(directory: Path) -> None:
        values = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**values, **changes}))
        (directory / "modeling_bart.py").write_text("raise SystemExit('it was imported')")

    return files(change)


def weights(content: bytes, name: str = "model.safetensors") -> Builder:
    """A checkpoint with other weights."""

    def change(directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        (directory / name).write_bytes(content)

    return files(change)


def tokenizer(content: object) -> Builder:
    """A tokenizer.json alone."""

    def build(directory: Path) -> Path:
        directory = directory.with_suffix(".tokenizer")
        directory.mkdir()
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        (directory / "tokenizer.json").write_bytes(raw)
        return directory

    return build


def keras_tokenizer(**values: object) -> Builder:
    """The tokenizer of a Keras preset with other options."""

    def build(preset: Path) -> Path:
        shutil.copytree(GOLDEN / "keras_preset", preset, copy_function=shutil.copyfile)
        objects("tokenizer.json", in_config(**values))(preset)
        target = preset.with_suffix(".tokenizer")
        os.rename(preset, target)
        return target

    return build


def keras(change: Builder) -> Builder:
    """A Keras preset that was changed."""

    def build(preset: Path) -> Path:
        shutil.copytree(GOLDEN / "keras_preset", preset, copy_function=shutil.copyfile)
        return change(preset)

    return build


def large_merges(directory: Path) -> Path:
    """A vocabulary, and a gigabyte of merges that takes no place."""
    directory = directory.with_suffix(".tokenizer")
    directory.mkdir()
    (directory / "vocab.json").write_text(json.dumps({"<s>": 0, "<pad>": 1, "</s>": 2}))
    with (directory / "merges.txt").open("wb") as file:
        file.truncate(1 << 30)
    return directory


def bart_tokenizer(**model: object) -> dict[str, Any]:
    """A BART's tokenizer.json with another model."""
    level = {"type": "ByteLevel", "add_prefix_space": False}
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3}
    return {
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], **model},
    }


def archive(directory: Path) -> Path:
    """A tar whose member would be unpacked above."""
    path = directory.with_suffix(".tar")
    with tarfile.open(path, "w") as made:
        info = tarfile.TarInfo("../../unpacked")
        info.size = 1
        made.addfile(info, io.BytesIO(b"x"))
    return path


def npz(directory: Path) -> bytes:
    """An archive of arrays, one of them pickled objects."""
    file = io.BytesIO()
    np.savez(file, weights=np.array([Evil()], dtype=object))
    return file.getvalue()


def legacy_model(directory: Path) -> Path:
    """A whole model in HDF5, with a Lambda in its attributes."""
    import h5py

    path = write_arrays(directory.with_suffix(".weights.h5"), {"dense/vars/0": FULL})
    layer = {"class_name": "Lambda", "config": {"function": ["gASV", None, None]}}
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": [layer]})
    return path


def function(module: str, name: str, **arguments: object) -> Builder:
    """A dtype that is a function of Keras', called with somebody's arguments."""
    value = {
        "module": module,
        "class_name": "function",
        "config": name,
        "registered_name": name,
        "arguments": arguments,
    }
    return keras(objects("config.json", in_config(dtype=value)))


_HUGE = {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
_HEADER = json.dumps(_HUGE).encode()

CHECKPOINTS: Mapping[str, tuple[Builder, str]] = {
    "auto_map": (config(auto_map={"AutoModel": "modeling_bart.Bart"}), "auto_map"),
    "trust_remote_code": (config(trust_remote_code=True), "trust_remote_code"),
    "custom_pipelines": (config(custom_pipelines={"x": {"impl": "x.py"}}), "custom_pipelines"),
    "other architecture": (config(architectures=["os.system"]), "saved by 'os.system'"),
    "config of terabytes": (config(vocab_size=9_999_999, d_model=1 << 16), "does not fit"),
    "pickle": (weights(pickle.dumps(Evil()), PICKLE), "only as a pickle"),
    "pickle as safetensors": (weights(pickle.dumps(Evil())), "cannot be read as safetensors"),
    "pickle in npz": (weights(npz(Path())), "cannot be read as safetensors"),
    "header of terabytes": (
        weights(len(_HEADER).to_bytes(8, "little") + _HEADER),
        "expected .* bytes of tensors",
    ),
    "header of gigabytes": (weights((1 << 40).to_bytes(8, "little") + b"{}"), "should have"),
    "header deep": (weights((200_000).to_bytes(8, "little") + b"[" * 200_000), "not valid JSON"),
    "tar slip": (archive, "holds no checkpoint"),
    "h5 with a lambda": (legacy_model, "tells no BART's numbers"),
    "keras function": (
        function("keras.utils", "get_file", origin="http://127.0.0.1/x"),
        "names the class 'function'",
    ),
    "keras switch": (
        function("keras.config", "enable_unsafe_deserialization"),
        "names the class 'function'",
    ),
    "keras custom objects": (
        keras(objects("config.json", at_top(custom_objects={"BartBackbone": "os"}))),
        "custom_objects",
    ),
    "vocabulary elsewhere": (keras_tokenizer(vocabulary="/etc/passwd"), "sets vocabulary"),
    "vocabulary from afar": (keras_tokenizer(vocabulary="http://127.0.0.1/"), "sets vocabulary"),
    "tokenizer deep": (tokenizer(b'{"a":' * 100_000), "not valid JSON"),
    "tokenizer nested": (tokenizer(b'{"a":' * 101 + b"1" + b"}" * 101), "nested over 100 deep"),
    "tokenizer of lists": (
        tokenizer(b'{"merges":[' + b"[]," * (1 << 20) + b"0]}"),
        "lists and objects",
    ),
    "tokenizer of merges": (
        tokenizer(bart_tokenizer(merges=["a a"] * (1 << 20))),
        "that is not in the vocabulary|has .* bytes",
    ),
    "tokenizer large": (tokenizer(b" " * (64 << 20)), "has 67108864 bytes"),
    "merges large": (large_merges, "has 1073741824 bytes"),
    "tokenizer of half characters": (
        tokenizer(bart_tokenizer(vocab={"<s>": 0, "<pad>": 1, "</s>": 2, "\ud800": 3})),
        "surrogates not allowed",
    ),
    "tokenizer with a program": (
        tokenizer({**bart_tokenizer(), "pre_tokenizer": {"type": "Custom", "code": "os"}}),
        "must have pre_tokenizer ByteLevel",
    ),
}

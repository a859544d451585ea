"""Honest inputs of every reader, as small as they can be: what fuzzers begin with."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from keras_files import archive_members

from bart_onnx.config import BartConfig
from bart_onnx.publish import seal
from bart_onnx.sealed import MANIFEST

CONFIG = BartConfig(305, 2, 4, 32, 64)
JSON_WORDS = (b"null", b"true", b"NaN", b"-1", b"1e999", b'"', b"{", b"[", b"}", b"]", b"\\ud800")
JSON_WORDS += (b"[[[[[[[[", b"0.0", b"99999999999999999999", b'""', b'"..":', b"/../", b"\\u0000")
# As many of a backbone's datasets as its numbers are read from.
DATASETS = {
    "layers/reversible_embedding/vars/0": (3, 2),
    "layers/position_embedding/vars/0": (4, 2),
    "layers/transformer_encoder/_self_attention_layer/query_dense/vars/0": (2, 1, 2),
    "layers/transformer_encoder/_feedforward_intermediate_dense/vars/0": (2, 4),
}


def as_json(value: object) -> bytes:
    """A value as JSON."""
    return json.dumps(value).encode()


def safetensors_header() -> bytes:
    """The header of a file of two small tensors."""
    tensors = {
        name: {"dtype": "F32", "shape": [1, 2], "data_offsets": [8 * n, 8 * n + 8]}
        for n, name in enumerate("ab")
    }
    return as_json({"__metadata__": {"format": "pt"}, **tensors})


def safetensors(header: bytes | None = None, size: int = 16) -> bytes:
    """A file with a header, its length right, and so many bytes of tensors."""
    text = safetensors_header() if header is None else header
    return len(text).to_bytes(8, "little") + text + bytes(size)


def hdf5() -> bytes:
    """The numbers of a backbone, in HDF5's newer layout."""
    file = io.BytesIO()
    with h5py.File(file, "w", libver="latest") as made:
        for name, shape in DATASETS.items():
            made[name] = np.zeros(shape, "f4")
    return file.getvalue()


def old_hdf5() -> bytes:
    """Two datasets of half width, as Keras writes them."""
    file = io.BytesIO()
    with h5py.File(file, "w") as made:
        made["layers/a/vars/0"] = np.zeros((1, 2), "f2")
        made["layers/a/vars/1"] = np.zeros(2, "V2")
        made["layers/a/vars/1"].attrs["dtype"] = "bfloat16"
    return file.getvalue()


def archive() -> bytes:
    """A `.keras` archive, small."""
    members = archive_members()
    members["model.weights.h5"] = b"weights"
    members = {name: data if name == "config.json" else data[:64] for name, data in members.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, data in members.items():
            made.writestr(name, data)
    return file.getvalue()


def hugging_face_tokenizer() -> bytes:
    """A tokenizer.json."""
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "ab": 6, "Ġ": 7}
    added = {"special": True, "lstrip": False, "rstrip": False, "single_word": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return as_json(
        {
            "version": "1.0",
            "added_tokens": [{"id": 3, "content": "<unk>", "normalized": False, **added}],
            "normalizer": None,
            "pre_tokenizer": level,
            "decoder": level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": "<unk>",
                "fuse_unk": False,
                "vocab": vocabulary,
                "merges": ["a b", ["a", "b"]][:1],
            },
        }
    )


def vocabulary_and_merges() -> bytes:
    """A vocabulary.json, a NUL, and a merges.txt."""
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3, "b": 4, "ab": 5}
    return as_json(vocabulary) + b"\0#version: 0.2\na b\n"


def make_bundle(directory: Path) -> None:
    """Write what a bundle has but its manifest; graphs and weights are of no use."""
    small = {
        "config.json": as_json(CONFIG.to_dict()),
        "generation_config.json": b"{}",
        "tokenizer/vocab.json": b"{}",
    }
    for graph in ("encoder", "decoder_step", "alignment"):
        small[f"{graph}.onnx"] = b"x"
    small["weights.bin"] = bytes(64)
    for name, data in small.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(data)


def bundle_manifests() -> Sequence[bytes]:
    """The manifest of that."""
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        make_bundle(directory)
        weight = {"file": "weights.bin", "offset": 0, "dtype": "float32"}
        seal(
            directory,
            {
                "format": "bart_onnx bundle",
                "format_version": 2,
                "bart_onnx_version": "0.1.0",
                "precision": "fp32",
                "source": {"name": "x", "uri": "x", "dtypes": {}},
                "graphs": {each: f"{each}.onnx" for each in ("encoder", "decoder_step")}
                | {"alignment": "alignment.onnx"},
                "tensors": {"a": {**weight, "shape": [2, 4], "strides": [4, 1]}},
            },
            {},
        )
        return [(directory / MANIFEST).read_bytes()]


def make_engines(directory: Path) -> None:
    """Write two engines of no use."""
    for name in ("encoder.engine", "decoder_step.engine"):
        (directory / name).write_bytes(b"x")


def engines_manifests() -> Sequence[bytes]:
    """Their manifest."""
    file = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    content = {
        "format": "bart_onnx engines",
        "format_version": 1,
        "limits": {"max_batch": 1, "max_source": 8, "max_tokens": 8},
        "platform": {"library": "x", "version": "1", "compute_capability": "sm89"},
        "bundle": {"digest": "0"},
        "files": {"encoder.engine": file, "decoder_step.engine": file},
    }
    return [as_json(content)]


def graphs() -> Sequence[bytes]:
    """A graph with external data, a subgraph and an operator of onnxruntime's."""
    from onnx import TensorProto, helper

    outside = helper.make_tensor("w", TensorProto.FLOAT, [2], [0, 0])
    outside.ClearField("float_data")
    outside.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "8")):
        outside.external_data.add(key=key, value=value)
    inner = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["z"])], "inner", [], [], [outside]
    )
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Constant", [], ["k"], value=helper.make_tensor("k", 1, [1], [0.0])),
        helper.make_node("GroupQueryAttention", ["k"], ["q"], domain="com.microsoft"),
    ]
    graph = helper.make_graph(nodes, "x", [], [], [outside])
    model: Any = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])
    return [bytes(model.SerializeToString())]


def weight_maps(place: str) -> Sequence[bytes]:
    """An index that places two tensors in one file."""
    return [as_json({"metadata": {"total_size": 8}, "weight_map": {"a": place, "b": place}})]


def golden_requests() -> object:
    """One golden request of a bundle."""
    request = {
        "source_ids": [0, 2],
        "options": {"num_beams": 2, "min_length": 0, "max_new_tokens": 2},
        "ids": [2, 0],
        "log_probs": [-0.5],
    }
    return {"tolerance": 0.001, "requests": [{**request, "text": "a", "output": "b"}]}

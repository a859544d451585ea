"""Every reader of what strangers write: its name -> how it reads some bytes, and honest ones.

It knows no fuzzer: `fuzz_trial` judges one input, `fuzz_mutations` and atheris make them. What is
tried is this package's own code, and that around the libraries it reads with.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from fuzz_seeds import (
    CONFIG,
    archive,
    as_json,
    bundle_manifests,
    engines_manifests,
    golden_requests,
    graphs,
    hdf5,
    hugging_face_tokenizer,
    make_bundle,
    make_engines,
    old_hdf5,
    safetensors,
    vocabulary_and_merges,
    weight_maps,
)
from fuzz_trial import Reader
from fuzz_wires import WIRES
from keras_files import GOLDEN, PRESET

from bart_onnx import hub, kaggle
from bart_onnx.bundle import Bundle
from bart_onnx.config import BartConfig
from bart_onnx.decoding.generation_config import decoding_options, for_summarization
from bart_onnx.engines import Engines
from bart_onnx.errors import PresetError
from bart_onnx.golden import Golden
from bart_onnx.graph_files import check_graph_file
from bart_onnx.hub.files import needed_files
from bart_onnx.input_lines import Fields, Inputs
from bart_onnx.preprocessor_files import read_sequence_lengths
from bart_onnx.sealed import MANIFEST, SEAL
from bart_onnx.server.options import option_parser, read_options, served_name
from bart_onnx.tokenizer import BartTokenizer
from bart_onnx.tokenizer_files import read_assets
from exporters.checkpoints import hugging_face_weights, keras_weights
from exporters.checkpoints.hugging_face_config import bart_config
from exporters.checkpoints.hugging_face_generation import generation_config
from exporters.checkpoints.keras_archive import KerasArchive
from exporters.checkpoints.keras_config import (
    backbone_config,
    check_objects,
    config_of_shapes,
    sequence_lengths,
)
from exporters.checkpoints.keras_h5 import read_datasets
from exporters.checkpoints.local_files import parse_json_object
from exporters.checkpoints.safetensors_file import WEIGHT_DTYPES, read_header, read_tensor

CONFIG_JSON = Path("config.json")
_SMALL = 1 << 16


def _hugging_face_config(data: bytes, directory: Path) -> object:
    return bart_config(parse_json_object(data, "config.json"), CONFIG_JSON)


def _keras_config(data: bytes, directory: Path) -> object:
    values = parse_json_object(data, "config.json")
    check_objects(values, CONFIG_JSON)
    if values.get("class_name") == "BartSeq2SeqLMPreprocessor":
        return sequence_lengths(dict(values.get("config") or {}), CONFIG_JSON)
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
    shapes = {name: entry.shape for name, entry in read_datasets(path).items()}
    return config_of_shapes(shapes, path)


def _read_archive(data: bytes, directory: Path) -> object:
    archive = KerasArchive(directory / "x.keras")
    for name in archive.names()[:8]:
        archive.read(name)
    values = parse_json_object(archive.read("config.json"), "config.json")
    check_objects(values, CONFIG_JSON)
    return archive.need("model.weights.h5")


def _tokenizer(data: bytes, directory: Path) -> object:
    tokenizer = BartTokenizer.from_files(directory)
    return tokenizer.detokenize([tokenizer.tokenize("a bart")])


def _assets(directory: Path) -> None:
    for name in ("vocabulary.json", "merges.txt"):
        shutil.copyfile(PRESET / "assets" / "tokenizer" / name, directory / name)


def _put_pair(data: bytes, directory: Path) -> None:
    vocabulary, _, merges = data.partition(b"\0")
    (directory / "vocabulary.json").write_bytes(vocabulary)
    (directory / "merges.txt").write_bytes(merges)


def _pair(data: bytes, directory: Path) -> object:
    tokenizer = BartTokenizer(*read_assets(directory))
    return tokenizer.detokenize([tokenizer.tokenize("a bart")])


def _put_sealed(data: bytes, directory: Path) -> None:
    (directory / MANIFEST).write_bytes(data)
    (directory / SEAL).write_text(f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n")


def _read_bundle(data: bytes, directory: Path) -> object:
    bundle = Bundle.open(directory)
    for name in list(bundle.weight_names())[:8]:
        bundle.weight(name)
    return bundle.tokenizer_directory


def _uri(data: bytes, directory: Path) -> object:
    text = data.decode("utf-8", "surrogateescape")
    served_name(text)
    hub.suggest_uri(text)
    for parse in (hub.parse_uri, kaggle.parse_uri):
        try:
            found = parse(text)
        except PresetError:
            continue
        assert str(found) == text, f"{text!r} was read as {found}"
        assert ".." not in text
        assert "\\" not in text
    return None


def _golden_requests(data: bytes, directory: Path) -> object:
    files = {"golden.json": {"size": len(data)}}
    bundle = Bundle(directory, {"files": files}, CONFIG, {})
    return Golden.of(bundle)


_FLAGS = option_parser("fuzz", "").parse_args([])


def _options(data: bytes, directory: Path) -> object:
    flags = argparse.Namespace(**{**vars(_FLAGS), "config": str(directory / "x.yaml")})
    return read_options(flags, {})


def _listing(data: bytes, directory: Path) -> object:
    content = parse_json_object(data, "listing")
    names = ["config.json", "merges.txt", *map(str, content)]
    return needed_files(hub.parse_uri("hf://a/b"), names, lambda name: content, False)


def _lines(data: bytes, directory: Path) -> object:
    fields = Fields() if len(data) % 2 else None
    return Inputs("x", lambda: data.splitlines(keepends=True), fields).count()


def _shard(name: str, data: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes(data())


def _golden(*names: str) -> Callable[[], Sequence[bytes]]:
    return lambda: [(GOLDEN / name).read_bytes() for name in names]


_HUB_WORDS = (b"hf://", b"kaggle://", b"@", b"/keras/", b"..", b"--", b".git", b"a/b", b"/1")
_JSON_WORDS = (b"null", b"true", b"NaN", b"-1", b"1e999", b'"', b"{", b"[", b"}", b"]", b"\\ud800")
_JSON_WORDS += (b"[[[[[[[[", b"0.0", b"99999999999999999999", b'""', b'"..":', b"/../", b"\\u0000")

READERS: Mapping[str, Reader] = {
    "config_hugging_face": Reader(
        _hugging_face_config, _golden("hf_checkpoint/config.json"), words=_JSON_WORDS
    ),
    "config_keras": Reader(
        _keras_config,
        _golden("keras_preset/config.json", "keras_preset/preprocessor.json"),
        words=(*_JSON_WORDS, b"Lambda", b"class_name", b"registered_name", b"keras_hub>"),
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
        words=(*_JSON_WORDS, b"early_stopping", b"suppress_tokens", b"eos_token_id"),
    ),
    "safetensors": Reader(_safetensors, lambda: [safetensors()], "x.safetensors"),
    "safetensors_index": Reader(
        lambda data, directory: hugging_face_weights.open_weights(directory, "x", False),
        lambda: weight_maps("a.safetensors"),
        "model.safetensors.index.json",
        _shard("a.safetensors", safetensors),
        words=(*_JSON_WORDS, b"a.safetensors", b"weight_map"),
    ),
    "keras_h5": Reader(_read_hdf5, lambda: [hdf5(), old_hdf5()], "x.weights.h5"),
    "keras_archive": Reader(_read_archive, lambda: [archive()], "x.keras"),
    "keras_index": Reader(
        lambda data, directory: keras_weights.open_weights(directory, "x"),
        lambda: [
            as_json({"weight_map": {"/layers/a/vars": "a.weights.h5"}}),
            as_json({"weight_map": {"/layers/a/vars": ["a.weights.h5"]}}),
        ],
        "model.weights.json",
        _shard("a.weights.h5", old_hdf5),
        words=(*_JSON_WORDS, b"a.weights.h5", b"weight_map"),
    ),
    "tokenizer_json": Reader(
        _tokenizer,
        lambda: [hugging_face_tokenizer(), (PRESET / "tokenizer.json").read_bytes()],
        "tokenizer.json",
        _assets,
        words=(*_JSON_WORDS, b"<mask>", b"ByteLevel", b"added_tokens", b"unsplittable_tokens"),
    ),
    "vocabulary_and_merges": Reader(_pair, lambda: [vocabulary_and_merges()], put=_put_pair),
    "preprocessor_json": Reader(
        lambda data, directory: read_sequence_lengths(directory),
        lambda: [as_json({"config": {"encoder_sequence_length": 4, "decoder_sequence_length": 5}})],
        "preprocessor.json",
        words=_JSON_WORDS,
    ),
    "bundle_manifest": Reader(
        _read_bundle, bundle_manifests, prepare=make_bundle, put=_put_sealed, words=_JSON_WORDS
    ),
    "golden_requests": Reader(
        _golden_requests,
        lambda: [as_json(golden_requests())],
        "golden.json",
        words=_JSON_WORDS,
    ),
    "bundle_config": Reader(
        lambda data, directory: BartConfig.from_dict(parse_json_object(data, "config.json")),
        lambda: [as_json(CONFIG.to_dict())],
        words=_JSON_WORDS,
    ),
    "onnx_graph": Reader(
        lambda data, directory: check_graph_file(directory / "x.onnx"),
        graphs,
        "x.onnx",
        lambda directory: (directory / "weights.bin").write_bytes(bytes(64)),
        words=(b"location", b"offset", b"length", b"weights.bin", b"../", b"com.microsoft"),
    ),
    "engines_manifest": Reader(
        lambda data, directory: Engines.open(directory),
        engines_manifests,
        prepare=make_engines,
        put=_put_sealed,
        words=_JSON_WORDS,
    ),
    "preset_uri": Reader(
        _uri,
        lambda: [b"hf://facebook/bart-base@refs/pr/1", b"kaggle://keras/bart/keras/bart_base_en/2"],
        words=_HUB_WORDS,
    ),
    "server_options": Reader(
        _options,
        lambda: [b"preset: [bart_tiny_en_g2p]\nport: 0\ndeadline: 3\nthreads: null\nmetrics: no\n"],
        "x.yaml",
        words=(b"&a ", b"*a", b"!!int ", b"!!timestamp ", b"? ", b"- ", b": ", b"<<", b"0o", b"~"),
    ),
    "hub_listing": Reader(
        _listing,
        lambda: [
            as_json({"manifest.json": 1, "manifest.sha256": 1, "files": {"config.json": {}}}),
            as_json({"model.safetensors.index.json": 1, "weight_map": {"a": "b.safetensors"}}),
            as_json({"model.weights.json": 1, "weight_map": {"a": ["b"]}, "registered_name": 1}),
        ],
        words=_JSON_WORDS,
    ),
    "input_lines": Reader(_lines, lambda: [b'{"text": "a", "id": 1}\n\n', b"a\r\nb\n"]),
    **WIRES,
}

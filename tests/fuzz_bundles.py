"""Readers of what a model is served from: bundles, tokenizers, graphs and engines."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fuzz_made import put_files
from fuzz_seeds import (
    CONFIG,
    JSON_WORDS,
    as_json,
    bundle_manifests,
    engines_manifests,
    golden_requests,
    graphs,
    hugging_face_tokenizer,
    make_bundle,
    make_engines,
    vocabulary_and_merges,
)
from fuzz_trial import Reader
from keras_files import PRESET

from bart_onnx.bundle import Bundle
from bart_onnx.config import BartConfig
from bart_onnx.engines import Engines
from bart_onnx.golden import Golden
from bart_onnx.graph_files import check_graph_file
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.preprocessor_files import read_sequence_lengths
from bart_onnx.sealed import MANIFEST, SEAL
from bart_onnx.tokenizer import BartTokenizer
from bart_onnx.tokenizer_files import read_assets
from exporters.checkpoints.local_files import parse_json_object


@cache
def tiny_tokenizer() -> BartTokenizer:
    """The golden preset's."""
    return BartTokenizer.from_files(PRESET)


def _tokenizer(data: bytes, directory: Path) -> object:
    tokenizer = BartTokenizer.from_files(directory)
    return tokenizer.detokenize([tokenizer.tokenize("a bart")])


def _assets(directory: Path) -> None:
    for name in ("vocabulary.json", "merges.txt"):
        shutil.copyfile(PRESET / "assets" / "tokenizer" / name, directory / name)


def _pair(data: bytes, directory: Path) -> object:
    tokenizer = BartTokenizer(*read_assets(directory))
    return tokenizer.detokenize([tokenizer.tokenize("a bart")])


def _preprocessor(data: bytes, directory: Path) -> object:
    lengths = read_sequence_lengths(directory)
    return BartSeq2SeqLMPreprocessor(tiny_tokenizer(), **lengths).generate_preprocess("")


def _put_sealed(data: bytes, directory: Path) -> None:
    (directory / MANIFEST).write_bytes(data)
    (directory / SEAL).write_text(f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n")


def _make_whole(directory: Path) -> None:
    make_bundle(directory)
    (directory / MANIFEST).write_bytes(*bundle_manifests())


def _whole_seal() -> bytes:
    return f"{hashlib.sha256(*bundle_manifests()).hexdigest()}  {MANIFEST}\n".encode()


def _read_bundle(data: bytes, directory: Path) -> object:
    bundle = Bundle.open(directory)
    for name in list(bundle.weight_names())[:8]:
        bundle.weight(name)
    return bundle.tokenizer_directory


def _golden_requests(data: bytes, directory: Path) -> object:
    files = {"golden.json": {"size": len(data)}}
    bundle = Bundle(directory, {"files": files}, CONFIG, {})
    return Golden.of(bundle)


BUNDLES: Mapping[str, Reader] = {
    "tokenizer_json": Reader(
        _tokenizer,
        lambda: [hugging_face_tokenizer(), (PRESET / "tokenizer.json").read_bytes()],
        "tokenizer.json",
        _assets,
        words=(*JSON_WORDS, b"<mask>", b"ByteLevel", b"added_tokens", b"unsplittable_tokens"),
    ),
    "vocabulary_and_merges": Reader(
        _pair,
        lambda: [vocabulary_and_merges()],
        put=put_files("vocabulary.json", "merges.txt"),
    ),
    "vocab_and_merges": Reader(
        _tokenizer,
        lambda: [vocabulary_and_merges()],
        put=put_files("vocab.json", "merges.txt"),
        words=(b"<mask>", b"<unk>", b"#version", b"\n", b" ", "Ġ".encode()),
    ),
    "preprocessor_json": Reader(
        _preprocessor,
        lambda: [as_json({"config": {"encoder_sequence_length": 4, "decoder_sequence_length": 5}})],
        "preprocessor.json",
        words=JSON_WORDS,
    ),
    "bundle_manifest": Reader(
        _read_bundle, bundle_manifests, prepare=make_bundle, put=_put_sealed, words=JSON_WORDS
    ),
    "bundle_seal": Reader(_read_bundle, lambda: [_whole_seal()], SEAL, _make_whole),
    "golden_requests": Reader(
        _golden_requests,
        lambda: [as_json(golden_requests())],
        "golden.json",
        words=JSON_WORDS,
    ),
    "bundle_config": Reader(
        lambda data, directory: BartConfig.from_dict(parse_json_object(data, "config.json")),
        lambda: [as_json(CONFIG.to_dict())],
        words=JSON_WORDS,
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
        words=JSON_WORDS,
    ),
}

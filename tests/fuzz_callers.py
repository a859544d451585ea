"""Readers of what who runs the package gives it, and of what a hub says: names, lines, options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from fuzz_bundles import tiny_tokenizer
from fuzz_seeds import CONFIG, JSON_WORDS, as_json
from fuzz_trial import Reader

from bart_onnx import hub, kaggle
from bart_onnx.errors import PresetError
from bart_onnx.hub.files import needed_files
from bart_onnx.input_lines import Fields, Inputs
from bart_onnx.sentences import sentence_spans
from bart_onnx.server.options import option_parser, read_options, served_name
from exporters.checkpoints.local_files import parse_json_object

_FLAGS = option_parser("fuzz", "").parse_args([])
_HUB_WORDS = (b"hf://", b"kaggle://", b"@", b"/keras/", b"..", b"--", b".git", b"a/b", b"/1")


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


def _examples(data: bytes, directory: Path) -> object:
    from exporters.quality import read_examples

    return read_examples(directory / "x.jsonl", tiny_tokenizer(), CONFIG)


def _text(data: bytes, directory: Path) -> object:
    text = data.decode("utf-8", "replace")
    spans = sentence_spans(text)
    assert "".join(text[start:end] for start, end in spans) == text
    return tiny_tokenizer().detokenize([tiny_tokenizer().tokenize(text)])


CALLERS: Mapping[str, Reader] = {
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
        words=JSON_WORDS,
    ),
    "input_lines": Reader(_lines, lambda: [b'{"text": "a", "id": 1}\n\n', b"a\r\nb\n"]),
    "examples": Reader(
        _examples,
        lambda: [b'{"text": "a", "summary": "b"}\n\n{"article": "a", "summary": "b"}'],
        "x.jsonl",
        words=(*JSON_WORDS, b'"article"', b'"summary"', b"\n"),
    ),
    "text": Reader(
        _text,
        lambda: ["a bart.  The U.S.\nThe Ω <s> <mask>。x!? 3.".encode()],
        words=(b"<s>", b"</s>", b"<mask>", b". ", b"\n\n", "\u2029".encode(), "…".encode()),
    ),
}

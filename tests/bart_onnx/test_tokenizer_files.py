"""Tokenizer directories: which layout is read, and what a damaged one says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bart_onnx.errors import CheckpointError, InputError, MissingFileError
from bart_onnx.tokenizer import BartTokenizer

VOCABULARY = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "ab": 6, "Ġ": 7}


def added(content: str, token_id: int, **rules: Any) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "special": True}
    return {"id": token_id, "content": content, "normalized": False, **plain, **rules}


def hugging_face_json() -> dict[str, Any]:
    model = {"type": "BPE", "unk_token": None, "vocab": dict(VOCABULARY), "merges": [["a", "b"]]}
    return {
        "added_tokens": [added("<s>", 0), added("<mask>", 9, lstrip=True)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "model": model,
    }


def write_hugging_face_json(directory: Path, content: object) -> Path:
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_pair(directory: Path, vocabulary_name: str) -> None:
    (directory / vocabulary_name).write_text(json.dumps(VOCABULARY), encoding="utf-8")
    (directory / "merges.txt").write_text("#version: 0.2\r\na b\r\n\n", encoding="utf-8")


def test_tokenizer_json_is_honoured(tmp_path: Path) -> None:
    write_hugging_face_json(tmp_path, hugging_face_json())
    tokenizer = BartTokenizer.from_files(tmp_path)
    assert tokenizer("<s>ab <mask></s>").tolist() == [0, 6, 9]
    assert tokenizer.vocabulary_size() == 9
    assert tokenizer.token_to_id("<mask>") == 9
    assert tokenizer.unsplittable_tokens == ["<s>", "<mask>"]
    assert tokenizer.special_tokens == ["<s>", "</s>", "<pad>", "<mask>"]


def test_tokenizer_json_may_hold_merges_as_text_and_an_unknown_token(tmp_path: Path) -> None:
    content = hugging_face_json()
    content["model"] |= {"merges": ["a b"], "unk_token": "<unk>"}
    content["pre_tokenizer"]["add_prefix_space"] = True
    write_hugging_face_json(tmp_path, content)
    tokenizer = BartTokenizer.from_files(tmp_path)
    assert tokenizer("abx").tolist() == [7, 6, 3]
    assert tokenizer.get_config()["unknown_token"] == "<unk>"


def test_tokenizer_json_wins_over_the_pair(tmp_path: Path) -> None:
    write_pair(tmp_path, "vocab.json")
    assert BartTokenizer.from_files(tmp_path).special_tokens == ["<s>", "</s>", "<pad>", "<unk>"]
    write_hugging_face_json(tmp_path, hugging_face_json())
    assert "<mask>" in BartTokenizer.from_files(tmp_path).special_tokens


def test_keras_assets_know_three_specials(tmp_path: Path) -> None:
    write_pair(tmp_path, "vocabulary.json")
    tokenizer = BartTokenizer.from_files(str(tmp_path))
    assert tokenizer.special_tokens == ["<s>", "</s>", "<pad>"]
    assert tokenizer("ab<s>").tolist() == [6, 0]


def test_keras_preset_options_are_honoured(golden: Path, tmp_path: Path) -> None:
    preset = tmp_path / "preset"
    shutil.copytree(golden / "keras_preset", preset)
    path = preset / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["config"] |= {"sequence_length": 3, "unsplittable_tokens": ["<mask>"]}
    path.write_text(json.dumps(content), encoding="utf-8")
    tokenizer = BartTokenizer.from_files(preset)
    assert tokenizer(["a<mask>"]).tolist() == [[101, 304, 1]]
    # A bundle keeps the same files side by side.
    for asset in (preset / "assets" / "tokenizer").iterdir():
        asset.rename(preset / asset.name)
    assert BartTokenizer.from_files(preset).get_config() == tokenizer.get_config()


def test_overrides_win_over_files(golden: Path) -> None:
    tokenizer = BartTokenizer.from_files(golden / "hf_checkpoint", dtype="string", name="mine")
    assert tokenizer("a<mask>") == ["a", "<mask>"]
    assert tokenizer.name == "mine"
    with pytest.raises(InputError, match="sequence_length"):
        BartTokenizer.from_files(golden / "hf_checkpoint", sequence_length=-1)
    with pytest.raises(TypeError, match="lenght"):
        BartTokenizer.from_files(golden / "hf_checkpoint", lenght=1)


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_no_tokenizer_is_a_missing_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"vocab\.json with merges\.txt.*found nothing"):
        BartTokenizer.from_files(tmp_path / name)


@pytest.mark.parametrize("name", ["vocab.json", "vocabulary.json"])
def test_missing_merges_are_named(name: str, tmp_path: Path) -> None:
    write_pair(tmp_path, name)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(MissingFileError, match=r"merges\.txt is not there"):
        BartTokenizer.from_files(tmp_path)


def damage(path: tuple[str, ...], value: object) -> dict[str, Any]:
    content = hugging_face_json()
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return content


WITHOUT_PAD = {token: index for token, index in VOCABULARY.items() if token != "<pad>"}
DAMAGED_JSON: dict[str, tuple[object, str]] = {
    "a list": ([], "must hold a JSON object"),
    "empty": ({}, "must hold a BPE model"),
    "unigram": (damage(("model", "type"), "Unigram"), "BPE model as BART's does, found Unigram"),
    "model is text": (damage(("model",), "BPE"), "must hold a BPE model"),
    "no vocabulary": (damage(("model", "vocab"), None), "Vocabulary must be"),
    "vocabulary of pairs": (damage(("model", "vocab"), [["a", 1]]), "Vocabulary must be"),
    "id is text": (damage(("model", "vocab"), {"a": "1"}), "must map str to int"),
    "no pad": (damage(("model", "vocab"), WITHOUT_PAD), "special token `'<pad>'`"),
    "merges are text": (damage(("model", "merges"), "a b"), "Merges must be"),
    "merges are null": (damage(("model", "merges"), None), "Merges must be"),
    "merge of numbers": (damage(("model", "merges"), [[1, 2]]), "Merge rule 0"),
    "merge of three": (damage(("model", "merges"), [["a", "b", "a"]]), "Merge rule 0"),
    "merge unknown": (damage(("model", "merges"), [["a", "x"]]), "not in the vocabulary"),
    "dropout": (damage(("model", "dropout"), 0.1), "sets dropout to 0.1"),
    "byte fallback": (damage(("model", "byte_fallback"), True), "sets byte_fallback"),
    "unknown token absent": (damage(("model", "unk_token"), "<x>"), "'<x>' is set apart"),
    "unknown token is a list": (damage(("model", "unk_token"), []), "unknown_token must be"),
    "normalizer": (damage(("normalizer",), {"type": "NFC"}), "must have normalizer None"),
    "normalizer without type": (damage(("normalizer",), {}), "must have normalizer None"),
    "pre-tokenizer": (
        damage(("pre_tokenizer",), {"type": "Whitespace"}),
        "must have pre_tokenizer ByteLevel",
    ),
    "no pre-tokenizer": (damage(("pre_tokenizer",), None), "pre_tokenizer ByteLevel"),
    "pre-tokenizer is text": (damage(("pre_tokenizer",), "ByteLevel"), "pre_tokenizer ByteLevel"),
    "no regex": (damage(("pre_tokenizer", "use_regex"), False), "turns use_regex off"),
    "prefix is text": (damage(("pre_tokenizer", "add_prefix_space"), "no"), "add_prefix_space"),
    "decoder": (damage(("decoder",), {"type": "WordPiece"}), "must have decoder ByteLevel"),
    "added tokens are an object": (damage(("added_tokens",), {"a": 1}), "must list added_tokens"),
    "added token is text": (damage(("added_tokens",), ["<s>"]), "must list added_tokens"),
    "added token without text": (damage(("added_tokens",), [{"id": 1}]), "must list added_tokens"),
    "added token is a list": (
        damage(("added_tokens",), [{"id": 1, "content": ["a"]}]),
        "must list added_tokens",
    ),
    "added token without id": (
        damage(("added_tokens",), [{"content": "x"}]),
        "must map str to int",
    ),
    "added token of another id": (damage(("added_tokens",), [added("<s>", 5)]), "the id 5"),
    "added token shares an id": (damage(("added_tokens",), [added("<x>", 5)]), "share the id 5"),
    "added token's rule": (
        damage(("added_tokens",), [added("<s>", 0, lstrip=1)]),
        "lstrip of added token '<s>'",
    ),
    "keras class": (
        {"registered_name": "keras_hub>BertTokenizer", "class_name": "BertTokenizer"},
        "No tokenizer in",
    ),
}


@pytest.mark.parametrize("name", DAMAGED_JSON)
def test_damaged_tokenizer_json_names_file_and_fault(name: str, tmp_path: Path) -> None:
    content, message = DAMAGED_JSON[name]
    path = write_hugging_face_json(tmp_path, content)
    with pytest.raises((CheckpointError, MissingFileError)) as caught:
        BartTokenizer.from_files(tmp_path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value) or "No tokenizer in" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vocab.json", b"{", "is not valid JSON"),
        ("vocab.json", b"[" * 100_000, "is not valid JSON"),
        ("vocab.json", b"\xff\xfe", "is not valid JSON"),
        ("vocab.json", b"[1]", "must hold a JSON object"),
        ("vocab.json", b'{"<s>": 0, "<pad>": 1}', "Cannot find special token `'</s>'`"),
        ("vocab.json", b'{"<s>": 0.5}', "must map str to int"),
        ("merges.txt", b"\xff", "must be UTF-8"),
        ("merges.txt", b"a b\n\na b\n", "Merge rule 1 must be two tokens"),
        ("merges.txt", b"a b a\n", "Merge rule 0 must be two tokens"),
        ("merges.txt", "é b\n".encode(), "contains token 'é' or 'b'"),
        ("merges.txt", b"b a\n", "makes token 'ba'"),
    ],
)
def test_damaged_pair_names_file_and_fault(
    file: str, content: bytes, message: str, tmp_path: Path
) -> None:
    write_pair(tmp_path, "vocab.json")
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        BartTokenizer.from_files(tmp_path)
    assert str(tmp_path / file) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_name": "BertTokenizer"}, "must describe a BartTokenizer"),
        ({"config": None}, "must describe a BartTokenizer"),
        ({"config": {"lowercase": True}}, "sets lowercase"),
        ({"config": {"sequence_length": "3"}}, "sequence_length must be an int"),
        ({"config": {"unsplittable_tokens": ["<sep>"]}}, "'<sep>' is set apart"),
        ({"config": {"dtype": {"config": {"name": "float32"}}}}, "dtype must be an integer"),
    ],
    ids=str,
)
def test_damaged_keras_config_names_file_and_fault(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_pair(tmp_path, "vocabulary.json")
    content = {"registered_name": "keras_hub>BartTokenizer", "class_name": "BartTokenizer"}
    path = write_hugging_face_json(tmp_path, {**content, "config": {}, **change})
    with pytest.raises(CheckpointError) as caught:
        BartTokenizer.from_files(tmp_path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)

"""BartTokenizer against transformers on the same files: ids and text must be equal."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from bart_onnx.tokenizer import BartTokenizer

transformers = pytest.importorskip("transformers")

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "keras_golden"
SCRAPS = [
    "<mask>",
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\u00a0",
    "\r\n",
]
SCRAPS += [
    "the",
    "The quick fox",
    "isn't",
    "'s",
    "'",
    "...",
    "2023",
    "½",
    "é",
    "日本語",
    "🙂",
    "\0",
]
SCRAPS += ["madeupword0000", "<|endoftext|>", "\u0341", "\ufeff", "ĠĊ", "_", "<", "mask>"]


def random_texts(count: int) -> list[str]:
    generator = random.Random(7)
    return ["".join(generator.choices(SCRAPS, k=generator.randint(0, 9))) for _ in range(count)]


def assert_equal(ours: BartTokenizer, theirs: Any, texts: list[str]) -> None:
    wanted = theirs(texts, add_special_tokens=False)["input_ids"]
    found = ours.encode_batch(texts)
    for text, ours_ids, theirs_ids in zip(texts, found, wanted, strict=True):
        assert ours_ids == theirs_ids, repr(text)
    for row, text in zip(wanted, ours.decode_batch(wanted), strict=True):
        assert text == theirs.decode(row, clean_up_tokenization_spaces=False)
    special = set(ours.special_token_ids)
    assert special == set(theirs.all_special_ids)


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_tiny_vocabulary_without_tokenizer_json(add_prefix_space: bool) -> None:
    directory = GOLDEN / "hf_checkpoint"
    rules = (directory / "merges.txt").read_text("utf-8").splitlines()[1:]
    theirs = transformers.BartTokenizer(
        vocab=json.loads((directory / "vocab.json").read_text("utf-8")),
        merges=[tuple(rule.split(" ")) for rule in rules],
        add_prefix_space=add_prefix_space,
    )
    ours = BartTokenizer.from_files(directory, add_prefix_space=add_prefix_space)
    assert_equal(ours, theirs, random_texts(2000))


def test_real_tokenizer_json(shared_data: Path) -> None:
    directory = shared_data / "bart_vocab"
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    theirs.add_special_tokens({"mask_token": transformers.AddedToken("<mask>", lstrip=True)})
    assert_equal(BartTokenizer.from_files(directory), theirs, random_texts(2000))


def test_real_vocabulary_without_tokenizer_json(shared_data: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((shared_data / "bart_vocab" / name).read_bytes())
    rules = (tmp_path / "merges.txt").read_text("utf-8").splitlines()[1:]
    theirs = transformers.BartTokenizer(
        vocab=json.loads((tmp_path / "vocab.json").read_text("utf-8")),
        merges=[tuple(rule.split(" ")) for rule in rules],
    )
    path = shared_data / "text" / "scitldr_a_test.jsonl"
    articles = [json.loads(line)["article"] for line in path.read_text("utf-8").splitlines()]
    assert_equal(BartTokenizer.from_files(tmp_path), theirs, [*articles, *random_texts(2000)])

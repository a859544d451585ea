"""Presets and checkpoints written and read back, here and by transformers."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from keras_files import GOLDEN, PRESET, arrays_of
from safetensors.numpy import load_file
from tiny_models import TINY, VARIANTS, random_checkpoint
from transformers import AutoTokenizer, BartForConditionalGeneration

from bart_onnx import BartTokenizer
from bart_onnx.config import BartConfig
from bart_onnx.errors import ExportError, InputError
from bart_onnx.graphs import LOGITS
from bart_onnx.weights import unread_positions
from exporters.bart import Bart
from exporters.checkpoints import hugging_face, hugging_face_writer, keras, keras_writer
from exporters.checkpoints.checkpoint import Checkpoint
from exporters.verify import full_pass

WEIGHTS = "model.weights.h5"
HUGGING_FACE = GOLDEN / "hf_checkpoint"


@pytest.fixture
def tokenizer() -> BartTokenizer:
    return BartTokenizer.from_files(PRESET)


def read_keras(directory: Path) -> Checkpoint:
    return keras.read(directory, source="a test")


def read_hugging_face(directory: Path) -> Checkpoint:
    return hugging_face.read(directory, source="a test")


def assert_same_weights(first: Checkpoint, second: Checkpoint) -> None:
    assert set(first.weights) == set(second.weights)
    for name, reader in first.weights.items():
        np.testing.assert_array_equal(reader(), second.weights[name](), name)


@pytest.mark.parametrize("shards", [False, True])
def test_keras_there_and_back(tmp_path: Path, tokenizer: BartTokenizer, shards: bool) -> None:
    source = read_keras(PRESET)
    limit = 60_000 / 2**30 if shards else 10
    target = tmp_path / "preset"
    keras_writer.write(target, source.config, source.weights, tokenizer, max_shard_size=limit)
    written, expected = arrays_of_preset(target), arrays_of(PRESET / WEIGHTS)
    assert set(written) == set(expected)
    for name, array in expected.items():
        assert written[name].dtype == array.dtype
        np.testing.assert_array_equal(written[name], array, name)
    back = read_keras(target)
    assert (back.config, back.source_dtypes) == (source.config, source.source_dtypes)
    assert_same_weights(back, source)
    assert (target / "model.weights.json").exists() == shards
    if shards:
        index = json.loads((target / "model.weights.json").read_text())
        golden = GOLDEN / "keras_preset_sharded" / "model.weights.json"
        assert set(index["weight_map"]) == set(json.loads(golden.read_text())["weight_map"])
        assert len(set(index["weight_map"].values())) == 4
        assert index["metadata"]["total_size"] == 222_848


def arrays_of_preset(directory: Path) -> dict[str, np.ndarray]:
    return {
        name: array
        for path in sorted(directory.glob("*.h5"))
        for name, array in arrays_of(path).items()
    }


def test_keras_json_equals_kerashubs_key_by_key(tmp_path: Path, tokenizer: BartTokenizer) -> None:
    source = read_keras(PRESET)
    keras_writer.write(tmp_path / "preset", source.config, source.weights, tokenizer)
    names = sorted(path.relative_to(PRESET).as_posix() for path in PRESET.rglob("*.*"))
    written = tmp_path / "preset"
    assert names == sorted(p.relative_to(written).as_posix() for p in written.rglob("*.*"))
    for name in names:
        if name.endswith(".json"):
            expected, found = (json.loads((d / name).read_text()) for d in (PRESET, written))
            if name == "metadata.json":
                assert expected.pop("date_saved") != found.pop("date_saved")
            assert found == expected, name
            assert list(found) == list(expected)
        elif name.endswith(".txt"):
            assert (PRESET / name).read_bytes() == (written / name).read_bytes()


def test_keras_lengths_and_tokenizer_come_back(tmp_path: Path, tokenizer: BartTokenizer) -> None:
    source = read_keras(PRESET)
    own = BartTokenizer(
        tokenizer.vocabulary,
        tokenizer.merges,
        add_prefix_space=True,
        unsplittable_tokens=["<s>", "</s>", "<pad>", "<mask>"],
    )
    target = tmp_path / "preset"
    keras_writer.write(
        target, source.config, source.weights, own, encoder_sequence_length=24,
        decoder_sequence_length=20,
    )  # fmt: skip
    back = BartTokenizer.from_files(target)
    assert back.get_config() == own.get_config()
    assert back.vocabulary == own.vocabulary
    assert back.merges == own.merges
    lengths = {"encoder_sequence_length": 24, "decoder_sequence_length": 20}
    for name, path in (("preprocessor.json", ()), ("task.json", ("preprocessor",))):
        config = json.loads((target / name).read_text())["config"]
        for key in path:
            config = config[key]["config"]
        assert {key: config[key] for key in lengths} == lengths
    assert "preprocessor.json" in read_keras(target).tokenizer_files


def test_keras_takes_of_added_tokens_what_it_knows(tmp_path: Path) -> None:
    source = read_hugging_face(HUGGING_FACE)
    tokenizer = BartTokenizer.from_files(HUGGING_FACE)
    keras_writer.write(tmp_path / "preset", source.config, source.weights, tokenizer)
    config = json.loads((tmp_path / "preset" / "tokenizer.json").read_text())["config"]
    golden = json.loads((PRESET / "tokenizer.json").read_text())["config"]
    assert set(config) == set(golden)
    assert config["unsplittable_tokens"] == tokenizer.unsplittable_tokens
    assert "<mask>" in config["unsplittable_tokens"]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (VARIANTS["unequal_sides"], "sides of unequal size"),
        (VARIANTS["scaled_embedding"], "scaled embeddings"),
        (VARIANTS["logits_bias"], "a logits bias"),
        (VARIANTS["untied"], "an output projection of its own"),
        (replace(TINY, decoder_start_token_id=0), "decoder_start_token_id 0, which is not end"),
    ],
)
def test_what_a_keras_preset_cannot_hold(tmp_path: Path, config: BartConfig, named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        keras_writer.write(tmp_path / "preset", config, random_checkpoint(config).weights)
    assert 'format="huggingface"' in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_ids_that_are_not_the_tokenizers(tmp_path: Path, tokenizer: BartTokenizer) -> None:
    config = replace(TINY, vocabulary_size=305, pad_token_id=7)
    with pytest.raises(InputError, match=r"pad_token_id 7, when '<pad>' is 1 in its tokenizer"):
        keras_writer.write(tmp_path / "preset", config, {}, tokenizer)


@pytest.mark.parametrize("shards", [False, True])
def test_hugging_face_there_and_back(tmp_path: Path, shards: bool) -> None:
    source = read_hugging_face(HUGGING_FACE)
    target = tmp_path / "checkpoint"
    hugging_face_writer.write(
        target,
        source.config,
        source.weights,
        BartTokenizer.from_files(HUGGING_FACE),
        generation_config=source.generation_config,
        max_shard_size=60_000 / 1e9 if shards else 10,
    )
    expected = load_file(HUGGING_FACE / "model.safetensors")
    files = sorted(target.glob("*.safetensors"))
    assert len(files) == (4 if shards else 1)
    found = {name: array for path in files for name, array in load_file(path).items()}
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, name)
    back = read_hugging_face(target)
    assert back.config == source.config
    assert back.generation_config == source.generation_config
    assert_same_weights(back, source)
    old, new = (json.loads((d / "config.json").read_text()) for d in (HUGGING_FACE, target))
    both = {key for key in old if key in new and old[key] is not None}
    assert {key: new[key] for key in both} == {key: old[key] for key in both}
    assert len(both) > 15


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_comes_back_and_transformers_agrees(tmp_path: Path, variant: str) -> None:
    config = VARIANTS[variant]
    source = random_checkpoint(config)
    rows = np.arange(2 * config.hidden_dim, dtype=np.float32).reshape(2, -1)
    weights = {**source.weights, unread_positions("encoder"): lambda: rows}
    hugging_face_writer.write(tmp_path / "checkpoint", config, weights)
    back = read_hugging_face(tmp_path / "checkpoint")
    # The reader names both sides' numbers.
    assert (back.config.encoder, back.config.decoder) == (config.encoder, config.decoder)
    names = ("scale_embedding", "tied_embeddings", "final_logits_bias", "vocabulary_size")
    assert all(getattr(back.config, name) == getattr(config, name) for name in names)
    for name, reader in source.weights.items():
        np.testing.assert_array_equal(back.weights[name](), reader(), name)
    np.testing.assert_array_equal(back.weights[unread_positions("encoder")](), rows)
    assert not back.weights[unread_positions("decoder")]().any()
    assert_transformers_agrees(tmp_path / "checkpoint", config, source.weights)


def assert_transformers_agrees(directory: Path, config: BartConfig, weights: Any) -> None:
    model, said = BartForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    model.eval()
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    random = np.random.default_rng(0)
    sources, tokens = random.integers(config.vocabulary_size, size=(2, 2, 7))
    lengths = np.array([7, 4])
    mask = torch.from_numpy((np.arange(7) < lengths[:, None]).astype("i8"))
    with torch.inference_mode():
        expected = model(
            input_ids=torch.from_numpy(sources),
            attention_mask=mask,
            decoder_input_ids=torch.from_numpy(tokens),
        ).logits.numpy()
    bart = Bart.from_weights(config, weights)
    logits = full_pass(bart, sources, lengths, tokens)[LOGITS]
    np.testing.assert_allclose(logits, expected, atol=1e-4 * max(1, np.abs(expected).max()))


def test_keras_to_hugging_face_to_keras(tmp_path: Path, tokenizer: BartTokenizer) -> None:
    first = read_keras(PRESET)
    hugging_face_writer.write(tmp_path / "a", first.config, first.weights, tokenizer)
    assert_transformers_agrees(tmp_path / "a", first.config, first.weights)
    second = read_hugging_face(tmp_path / "a")
    keras_writer.write(tmp_path / "b", first.config, second.weights, tokenizer)
    assert_same_weights(read_keras(tmp_path / "b"), first)


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_transformers_reads_the_tokenizer(tmp_path: Path, add_prefix_space: bool) -> None:
    source = read_hugging_face(HUGGING_FACE)
    read = BartTokenizer.from_files(HUGGING_FACE, add_prefix_space=add_prefix_space)
    hugging_face_writer.write(tmp_path / "checkpoint", source.config, source.weights, read)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    for text in ("the fox", "  the  fox isn't <mask> here", "naïve 🙂"):
        expected = [0, *read.tokenize(text).tolist(), 2]
        assert theirs(text)["input_ids"] == expected, text
    back = BartTokenizer.from_files(tmp_path / "checkpoint")
    assert (back.vocabulary, back.special_tokens) == (read.vocabulary, read.special_tokens)


def test_a_sources_tokenizer_json_is_kept(tmp_path: Path, tokenizer: BartTokenizer) -> None:
    path = tmp_path / "own.json"
    path.write_text('{"model": {"type": "BPE"}}')
    source = read_hugging_face(HUGGING_FACE)
    hugging_face_writer.write(
        tmp_path / "checkpoint", source.config, source.weights, tokenizer, tokenizer_json=path
    )
    assert (tmp_path / "checkpoint" / "tokenizer.json").read_bytes() == path.read_bytes()


def test_generation_defaults_and_task_params(tmp_path: Path) -> None:
    task = {"task_specific_params": {"summarization": {"num_beams": 4}}}
    generation = {"num_beams": 2, "forced_bos_token_id": 0, **task}
    source = read_hugging_face(HUGGING_FACE)
    hugging_face_writer.write(
        tmp_path / "checkpoint", source.config, source.weights, generation_config=generation
    )
    found = read_hugging_face(tmp_path / "checkpoint").generation_config
    assert {key: found[key] for key in generation} == generation
    assert found["decoder_start_token_id"] == 2


WRITERS: dict[str, Callable[..., None]] = {
    "keras": keras_writer.write,
    "huggingface": hugging_face_writer.write,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_whole_or_not_at_all(tmp_path: Path, kind: str) -> None:
    source = read_keras(PRESET)
    broken = {**source.weights, "decoder.layers.1.feedforward_output.kernel": lambda: 1 / 0}
    with pytest.raises(ZeroDivisionError):
        WRITERS[kind](tmp_path / "x", source.config, broken)
    assert not list(tmp_path.iterdir())
    WRITERS[kind](tmp_path / "x", source.config, source.weights)
    with pytest.raises(ExportError, match="already has something in it"):
        WRITERS[kind](tmp_path / "x", source.config, source.weights)


@pytest.mark.parametrize("kind", WRITERS)
def test_one_weight_at_a_time(tmp_path: Path, kind: str) -> None:
    config = BartConfig(1000, 8, 4, 256, 1024)
    source = random_checkpoint(config)
    assert source.weight_bytes > 50 << 20
    largest = 4 * 1024 * 256
    zeros = {name: lambda r=reader: np.zeros_like(r()) for name, reader in source.weights.items()}
    tracemalloc.start()
    WRITERS[kind](tmp_path / "x", config, zeros)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The random weights are made in float64 here, which is most of it.
    assert peak < 10 * largest

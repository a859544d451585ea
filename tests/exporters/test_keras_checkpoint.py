"""Keras presets, archives and weight files, read without Keras."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from keras_files import (
    FIXTURES,
    GOLDEN,
    PRESET,
    archive_members,
    arrays_of,
    assert_golden,
    change_json,
    copy_preset,
    write_archive,
    write_arrays,
)
from safetensors.numpy import load_file

from bart_onnx import BartSeq2SeqLMPreprocessor, BartTokenizer, OnnxBartSeq2SeqLM
from bart_onnx.config import BartConfig
from bart_onnx.graphs import LOGITS
from bart_onnx.weights import weight_shapes
from exporters.bart import Bart
from exporters.checkpoints import keras
from exporters.checkpoints.checkpoint import Checkpoint
from exporters.checkpoints.keras_names import dataset_name, dataset_shapes, plain_name
from exporters.export import export
from exporters.progress import Progress
from exporters.sources import open_checkpoint
from exporters.verify import full_pass

TINY = BartConfig(305, 2, 4, 32, 64, max_sequence_length=48)
WEIGHTS = "model.weights.h5"
TOKENIZER_FILES = {"tokenizer.json", "vocabulary.json", "merges.txt"}


def read(directory: Path) -> Checkpoint:
    return keras.read(directory, source="a test")


@pytest.mark.parametrize("name", ["keras_preset", "keras_preset_sharded"])
def test_golden_presets_equal_the_hugging_face_checkpoint(name: str) -> None:
    checkpoint = read(GOLDEN / name)
    assert checkpoint.config == TINY
    assert (checkpoint.format, checkpoint.source) == ("keras", "a test")
    assert checkpoint.generation_config == {}
    assert checkpoint.weight_bytes == 222_848
    assert set(checkpoint.source_dtypes.values()) == {"float32"}
    assert set(checkpoint.tokenizer_files) == TOKENIZER_FILES
    assert_golden(checkpoint)


def test_weight_map() -> None:
    rows = json.loads((GOLDEN / "weight_map.json").read_text())
    shapes = dataset_shapes(TINY)
    weight_of = {dataset_name(name): name for name in weight_shapes(TINY)}
    assert {row["h5"]: tuple(row["keras_shape"]) for row in rows} == shapes
    checkpoint, tensors = read(PRESET), load_file(GOLDEN / "hf_checkpoint" / "model.safetensors")
    for row in rows:
        array = checkpoint.weights[weight_of[row["h5"]]]()
        expected = tensors[row["hf"]]
        if row["transform_keras_to_hf"] == "prepend_2_rows":
            expected = expected[2:]
        elif row["transform_keras_to_hf"] in ("transpose", "transpose_reshape"):
            expected = expected.T
        np.testing.assert_array_equal(array, expected, row["h5"])


def test_bfloat16() -> None:
    checkpoint, stored = read(GOLDEN / "keras_preset_bf16"), GOLDEN / "keras_preset_bf16" / WEIGHTS
    assert set(checkpoint.source_dtypes.values()) == {"bfloat16"}
    arrays = arrays_of(stored)
    whole = read(PRESET)
    for name, reader in checkpoint.weights.items():
        array, kept = reader(), arrays[dataset_name(name)].view(np.uint16).reshape(-1)
        np.testing.assert_array_equal(array.view(np.uint32).reshape(-1), kept.astype("u4") << 16)
        np.testing.assert_allclose(array, whole.weights[name](), rtol=2**-8)


def test_float16(tmp_path: Path) -> None:
    directory = copy_preset(tmp_path / "preset")
    halves = {name: array.astype("f2") for name, array in arrays_of(PRESET / WEIGHTS).items()}
    write_arrays(directory / WEIGHTS, halves)
    checkpoint = read(directory)
    assert set(checkpoint.source_dtypes.values()) == {"float16"}
    for name, reader in checkpoint.weights.items():
        half = halves[dataset_name(name)].astype("f4")
        np.testing.assert_array_equal(reader().reshape(-1), half.reshape(-1), name)


@pytest.mark.parametrize("name", ["task.keras", "task.weights.h5"])
def test_what_keras_saved_of_a_task(name: str) -> None:
    checkpoint = open_checkpoint(str(FIXTURES / name), False, False, Progress(shown=False))
    with np.load(FIXTURES / "logits.npz") as golden:
        arrays = dict(golden)
    lengths = arrays["encoder_padding_mask"].sum(axis=1)
    ids = (arrays["encoder_token_ids"].astype("i8"), lengths.astype("i8"))
    bart = Bart.from_weights(checkpoint.config, checkpoint.weights)
    logits = full_pass(bart, *ids, arrays["decoder_token_ids"].astype("i8"))[LOGITS]
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-5)


def test_archive_keeps_the_tokenizer_while_it_is_open() -> None:
    checkpoint = keras.read_archive(FIXTURES / "task.keras", source="a test")
    assert set(checkpoint.tokenizer_files) == TOKENIZER_FILES
    directory = checkpoint.tokenizer_files["merges.txt"].parent
    gc.collect()
    tokenizer = BartTokenizer.from_files(directory)
    assert tokenizer.unsplittable_tokens == ["<s>", "</s>", "<pad>", "<mask>"]
    assert tokenizer.vocabulary == BartTokenizer.from_files(PRESET).vocabulary
    checkpoint.close()
    assert not directory.exists()


def test_archive_of_a_backbone_or_a_task_without_preprocessor(tmp_path: Path) -> None:
    members = archive_members()
    task = json.loads(members["config.json"])
    weights = {plain_name(name): a for name, a in arrays_of(FIXTURES / "task.weights.h5").items()}
    whole = keras.read_archive(FIXTURES / "task.keras", source="a test")
    task["config"]["preprocessor"] = None
    backbone = task["config"]["backbone"]
    for number, config in enumerate((task, backbone)):
        h5 = write_arrays(tmp_path / f"{number}.h5", weights).read_bytes()
        found = {"config.json": json.dumps(config).encode(), "model.weights.h5": h5}
        path = write_archive(tmp_path / f"{number}.keras", found)
        checkpoint = keras.read_archive(path, source="a test")
        assert checkpoint.config == whole.config
        assert not checkpoint.tokenizer_files
        for name, reader in checkpoint.weights.items():
            np.testing.assert_array_equal(reader(), whole.weights[name](), name)


def test_a_backbone_alone(tmp_path: Path) -> None:
    for name in ("config.json", WEIGHTS):
        shutil.copyfile(PRESET / name, tmp_path / name)
    checkpoint = read(tmp_path)
    assert checkpoint.config == TINY
    assert not checkpoint.tokenizer_files


def test_token_ids_are_the_vocabularys(tmp_path: Path) -> None:
    directory = copy_preset(tmp_path / "preset")
    moved = {"<s>": 7, "<pad>": 8, "</s>": 9}

    def move(vocabulary: dict) -> None:
        others = {token: i for token, i in vocabulary.items() if i in moved.values()}
        vocabulary |= moved
        vocabulary |= dict(zip(others, (0, 1, 2), strict=True))

    change_json(directory / "assets" / "tokenizer" / "vocabulary.json", move)
    config = read(directory).config
    assert (config.start_token_id, config.pad_token_id, config.end_token_id) == (7, 8, 9)
    assert config.decoder_start_token_id == 9


def test_options_of_the_tokenizer_and_lengths_reach_the_bundle(tmp_path: Path) -> None:
    directory = copy_preset(tmp_path / "preset")
    change_json(
        directory / "tokenizer.json",
        lambda content: content["config"].update(
            add_prefix_space=True, sequence_length=7, unsplittable_tokens=["<s>", "<mask>"]
        ),
    )
    change_json(
        directory / "preprocessor.json",
        lambda content: content["config"].update(encoder_sequence_length=24),
    )
    files = read(directory).tokenizer_files
    assert set(files) == {*TOKENIZER_FILES, "preprocessor.json"}
    for name, path in files.items():
        (tmp_path / "bundle").mkdir(exist_ok=True)
        shutil.copyfile(path, tmp_path / "bundle" / name)
    tokenizer = BartTokenizer.from_files(tmp_path / "bundle")
    assert tokenizer.add_prefix_space
    assert tokenizer.sequence_length == 7
    assert tokenizer.unsplittable_tokens == ["<s>", "<mask>"]
    saved = json.loads((tmp_path / "bundle" / "preprocessor.json").read_text())["config"]
    assert BartSeq2SeqLMPreprocessor.from_config(saved).encoder_sequence_length == 24


@pytest.mark.filterwarnings("ignore::bart_onnx.errors.InputTruncatedWarning")
def test_an_exported_preset_keeps_the_greedy_goldens(tmp_path: Path) -> None:
    bundle = export(str(PRESET), tmp_path / "bundle", show_progress=False)
    lm = OnnxBartSeq2SeqLM.from_preset(str(bundle))
    assert len(lm.preprocessor.tokenizer.tokenize("<mask>")) > 1
    lm.preprocessor.encoder_sequence_length = 24
    lm.preprocessor.decoder_sequence_length = 20
    lm.compile(sampler="greedy")
    cases = json.loads((GOLDEN / "generate.json").read_text())["cases"]
    greedy = [case for case in cases if case["sampler"] == "greedy"]
    assert len(greedy) == 15
    for case in greedy:
        assert lm.generate(case["inputs"], **case["kwargs"]) == case["text"], case["name"]


def test_reading_needs_no_framework() -> None:
    program = (
        "import sys; from pathlib import Path; from exporters.checkpoints import keras;"
        f"keras.read(Path({str(PRESET)!r}), source='x').weights['token_embedding']();"
        "print([n for n in ('torch', 'keras', 'tensorflow', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr

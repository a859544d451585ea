"""Configs, tensors and directories that are no BART checkpoint, each refused by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import Tensors, golden_config, golden_tensors, write_checkpoint

from bart_onnx.errors import CheckpointError, MissingFileError
from exporters.checkpoints.checkpoint import Checkpoint
from exporters.checkpoints.hugging_face import read
from exporters.checkpoints.local_files import JSON_LIMIT

SHARED = "model.shared.weight"
KEY = "model.encoder.layers.1.self_attn.k_proj.weight"


def open_checkpoint(directory: Path) -> Checkpoint:
    return read(directory, source="hf://someone/tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mbart"}, r"model_type 'mbart' \(mBART\), and only 'bart'"),
        ({"model_type": "pegasus"}, r"model_type 'pegasus' \(Pegasus\)"),
        ({"model_type": "t5"}, "model_type 't5'"),
        ({"model_type": ...}, "model_type None"),
        ({"model_type": ["bart"]}, "model_type"),
        ({"registered_name": "keras_hub>BartBackbone"}, r"Keras preset.*keras_hub>BartBackbone"),
        ({"architectures": ["BartForSequenceClassification"]}, "BartForSequenceClassification"),
        ({"architectures": ["BartForQuestionAnswering"]}, "BartForQuestionAnswering"),
        ({"architectures": ["BartForCausalLM"]}, "BartForCausalLM"),
        ({"architectures": "BartModel"}, "architectures = 'BartModel'; expected a list"),
        ({"architectures": [{}]}, "saved by {}"),
        ({"activation_function": "relu"}, r"activation_function = 'relu'; expected 'gelu'"),
        ({"activation_function": "gelu_new"}, "activation_function = 'gelu_new'"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder = False"),
        ({"normalize_before": True}, "normalize_before = True; expected False"),
        ({"quantization_config": {"bits": 8}}, "quantization_config"),
        ({"d_model": ...}, "lacks d_model"),
        ({"decoder_layers": ...}, "lacks decoder_layers"),
        ({"encoder_layers": ..., "num_hidden_layers": ...}, "lacks encoder_layers and num_hidden"),
        ({"d_model": True}, "d_model = True; expected an integer"),
        ({"d_model": 32.0}, "d_model = 32.0"),
        ({"d_model": "32"}, "d_model = '32'"),
        ({"d_model": float("nan")}, "d_model = nan"),
        ({"d_model": 0}, "d_model = 0"),
        ({"d_model": -32}, "d_model = -32"),
        ({"d_model": [32]}, "d_model"),
        ({"vocab_size": 10**30}, "vocab_size = 1000"),
        ({"encoder_layers": 10**9}, "encoder_layers = 1000000000; expected .* to 1000"),
        ({"max_position_embeddings": float("inf")}, "max_position_embeddings = inf"),
        ({"encoder_attention_heads": 5}, r"hidden_dim 32 cannot be shared by 5"),
        ({"scale_embedding": 1}, "scale_embedding = 1; expected true or false"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings = 'yes'"),
        ({"dropout": 1.5}, "dropout = 1.5"),
        ({"dropout": False}, "dropout = False"),
        ({"dropout": float("nan")}, "dropout = nan"),
        ({"decoder_start_token_id": 305}, r"decoder_start_token_id is 305.*ids 0 to 304"),
        ({"pad_token_id": -1}, "pad_token_id = -1"),
        ({"bos_token_id": 2.0}, "bos_token_id = 2.0"),
        ({"eos_token_id": []}, "eos_token_id"),
        ({"num_beams": "4"}, "num_beams = '4'"),
        ({"num_beams": True}, "num_beams = True"),
        ({"length_penalty": float("inf")}, "length_penalty = inf"),
        ({"early_stopping": "maybe"}, "early_stopping = 'maybe'"),
        ({"forced_bos_token_id": 305}, "forced_bos_token_id = 305; expected .* from 0 to 304"),
        ({"bad_words_ids": [1]}, "bad_words_ids"),
        ({"bad_words_ids": [[1, 999]]}, "bad_words_ids = 999"),
        ({"sequence_bias": [[[1], float("nan")]]}, "sequence_bias"),
        ({"task_specific_params": {"summarization": {"num_beams": 0.5}}}, "num_beams = 0.5"),
    ],
)
def test_config(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_checkpoint(tmp_path, golden_config(**changes), golden_tensors())
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"d_model": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[]", "must hold a JSON object, found list"),
        (b"null", "found NoneType"),
        (b" " * (JSON_LIMIT + 1), f"has {JSON_LIMIT + 1} bytes"),
    ],
)
def test_json(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write_checkpoint(tmp_path, golden_config(), golden_tensors())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert name in str(caught.value)


def without(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def added(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: torch.ones(shape)})


def cut(name: str, rows: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensors[name][:rows].clone()})


def cast(name: str, dtype: torch.dtype) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensors[name].to(dtype)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(KEY), rf"1 missing: {KEY}"),
        (without(SHARED), rf"1 missing: {SHARED}"),
        (without("model.decoder.layernorm_embedding.bias"), "decoder.layernorm_embedding.bias"),
        (added("model.encoder.layers.2.fc1.weight", 64, 32), "1 unexpected: .*layers.2.fc1.weight"),
        (added("lm_head.bias", 305), "unexpected: lm_head.bias"),
        (added("model.encoder.layer_norm.weight", 32), "unexpected: model.encoder.layer_norm"),
        (cut(KEY, 31), rf"1 of wrong shape: {KEY} \[31, 32\], expected \[32, 32\]"),
        (cut(SHARED, 304), r"\[304, 32\], expected \[305, 32\]"),
        (cut("model.encoder.embed_positions.weight", 48), r"\[48, 32\], expected \[50, 32\]"),
        (added("final_logits_bias", 2, 305), r"\[2, 305\], expected \[305\] or \[1, 305\]"),
        (added("lm_head.weight", 32, 305), r"lm_head.weight \[32, 305\]"),
        (cast(KEY, torch.float64), f"of a dtype other than F32, F16, BF16: {KEY} F64"),
        (cast(KEY, torch.int64), f"{KEY} I64"),
        (cast("final_logits_bias", torch.int32), "final_logits_bias I32"),
        (added("classification_head.dense.weight", 3, 3), "sequence classification"),
        (added("qa_outputs.weight", 2, 32), r"question answering \(qa_outputs.weight\)"),
        (added("shared.weight", 305, 32), "'model.shared.weight' and 'shared.weight'|same weight"),
        (added("model.encoder.embed_tokens.weight", 305, 32), "different values.*one token"),
    ],
)
def test_tensors(tmp_path: Path, change: Callable[[Tensors], object], message: str) -> None:
    tensors = golden_tensors()
    change(tensors)
    write_checkpoint(tmp_path, golden_config(), tensors)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert "model.safetensors" in str(caught.value)


def test_names_cannot_control_a_terminal(tmp_path: Path) -> None:
    tensors = {**golden_tensors(), "\x1b[2J" + "x" * 1000: torch.ones(1)}
    write_checkpoint(tmp_path, golden_config(), tensors)
    with pytest.raises(CheckpointError, match=r"unexpected: '\\x1b\[2Jxx") as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_every_fault_is_listed_at_once(tmp_path: Path) -> None:
    values = golden_config(decoder_layers=3, encoder_layers=1, decoder_ffn_dim=63)
    write_checkpoint(tmp_path, values, golden_tensors())
    with pytest.raises(CheckpointError, match=r"26 missing: .*16 unexpected: .*6 of wrong shape"):
        open_checkpoint(tmp_path)


def test_config_that_unties_without_a_head(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, golden_config(tie_word_embeddings=False), golden_tensors())
    with pytest.raises(CheckpointError, match=r"missing: lm_head.weight \(tie_word_embeddings is"):
        open_checkpoint(tmp_path)
    tensors = golden_tensors()
    tensors["lm_head.weight"] = tensors.pop(SHARED)
    write_checkpoint(tmp_path, golden_config(tie_word_embeddings=False), tensors)
    with pytest.raises(CheckpointError, match=r"missing: model.shared.weight"):
        open_checkpoint(tmp_path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="is no directory"):
        open_checkpoint(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(MissingFileError, match="is no directory"):
        open_checkpoint(tmp_path / "file")
    with pytest.raises(MissingFileError, match=r"needs config.json, but .* has only file"):
        open_checkpoint(tmp_path)
    write_checkpoint(tmp_path, golden_config())
    (tmp_path / "tf_model.h5").touch()
    with pytest.raises(MissingFileError, match=r"no weights: it needs model.safetensors.*tf_model"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
)
def test_links_that_leave(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path / "model", golden_config(), golden_tensors())
    outside = tmp_path / "outside"
    outside.write_text("{}")
    (tmp_path / "model" / name).unlink(missing_ok=True)
    (tmp_path / "model" / name).symlink_to("../outside")
    with pytest.raises(CheckpointError, match=r"is a link to .*outside, outside its directory"):
        open_checkpoint(tmp_path / "model")
    outside.unlink()
    with pytest.raises(CheckpointError, match="link to a file that is not there"):
        open_checkpoint(tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    (tmp_path / "model" / name).symlink_to(name)
    with pytest.raises(CheckpointError, match="cannot be opened"):
        open_checkpoint(tmp_path / "model")


def test_link_from_a_cache_to_another_repository(tmp_path: Path) -> None:
    snapshots = [tmp_path / f"models--a--{name}" / "snapshots" / "c" for name in ("mine", "other")]
    for snapshot in snapshots:
        write_checkpoint(snapshot, golden_config(), golden_tensors())
    (snapshots[0] / "model.safetensors").unlink()
    (snapshots[0] / "model.safetensors").symlink_to(snapshots[1] / "model.safetensors")
    with pytest.raises(CheckpointError, match="outside its directory"):
        open_checkpoint(snapshots[0])


def test_what_is_no_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, golden_config())
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="must be a file"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="must be a file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "place",
    [
        "../model.safetensors",
        "/etc/passwd.safetensors",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        "..",
        "",
        ".safetensors",
        "model.safetensors\0",
        "pytorch_model.bin",
        3,
        None,
    ],
)
def test_index_that_names_no_file_beside_it(tmp_path: Path, place: object) -> None:
    write_checkpoint(tmp_path, golden_config())
    index = json.dumps({"weight_map": {SHARED: place}})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=rf"index.json says that '{SHARED}' is in"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_index_without_a_map(tmp_path: Path, content: str) -> None:
    write_checkpoint(tmp_path, golden_config())
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="must hold a weight_map"):
        open_checkpoint(tmp_path)


def test_index_and_shards_that_contradict_each_other(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, golden_config(), golden_tensors())
    (tmp_path / "model.safetensors").rename(tmp_path / "shard.safetensors")
    names = dict.fromkeys(golden_tensors(), "shard.safetensors")
    index = tmp_path / "model.safetensors.index.json"

    index.write_text(json.dumps({"weight_map": {**names, "model.extra": "shard.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"that the shards lack: model\.extra"):
        open_checkpoint(tmp_path)
    listed = {name: place for name, place in names.items() if name != KEY}
    index.write_text(json.dumps({"weight_map": listed}))
    with pytest.raises(CheckpointError, match=f"does not place there: {KEY}"):
        open_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": {**names, KEY: "absent.safetensors"}}))
    with pytest.raises(MissingFileError, match=r"needs absent.safetensors, but .* has only"):
        open_checkpoint(tmp_path)

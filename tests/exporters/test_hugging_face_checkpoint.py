"""Checkpoints of every shape are read as transformers (5.23) reads them, weight by weight."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from loopback_hub import hub_for_tests
from safetensors.torch import save_file
from tiny_checkpoints import (
    Tensors,
    golden_config,
    golden_tensors,
    random_tensors,
    transformers_weights,
    write_checkpoint,
)
from transformers import BartForConditionalGeneration

from bart_onnx import hub
from bart_onnx.config import BartConfig
from bart_onnx.weights import optional_weight_shapes, weight_shapes
from exporters.checkpoints.checkpoint import Checkpoint
from exporters.checkpoints.hugging_face import read

SHARED = "model.shared.weight"
EMBEDDINGS = (SHARED, "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")


def check_as_transformers(directory: Path) -> Checkpoint:
    checkpoint = read(directory, source="test")
    expected = transformers_weights(directory)
    assert set(checkpoint.weights) == set(expected)
    shapes = {**weight_shapes(checkpoint.config), **optional_weight_shapes(checkpoint.config)}
    for name, read_weight in checkpoint.weights.items():
        array = read_weight()
        assert array.shape == shapes[name], name
        assert array.dtype == np.float32, name
        assert array.flags.c_contiguous, name
        assert array.flags.writeable, name
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert checkpoint.weight_bytes == sum(array.nbytes for array in expected.values())
    return checkpoint


def test_golden(golden: Path) -> None:
    checkpoint = check_as_transformers(golden / "hf_checkpoint")
    assert checkpoint.config == BartConfig(
        305,
        2,
        4,
        32,
        64,
        dropout=0.0,
        max_sequence_length=48,
        decoder_num_layers=2,
        decoder_num_heads=4,
        decoder_intermediate_dim=64,
    )
    assert checkpoint.format == "huggingface"
    assert checkpoint.source == "test"
    assert set(checkpoint.source_dtypes.values()) == {"float32"}
    assert set(checkpoint.tokenizer_files) == {"vocab.json", "merges.txt"}
    checkpoint.close()


@pytest.mark.parametrize("variant", ["scale_embedding", "decoder_embed_tokens_only"])
def test_golden_variants(golden: Path, variant: str) -> None:
    checkpoint = check_as_transformers(golden / "hf_variants" / variant)
    assert checkpoint.config.scale_embedding is (variant == "scale_embedding")
    assert not checkpoint.tokenizer_files


def test_config_as_transformers_5_writes_it(golden: Path, tmp_path: Path) -> None:
    values = json.loads((golden / "hf_variants" / "no_num_hidden_layers/config.json").read_text())
    write_checkpoint(tmp_path, values, golden_tensors())
    assert check_as_transformers(tmp_path).config.num_layers == 2


def test_trained_checkpoint(shared_data: Path) -> None:
    checkpoint = check_as_transformers(shared_data / "g2p_bart" / "en_us")
    config = checkpoint.config
    assert (config.pad_token_id, config.start_token_id, config.end_token_id) == (0, 1, 2)
    assert config.decoder_start_token_id == 1
    assert config.decoder_head_dim == 128
    assert not config.final_logits_bias


def keep(*names: str) -> Callable[[Tensors], Tensors]:
    """Leave the embedding under these names only."""

    def change(tensors: Tensors) -> Tensors:
        embedding = tensors.pop(SHARED)
        return {**tensors, **{name: embedding.clone() for name in names}}

    return change


def cast(dtype: torch.dtype) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()}


def without_prefix(tensors: Tensors) -> Tensors:
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def with_bias(tensors: Tensors) -> Tensors:
    bias = torch.randn(1, len(tensors[SHARED]), generator=torch.manual_seed(5))
    return {**tensors, "final_logits_bias": bias}


def without_bias(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != "final_logits_bias"}


def fairseq_leftovers(tensors: Tensors) -> Tensors:
    extra = {f"model.{side}.version": torch.tensor([3.0]) for side in ("encoder", "decoder")}
    return {**tensors, **extra}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(without_prefix, id="no prefix"),
        pytest.param(keep(EMBEDDINGS[1]), id="encoder.embed_tokens"),
        pytest.param(keep("lm_head.weight"), id="lm_head"),
        pytest.param(keep(*EMBEDDINGS, "lm_head.weight"), id="all four"),
        pytest.param(keep(*EMBEDDINGS[1:]), id="both embed_tokens"),
        pytest.param(with_bias, id="bias"),
        pytest.param(without_bias, id="no bias"),
        pytest.param(fairseq_leftovers, id="fairseq leftovers"),
        pytest.param(cast(torch.float16), id="float16"),
        pytest.param(cast(torch.bfloat16), id="bfloat16"),
        pytest.param(lambda t: cast(torch.bfloat16)(with_bias(t)), id="bfloat16 with bias"),
    ],
)
def test_tensor_variants(tmp_path: Path, change: Callable[[Tensors], Tensors]) -> None:
    tensors = change(golden_tensors())
    checkpoint = check_as_transformers(write_checkpoint(tmp_path, golden_config(), tensors))
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    assert set(checkpoint.source_dtypes.values()) == {dtype}
    assert checkpoint.config.tied_embeddings
    bias = tensors.get("final_logits_bias")
    assert checkpoint.config.final_logits_bias is bool(bias is not None and bias.any())


@pytest.mark.parametrize(
    "sides",
    [
        pytest.param({"decoder_layers": 3}, id="deeper decoder"),
        pytest.param({"encoder_layers": 3, "decoder_layers": 1}, id="distilbart"),
        pytest.param({"decoder_attention_heads": 2}, id="heads"),
        pytest.param({"decoder_ffn_dim": 48, "encoder_ffn_dim": 40}, id="feed-forward"),
        pytest.param({"max_position_embeddings": 7, "vocab_size": 11}, id="small tables"),
        pytest.param({"encoder_layers": 12, "decoder_layers": 11}, id="two-digit layers"),
    ],
)
def test_shapes(tmp_path: Path, sides: dict[str, int]) -> None:
    values = golden_config(num_hidden_layers=..., **sides)
    write_checkpoint(tmp_path, values, random_tensors(values))
    config = check_as_transformers(tmp_path).config
    assert config.encoder.num_layers == values["encoder_layers"]
    assert config.decoder.num_layers == values["decoder_layers"]
    assert config.decoder.num_heads == values["decoder_attention_heads"]
    assert config.decoder.intermediate_dim == values["decoder_ffn_dim"]
    assert config.max_sequence_length == values["max_position_embeddings"]


def test_untied(tmp_path: Path) -> None:
    values = golden_config(tie_word_embeddings=False)
    tensors = random_tensors(values)
    for name in EMBEDDINGS[1:]:
        tensors[name] = tensors[SHARED].clone()
    config = check_as_transformers(write_checkpoint(tmp_path, values, tensors)).config
    assert not config.tied_embeddings


def test_head_that_differs_though_tied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = golden_tensors()
    tensors["lm_head.weight"] = tensors[SHARED] + 1
    write_checkpoint(tmp_path, golden_config(), tensors)
    with caplog.at_level(logging.WARNING, logger="exporters"):
        config = check_as_transformers(tmp_path).config
    assert not config.tied_embeddings
    assert "different values" in caplog.text


def test_bias_without_leading_axis(tmp_path: Path) -> None:
    tensors = with_bias(golden_tensors())
    tensors["final_logits_bias"] = tensors["final_logits_bias"][0].clone()
    weights = read(write_checkpoint(tmp_path, golden_config(), tensors), source="test").weights
    np.testing.assert_array_equal(weights["final_logits_bias"](), tensors["final_logits_bias"])


def test_shards(tmp_path: Path) -> None:
    model = BartForConditionalGeneration.from_pretrained(
        write_checkpoint(tmp_path / "whole", golden_config(), golden_tensors())
    )
    model.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    check_as_transformers(tmp_path / "shards")


def test_model_without_head_class_is_tied(tmp_path: Path) -> None:
    values = golden_config(architectures=["BartModel"], tie_word_embeddings=...)
    tensors = without_bias(without_prefix(golden_tensors()))
    assert check_as_transformers(write_checkpoint(tmp_path, values, tensors)).config.tied_embeddings


@pytest.mark.parametrize("fallback", [True, False])
def test_names_of_depth(tmp_path: Path, fallback: bool) -> None:
    depth: dict[str, object] = {"encoder_layers": ..., "num_hidden_layers": 2}
    other: dict[str, object] = {"num_hidden_layers": 9}
    values = golden_config(**(depth if fallback else other))
    write_checkpoint(tmp_path, values, golden_tensors())
    assert read(tmp_path, source="test").config.num_layers == 2


def test_token_ids(tmp_path: Path) -> None:
    names = ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id")
    values = golden_config(**dict.fromkeys(names, ...))
    config = read(write_checkpoint(tmp_path, values, golden_tensors()), source="test").config
    assert (config.start_token_id, config.pad_token_id) == (0, 1)
    assert (config.end_token_id, config.decoder_start_token_id) == (2, 2)
    values = golden_config(**dict(zip(names, (4, None, [6, 7], 8), strict=True)))
    config = read(write_checkpoint(tmp_path, values, golden_tensors()), source="test").config
    assert (config.start_token_id, config.pad_token_id) == (4, 1)
    assert (config.end_token_id, config.decoder_start_token_id) == (6, 8)


def test_links_in_the_hub_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    write_checkpoint(snapshot, golden_config(), golden_tensors())
    (repository / "blobs").mkdir()
    shared = tmp_path / "blobs" / "ab"
    shared.mkdir(parents=True)
    (snapshot / "config.json").rename(repository / "blobs" / "config")
    (snapshot / "config.json").symlink_to("../../blobs/config")
    (snapshot / "model.safetensors").rename(shared / "weights")
    (repository / "blobs" / "weights").symlink_to("../../blobs/ab/weights")
    (snapshot / "model.safetensors").symlink_to("../../blobs/weights")
    check_as_transformers(snapshot)


def test_from_a_hub(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_for_tests(monkeypatch, tmp_path) as server:
        server.add("someone/tiny", golden / "hf_checkpoint")
        snapshot = hub.download_checkpoint("hf://someone/tiny")
    assert (snapshot.directory / "model.safetensors").is_symlink()
    check_as_transformers(snapshot.directory)


def test_link_to_the_directory_and_links_inside_it(tmp_path: Path) -> None:
    real = write_checkpoint(tmp_path / "real", golden_config(), golden_tensors())
    (real / "model.safetensors").rename(real / "weights-of-june")
    (real / "model.safetensors").symlink_to("weights-of-june")
    (tmp_path / "link").symlink_to(real)
    check_as_transformers(tmp_path / "link")


def test_weights_changed_after_opening(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, golden_config(), golden_tensors())
    weights = read(tmp_path, source="test").weights
    first = weights["token_embedding"]()
    first[:] = 0
    assert weights["token_embedding"]().any()
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="can no longer be read"):
        weights["token_embedding"]()


def test_no_torch_is_imported(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, golden_config(), golden_tensors())
    code = (
        "import sys; from pathlib import Path; from exporters.checkpoints.hugging_face import read;"
        "[w() for w in read(Path(sys.argv[1]), source='x').weights.values()];"
        "print([m for m in ('torch', 'transformers', 'onnx') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_zero_bias_of_a_dtype_that_weights_may_have(tmp_path: Path) -> None:
    tensors = golden_tensors()
    tensors["final_logits_bias"] = tensors["final_logits_bias"].half()
    save_file(tensors, write_checkpoint(tmp_path, golden_config()) / "model.safetensors")
    assert not read(tmp_path, source="test").config.final_logits_bias

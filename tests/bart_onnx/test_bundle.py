"""Opening a bundle: what is refused, and that nothing is ever written."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess

import numpy as np
import pytest

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.bundle import Bundle
from bart_onnx.errors import (
    BundleDamagedError,
    BundleError,
    BundleFormatError,
    MissingFileError,
)
from bart_onnx.sealed import MANIFEST, SEAL, file_sha256


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def rewrite_manifest(directory, **changes):
    """Change the manifest and seal it again, as a faulty or hostile writer would."""
    manifest = json.loads((directory / MANIFEST).read_text()) | changes
    (directory / MANIFEST).write_text(json.dumps(manifest))
    (directory / SEAL).write_text(f"{file_sha256(directory / MANIFEST)}  {MANIFEST}\n")


def test_what_was_exported_is_there(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    assert bundle.precision == "fp32"
    assert bundle.config.vocabulary_size == 305
    assert bundle.config.decoder.num_layers == 2
    assert bundle.generation_config["decoder_start_token_id"] == 2
    assert bundle.tokenizer_directory is not None
    assert sorted(path.name for path in bundle.tokenizer_directory.iterdir()) == [
        "merges.txt",
        "vocab.json",
    ]
    assert "ONNX" in (tiny_bundle / "README.md").read_text()


def test_the_seal_is_one_that_sha256sum_reads(tiny_bundle):
    subprocess.run(["sha256sum", "--check", "--quiet", SEAL], cwd=tiny_bundle, check=True)


def test_every_checkpoint_tensor_is_found_through_the_manifest(tiny_bundle, golden):
    from safetensors.numpy import load_file

    bundle = Bundle.open(tiny_bundle)
    tensors = load_file(golden / "hf_checkpoint" / "model.safetensors")

    def original(name):
        return tensors[f"model.{name}"] if f"model.{name}" in tensors else tensors[name]

    np.testing.assert_array_equal(bundle.weight("token_embedding"), original("shared.weight"))
    for side in ("encoder", "decoder"):
        table = original(f"{side}.embed_positions.weight")
        np.testing.assert_array_equal(bundle.weight(f"{side}.position_embedding"), table[2:])
        np.testing.assert_array_equal(bundle.weight(f"{side}.unread_positions"), table[:2])
    for layer in range(2):
        for ours, theirs in (
            ("self_attention.query", "self_attn.q_proj"),
            ("self_attention.value", "self_attn.v_proj"),
            ("cross_attention.key", "encoder_attn.k_proj"),
            ("cross_attention.output", "encoder_attn.out_proj"),
            ("feedforward_intermediate", "fc1"),
        ):
            kernel = bundle.weight(f"decoder.layers.{layer}.{ours}.kernel")
            bias = bundle.weight(f"decoder.layers.{layer}.{ours}.bias")
            np.testing.assert_array_equal(
                kernel.T, original(f"decoder.layers.{layer}.{theirs}.weight")
            )
            np.testing.assert_array_equal(bias, original(f"decoder.layers.{layer}.{theirs}.bias"))
            assert not kernel.flags.writeable


def test_any_flipped_byte_is_found(copy):
    for path in sorted(path for path in copy.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for position in {0, len(content) // 2, len(content) - 1}:
            damaged = bytearray(content)
            damaged[position] ^= 1
            path.write_bytes(damaged)
            # The last byte of the seal is a line end, which means nothing.
            if path.name == SEAL and position == len(content) - 1:
                continue
            if path.name == SEAL and position == len(content) // 2:
                with pytest.raises(BundleDamagedError):
                    Bundle.open(copy)
                continue
            with pytest.raises(BundleDamagedError, match=path.name):
                Bundle.open(copy)
        path.write_bytes(content)
    Bundle.open(copy)


def test_hashing_can_be_left_out(copy):
    path = copy / "weights.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    Bundle.open(copy, verify=False)
    with pytest.raises(BundleDamagedError, match=r"weights\.bin has sha256"):
        Bundle.open(copy)


@pytest.mark.parametrize("name", ["weights.bin", "encoder.onnx", "tokenizer/vocab.json", SEAL])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(MissingFileError, match=name):
        Bundle.open(copy)


def test_a_truncated_file_is_named_with_both_sizes(copy):
    path = copy / "weights.bin"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(BundleDamagedError, match=rf"{size - 1} bytes; the manifest says {size}"):
        Bundle.open(copy)


def test_no_directory_and_no_bundle(tmp_path):
    with pytest.raises(MissingFileError, match="no directory"):
        Bundle.open(tmp_path / "absent")
    with pytest.raises(MissingFileError, match=MANIFEST):
        Bundle.open(tmp_path)


def test_a_newer_format_is_refused(copy):
    rewrite_manifest(copy, format_version=99, bart_onnx_version="9.9")
    with pytest.raises(BundleFormatError, match=r"format 99.*bart_onnx 9\.9.*Upgrade"):
        Bundle.open(copy)


def test_an_older_format_is_refused(copy):
    rewrite_manifest(copy, format_version=1, bart_onnx_version="0.0.1")
    with pytest.raises(
        BundleFormatError, match=r"format 1, written by.*0\.0\.1.*Remove it, and export"
    ):
        Bundle.open(copy)
    with pytest.raises(BundleFormatError, match="reads format 2"):
        OnnxBartSeq2SeqLM.from_preset(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "something else"},
        {"files": []},
        {"files": {"config.json": {}}},
        {"graphs": {}},
        {"graphs": {"encoder": "../encoder.onnx", "decoder_step": "decoder_step.onnx"}},
        {"tensors": None},
        {"precision": 32},
        {"graphs": {"encoder": ["encoder.onnx"], "decoder_step": "decoder_step.onnx"}},
        {"files": {"x" * 300: {"size": 1, "sha256": "0"}}},
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(copy, changes):
    rewrite_manifest(copy, **changes)
    with pytest.raises(BundleError):
        Bundle.open(copy)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside"])
def test_a_file_outside_the_bundle_is_refused(copy, name):
    (copy.parent / "outside").write_text("x")
    manifest = json.loads((copy / MANIFEST).read_text())
    files = manifest["files"] | {name: {"size": 1, "sha256": "0"}}
    rewrite_manifest(copy, files=files)
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "entry",
    [
        {"offset": -4},
        {"offset": 10**12},
        {"shape": [305, 10**9]},
        {"strides": [32]},
        {"dtype": "float64"},
        {"file": "absent.bin"},
        {"shape": "305"},
        {"shape": [], "strides": []},
        {"shape": [2**40, 1], "strides": [0, 0]},
    ],
)
def test_a_weight_outside_its_file_is_refused(copy, entry):
    tensors = json.loads((copy / MANIFEST).read_text())["tensors"]
    tensors["token_embedding"] |= entry
    rewrite_manifest(copy, tensors=tensors)
    with pytest.raises(BundleError, match="token_embedding"):
        Bundle.open(copy).weight("token_embedding")


def rewrite_config(copy, **changes):
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps(config))
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"]["config.json"] = {
        "size": (copy / "config.json").stat().st_size,
        "sha256": file_sha256(copy / "config.json"),
    }
    rewrite_manifest(copy, files=manifest["files"])


def test_a_config_that_contradicts_itself_is_refused(copy):
    rewrite_config(copy, num_heads=5)
    with pytest.raises(BundleError, match="5 encoder heads"):
        Bundle.open(copy)


def test_a_config_beyond_any_bart_is_refused_at_once(copy):
    rewrite_config(copy, decoder_num_layers=30_000_000)
    with pytest.raises(BundleError, match=r"decoder num_layers.*from 1 to 1000"):
        Bundle.open(copy)


def test_graphs_that_do_not_fit_the_config_are_refused(copy):
    rewrite_config(copy, decoder_num_layers=1)
    with pytest.raises(BundleError, match="encoder graph does not fit"):
        OnnxBartSeq2SeqLM.from_preset(copy)


def test_swapped_graphs_are_refused(copy):
    graphs = {"encoder": "decoder_step.onnx", "decoder_step": "encoder.onnx"}
    rewrite_manifest(copy, graphs=graphs | {"alignment": "alignment.onnx"})
    with pytest.raises(BundleError, match="does not fit"):
        OnnxBartSeq2SeqLM.from_preset(copy)


def test_a_read_only_bundle_opens_and_generates_unchanged(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    for path in (*copy.rglob("*"), copy):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    lm = OnnxBartSeq2SeqLM.from_preset(copy)
    lm.compile(sampler="greedy")
    assert lm.generate("the fox") == "fox the"
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)

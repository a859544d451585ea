"""An export from end to end: done once, whole or not at all, and refused when it is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from tiny_models import TINY, export_checkpoint, random_checkpoint

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.bundle import Bundle, is_bundle
from bart_onnx.errors import (
    BundleDamagedError,
    CheckpointError,
    ExportError,
    MissingFileError,
    PresetError,
)
from exporters.export import export


@pytest.fixture
def checkpoint(golden):
    return golden / "hf_checkpoint"


def visible(directory):
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


def everything(directory):
    return sorted(path.name for path in directory.iterdir())


def test_one_copy_of_the_weights(tiny_bundle, checkpoint):
    size = sum(path.stat().st_size for path in tiny_bundle.rglob("*.bin"))
    assert size <= 1.05 * (checkpoint / "model.safetensors").stat().st_size


def test_a_second_export_to_one_place_is_done_at_once(checkpoint, tmp_path, capsys):
    target = export(str(checkpoint), tmp_path / "bundle", show_progress=False)
    before = (target / "manifest.json").stat().st_mtime_ns
    export(os.path.relpath(checkpoint) + "/", tmp_path / "bundle")
    assert "Already exported" in capsys.readouterr().err
    assert everything(tmp_path) == ["bundle"]
    assert (target / "manifest.json").stat().st_mtime_ns == before


def test_a_place_that_holds_another_bundle_is_refused(tiny_bundle, tmp_path, golden):
    target = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    other = golden / "hf_variants" / "scale_embedding"
    with pytest.raises(ExportError, match="already holds"):
        export(str(other), target, show_progress=False)


def test_a_checkpoint_that_was_written_anew_is_not_taken_for_the_old_one(
    checkpoint, tiny_bundle, tmp_path
):
    copied = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    export(str(copied), tmp_path / "bundle", show_progress=False)
    os.utime(copied / "model.safetensors", ns=(1, 1))
    with pytest.raises(ExportError, match="as it was when it was exported"):
        export(str(copied), tmp_path / "bundle", show_progress=False)


def test_no_path_of_the_machine_is_in_a_bundle(tiny_bundle, checkpoint):
    for path in tiny_bundle.rglob("*"):
        assert path.is_dir() or str(checkpoint.parent).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("kind", ["link", "dangling", "."])
def test_outputs_that_are_links_or_here(checkpoint, tmp_path, monkeypatch, kind):
    place = tmp_path / "place"
    if kind != "dangling":
        place.mkdir()
    if kind == ".":
        monkeypatch.chdir(place)
        output = "."
    else:
        output = tmp_path / "link"
        output.symlink_to(place)
    found = export(str(checkpoint), output, show_progress=False)
    assert found == place
    assert is_bundle(place)


def test_a_damaged_tokenizer_is_not_published(checkpoint, tmp_path):
    copied = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    (copied / "vocab.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"vocab\.json"):
        export(str(copied), tmp_path / "bundle", show_progress=False)
    (copied / "merges.txt").unlink()
    (copied / "vocab.json").write_text((checkpoint / "vocab.json").read_text())
    with pytest.raises(MissingFileError, match=r"merges\.txt"):
        export(str(copied), tmp_path / "bundle", show_progress=False)
    assert everything(tmp_path) == ["checkpoint"]


def test_a_damaged_bundle_is_no_source(tiny_bundle, tmp_path):
    copied = shutil.copytree(tiny_bundle, tmp_path / "damaged")
    content = bytearray((copied / "weights.bin").read_bytes())
    content[100] ^= 1
    (copied / "weights.bin").write_bytes(content)
    with pytest.raises(BundleDamagedError, match=r"weights\.bin"):
        export(str(copied), tmp_path / "again", show_progress=False)


def test_a_place_that_holds_something_else_is_refused(checkpoint, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="already has something in it"):
        export(str(checkpoint), tmp_path / "mine", show_progress=False)
    assert visible(tmp_path / "mine") == ["thesis.txt"]


def test_two_exports_at_once_do_the_work_once(checkpoint, tmp_path):
    command = [sys.executable, "-m", "bart_onnx.export", "--preset", checkpoint]
    command += ["--output", tmp_path / "bundle"]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert sorted("Already exported" in err for _, err in said) == [False, True]
    assert {out.strip() for out, _ in said} == {str(tmp_path / "bundle")}
    Bundle.open(tmp_path / "bundle")


@pytest.mark.parametrize("stage", ["Tracing the encoder", "Checking the graphs"])
def test_a_killed_export_leaves_nothing_that_opens_and_the_next_one_works(
    checkpoint, tmp_path, stage
):
    command = [sys.executable, "-m", "bart_onnx.export", "--preset", checkpoint]
    command += ["--output", tmp_path / "bundle"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while stage not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert visible(tmp_path) == []
    export(str(checkpoint), tmp_path / "bundle", show_progress=False)
    assert everything(tmp_path) == ["bundle"]


def test_a_bundle_is_itself_a_source(tiny_bundle, tmp_path):
    first = Bundle.open(tiny_bundle)
    again = Bundle.open(export(str(tiny_bundle), tmp_path / "again", show_progress=False))
    assert again.config == first.config
    assert again.generation_config == first.generation_config
    for name in first.weight_names():
        np.testing.assert_array_equal(again.weight(name), first.weight(name))
    graphs = ("encoder.onnx", "decoder_step.onnx", "alignment.onnx")
    for file in (*graphs, "weights.bin", "tokenizer/vocab.json"):
        assert first.manifest["files"][file] == again.manifest["files"][file], file
    lm = OnnxBartSeq2SeqLM.from_preset(tmp_path / "again")
    lm.compile(sampler="greedy")
    assert lm.generate("the fox") == "fox the"


def test_graphs_that_are_off_are_not_published(tmp_path, monkeypatch):
    from exporters import bart

    checkpoint = random_checkpoint(TINY)
    eager = bart.Bart.encode

    def slightly_wrong(self, token_ids, source_lengths):
        encoded, cross = eager(self, token_ids, source_lengths)
        return encoded, [part * (1 + 1e-3) for part in cross]

    traced = []

    def wrong_once_traced(self, token_ids, source_lengths):
        import torch

        wrong = torch.onnx.is_in_onnx_export()
        traced.append(wrong)
        return (slightly_wrong if wrong else eager)(self, token_ids, source_lengths)

    monkeypatch.setattr(bart.Bart, "encode", wrong_once_traced)
    with pytest.raises(ExportError, match="logits differ from the torch module's"):
        export_checkpoint(checkpoint, tmp_path / "bundle")
    assert True in traced
    assert False in traced


def test_an_alignment_that_is_off_is_not_published(tmp_path, monkeypatch):
    from exporters import alignment

    right = alignment.cross_attention

    def blind_to_lengths(queries, keys, source_lengths):
        return right(queries, keys, source_lengths * 0 + keys[0].shape[2])

    monkeypatch.setattr(alignment, "cross_attention", blind_to_lengths)
    with pytest.raises(ExportError, match="cross-attentions differ from the torch module's"):
        export_checkpoint(random_checkpoint(TINY), tmp_path / "bundle")


def test_weights_that_are_no_numbers_are_not_published(tmp_path):
    checkpoint = random_checkpoint(TINY)
    name = "decoder.layers.0.feedforward_output.bias"
    broken = np.full(TINY.hidden_dim, np.nan, np.float32)
    checkpoint.weights[name] = lambda: broken
    with pytest.raises(ExportError, match="nan"):
        export_checkpoint(checkpoint, tmp_path / "bundle")


def test_a_full_disk_publishes_nothing(checkpoint, tmp_path, monkeypatch):
    import errno

    def full(*arguments, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("exporters.assembly.write_weights", full)
    with pytest.raises(ExportError, match="disk is full"):
        export(str(checkpoint), tmp_path / "bundle", show_progress=False)
    assert visible(tmp_path) == []


@pytest.mark.parametrize(
    ("preset", "error", "says"),
    [
        ("absent_directory", PresetError, "unknown"),
        ("empty", MissingFileError, r"config\.json"),
        ("keras", CheckpointError, "x"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, preset, error, says):
    from bart_onnx.builder import export_bundle

    (tmp_path / "empty").mkdir()
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "config.json").write_text(json.dumps({"registered_name": "x"}))
    with pytest.raises(error, match=says):
        export_bundle(str(tmp_path / preset), tmp_path / "bundle", show_progress=False)
    assert not is_bundle(tmp_path / "bundle")

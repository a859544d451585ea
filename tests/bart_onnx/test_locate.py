"""From a preset's name to its bundle: directories, the store, and a loopback hub."""

from __future__ import annotations

import pytest
from loopback_hub import hub_for_tests

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.bundle import Bundle
from bart_onnx.errors import BundleError, InputError, InputTypeError, PresetError
from bart_onnx.locate import find_bundle
from bart_onnx.store import bundle_path

pytest.importorskip("huggingface_hub", reason="the [hub] extra is not installed")


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("BART_ONNX_HOME", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def server(tmp_path, monkeypatch):
    with hub_for_tests(monkeypatch, tmp_path / "home") as running:
        yield running


def generate(preset, **options):
    lm = OnnxBartSeq2SeqLM.from_preset(preset, **options)
    lm.compile(sampler="greedy")
    return lm.generate("the fox")


def test_a_bundle_directory(tiny_bundle):
    assert find_bundle(str(tiny_bundle)).path == tiny_bundle


def test_a_published_bundle_needs_no_export(server, tiny_bundle, store, monkeypatch):
    server.add("someone/tiny", tiny_bundle)
    monkeypatch.setattr("bart_onnx.backbone.export_bundle", None)
    assert generate("hf://someone/tiny") == "fox the"
    assert not store.exists()
    assert generate("hf://someone/tiny", offline=True) == "fox the"


def test_a_hub_checkpoint_is_exported_once_into_the_store(server, golden, store, capsys):
    server.add("someone/checkpoint", golden / "hf_checkpoint", revision="v1")
    assert generate("hf://someone/checkpoint@v1") == "fox the"
    said = capsys.readouterr().err
    assert "Downloading 0.2 MB of hf://someone/checkpoint@v1" in said
    assert "of memory and" in said
    stored = bundle_path("hf://someone/checkpoint@v1", "fp32")
    assert "v1 at " in Bundle.open(stored).manifest["source"]["uri"]
    asked = len(server.requests)
    assert generate("hf://someone/checkpoint@v1") == "fox the"
    assert generate("hf://someone/checkpoint@v1", offline=True) == "fox the"
    assert len(server.requests) == asked


def test_a_built_in_name_takes_the_first_source_that_answers(server, golden, monkeypatch):
    server.add("facebook/bart-base", golden / "hf_checkpoint")
    assert generate("bart_base_en") == "fox the"
    assert generate("bart_base_en", offline=True) == "fox the"


def test_a_built_in_name_that_no_source_has_lists_what_each_said(server):
    with pytest.raises(PresetError, match=r"(?s)bart_large_en.*hf://facebook/bart-large"):
        OnnxBartSeq2SeqLM.from_preset("bart_large_en")


def test_precision_must_be_known_and_the_bundles(tiny_bundle, monkeypatch):
    with pytest.raises(InputError, match="precisions: fp32"):
        find_bundle(str(tiny_bundle), precision="fp17")
    monkeypatch.setattr("bart_onnx.locate.PRECISIONS", ("fp32", "fp64"))
    with pytest.raises(BundleError, match="holds fp32, not fp64"):
        find_bundle(str(tiny_bundle), precision="fp64")


@pytest.mark.parametrize(
    ("preset", "error", "says"),
    [
        (3, InputTypeError, "A preset is a string, found 3"),
        ("bart_larg", PresetError, "bart_base_en, bart_large_en, bart_large_en_cnn"),
        ("facebook/bart-base", PresetError, "did you mean 'hf://facebook/bart-base'"),
        ("hf://", PresetError, "hf://"),
        ("hf://a/b/c", PresetError, "hf://"),
    ],
)
def test_what_is_no_preset(preset, error, says):
    with pytest.raises(error, match=says):
        find_bundle(preset)


def test_a_file_is_no_preset(tiny_bundle):
    with pytest.raises(PresetError, match="is a file"):
        find_bundle(str(tiny_bundle / "config.json"))

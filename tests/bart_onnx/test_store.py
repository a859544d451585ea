"""Which directory of the store belongs to which preset."""

from __future__ import annotations

import os

import pytest

from bart_onnx.store import bundle_path, home


def test_home_is_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("BART_ONNX_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert home() == tmp_path / ".cache" / "bart_onnx"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert home() == tmp_path / "xdg" / "bart_onnx"
    monkeypatch.setenv("BART_ONNX_HOME", "~/own")
    assert home() == tmp_path / "own"


@pytest.fixture
def store(monkeypatch, tmp_path):
    monkeypatch.setenv("BART_ONNX_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "bundles"


def test_names_and_uris(store):
    assert bundle_path("bart_large_en_cnn", "fp32") == store / "bart_large_en_cnn" / "fp32"
    uris = ["hf://org/name", "hf://org/name@v1", "hf://org/name@v2", "hf://other/name"]
    uris += [f"hf://org/name@feature{mark}x" for mark in ("/", "--", "+", "---")]
    paths = {bundle_path(uri, "fp32") for uri in uris}
    assert len(paths) == len(uris)
    assert all(path.parents[1] == store for path in paths)


@pytest.mark.parametrize("name", ["..", ".", "/", "", "x" * 5000, "~nobody_of_that_name/x", "a\0b"])
def test_no_name_leads_out_of_the_store(store, name, monkeypatch):
    if name in ("..", ".", "/"):
        monkeypatch.setattr("bart_onnx.store.preset_path", lambda preset: None)
    assert bundle_path(name, "fp32").parents[1] == store


def test_a_changed_checkpoint_has_another_place(store, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    first = bundle_path(str(checkpoint), "fp32")
    assert bundle_path(os.path.relpath(checkpoint), "fp32") == first
    (checkpoint / "dangling").symlink_to(tmp_path / "nowhere")
    assert bundle_path(str(checkpoint), "fp32") != first
    (checkpoint / "dangling").unlink()
    (checkpoint / "config.json").write_text("{ }")
    assert bundle_path(str(checkpoint), "fp32") != first

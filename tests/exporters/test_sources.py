"""From a preset's name to its checkpoint: built-in names, hubs, archives."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from keras_files import FIXTURES, GOLDEN, PRESET, assert_golden, copy_preset
from loopback_hub import hub_for_tests
from loopback_kaggle import kaggle_for_tests

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.store import bundle_path
from exporters.progress import Progress
from exporters.sources import open_checkpoint

TOKENIZER_FILES = {"tokenizer.json", "vocabulary.json", "merges.txt"}


def test_built_in_names_fall_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kaggle, then Hugging Face; and what is said of the first."""
    with (
        hub_for_tests(monkeypatch, tmp_path / "home") as hub,
        kaggle_for_tests(monkeypatch, tmp_path / "cache") as server,
    ):
        hub.add("facebook/bart-base", GOLDEN / "hf_checkpoint")
        monkeypatch.delitem(sys.modules, "kagglehub")
        progress = Progress(shown=True)
        assert open_checkpoint("bart_base_en", False, False, progress).format == "huggingface"
        said = capsys.readouterr().err
        assert "Downloading kaggle://keras/bart/keras/bart_base_en/3 through kagglehub" in said
        assert "Trying hf://facebook/bart-base instead of kaggle://keras/bart/keras/" in said
        assert "Kaggle has no such model" in said
        server.variants["keras/bart/bart_base_en"] = {3: PRESET}
        asked = len(hub.requests)
        found = open_checkpoint("bart_base_en", False, False, progress)
        assert found.format == "keras"
        assert found.source == "kaggle://keras/bart/keras/bart_base_en/3"
        assert len(hub.requests) == asked
        assert open_checkpoint("bart_base_en", False, True, progress).format == "keras"


@pytest.mark.filterwarnings("ignore::bart_onnx.errors.InputTruncatedWarning")
def test_an_archive_is_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BART_ONNX_HOME", str(tmp_path / "store"))
    path = shutil.copyfile(FIXTURES / "task.keras", tmp_path / "task.keras")
    lm = OnnxBartSeq2SeqLM.from_preset(path)
    assert lm.preprocessor.tokenizer.unsplittable_tokens[-1] == "<mask>"
    lm.compile(sampler="greedy")
    text = lm.generate("fox", max_length=6)
    again = OnnxBartSeq2SeqLM.from_preset(path, offline=True)
    again.compile(sampler="greedy")
    assert again.generate("fox", max_length=6) == text


def test_a_preset_whose_vocabulary_changed_is_exported_anew(tmp_path: Path) -> None:
    directory = copy_preset(tmp_path / "preset")
    before = bundle_path(str(directory), "fp32")
    with (directory / "assets" / "tokenizer" / "merges.txt").open("a") as file:
        file.write("\n")
    assert bundle_path(str(directory), "fp32") != before


@pytest.mark.parametrize("name", ["keras_preset", "keras_preset_sharded"])
@pytest.mark.parametrize("beside", [False, True])
def test_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, beside: bool
) -> None:
    repository = copy_preset(tmp_path / "repository", name)
    needed = {
        path.relative_to(repository).as_posix()
        for path in repository.rglob("*.*")
        if path.name != "metadata.json"
    }
    if beside:  # weights for transformers in one repository with the preset
        (repository / "model.safetensors").write_bytes(b"x")
    (repository / "notes.txt").write_text("not asked for")
    uri, silent = "hf://someone/tiny", Progress(shown=False)
    with hub_for_tests(monkeypatch, tmp_path / "home") as server:
        server.add("someone/tiny", repository)
        checkpoint = open_checkpoint(uri, False, False, silent)
        assert server.downloaded() == needed
        assert checkpoint.source.startswith(f"{uri} at ")
        assert set(checkpoint.tokenizer_files) == TOKENIZER_FILES
        assert_golden(checkpoint)
        assert_golden(open_checkpoint(uri, False, True, silent))

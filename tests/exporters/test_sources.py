"""From a preset's name to its checkpoint: built-in names, hubs, archives."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from keras_files import FIXTURES, GOLDEN, PRESET, assert_golden, copy_preset
from loopback_hub import hub_for_tests
from loopback_kaggle import kaggle_for_tests

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.presets import PRESETS
from bart_onnx.store import bundle_path
from exporters.export import export
from exporters.progress import Progress
from exporters.sources import open_checkpoint

CNN = PRESETS["bart_large_en_cnn"]
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


@pytest.mark.parametrize(
    ("uri", "is_cnn"),
    [
        ("bart_large_en_cnn", True),
        ("kaggle://keras/bart/keras/bart_large_en_cnn/3", True),
        ("kaggle://keras/bart/keras/bart_large_en_cnn", True),
        ("kaggle://keras/bart/keras/bart_large_en_cnn/4", True),
        ("kaggle://someone/bart/keras/bart_large_en_cnn/3", False),
        ("kaggle://keras/bart/keras/bart_large_en/3", False),
        ("bart_large_en", False),
    ],
)
def test_generation_config_of_a_keras_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, is_cnn: bool
) -> None:
    silent = Progress(shown=False)
    with kaggle_for_tests(monkeypatch, tmp_path / "cache") as server:
        for variant in ("keras/bart/bart_large_en_cnn", "keras/bart/bart_large_en"):
            server.variants[variant] = {3: PRESET, 4: PRESET}
        server.variants["someone/bart/bart_large_en_cnn"] = {3: PRESET}
        found = open_checkpoint(uri, False, False, silent).generation_config
        assert found == (CNN.generation_config if is_cnn else {})
        assert open_checkpoint(uri, False, True, silent).generation_config == found


@pytest.mark.parametrize("source", ["hf_checkpoint", "keras_preset"])
def test_a_generation_config_of_its_own_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    own = {"num_beams": 2, "max_length": 20}
    repository = copy_preset(tmp_path / "repository", source)
    (repository / "generation_config.json").write_text(json.dumps(own))
    with hub_for_tests(monkeypatch, tmp_path / "home") as hub:
        hub.add("facebook/bart-large-cnn", repository)
        found = open_checkpoint("bart_large_en_cnn", False, False, Progress(shown=False))
    assert found.format == ("keras" if source == "keras_preset" else "huggingface")
    assert found.generation_config == own


def test_the_bundle_of_the_summariser_and_what_is_saved_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its generation config goes with the model: saved, opened again, and after training."""
    with kaggle_for_tests(monkeypatch, tmp_path / "cache") as server:
        server.variants["keras/bart/bart_large_en_cnn"] = {3: PRESET}
        bundle = export("bart_large_en_cnn", tmp_path / "bundle", show_progress=False)
    lm = OnnxBartSeq2SeqLM.from_preset(bundle)
    assert lm.generation_config == CNN.generation_config
    summary = lm.summarize("The fox.", max_length=12, min_length=3)
    lm.save_to_preset(tmp_path / "keras")
    lm.save_to_preset(tmp_path / "hf", format="huggingface")
    silent = Progress(shown=False)
    for saved in ("keras", "hf"):
        checkpoint = open_checkpoint(str(tmp_path / saved), False, False, silent)
        assert checkpoint.generation_config == CNN.generation_config
    lm.backbone.weights = dict(lm.backbone.weights)
    lm.save_to_preset(tmp_path / "trained")
    checkpoint = open_checkpoint(str(tmp_path / "trained"), False, False, silent)
    assert checkpoint.generation_config == CNN.generation_config
    assert lm.generation_config == CNN.generation_config
    assert lm.summarize("The fox.", max_length=12, min_length=3) == summary


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

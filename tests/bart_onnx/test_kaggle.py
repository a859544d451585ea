"""kaggle:// presets: the URI's form, downloads through kagglehub, its cache, and what fails."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from keras_files import GOLDEN, PRESET
from loopback_kaggle import LoopbackKaggle, kaggle_for_tests

from bart_onnx import kaggle
from bart_onnx.errors import (
    CheckpointError,
    DownloadError,
    InputTypeError,
    MissingFileError,
    MissingPackageError,
    PresetError,
)
from bart_onnx.locate import check_preset
from bart_onnx.presets import PRESETS
from bart_onnx.store import bundle_path, shipped_path

URI = "kaggle://someone/bart/keras/tiny"
NAMES = {
    "config.json",
    "tokenizer.json",
    "preprocessor.json",
    "task.json",
    "assets/tokenizer/vocabulary.json",
    "assets/tokenizer/merges.txt",
    "model.weights.h5",
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackKaggle]:
    with kaggle_for_tests(monkeypatch, tmp_path / "cache") as running:
        running.variants["someone/bart/tiny"] = {3: PRESET}
        yield running


@pytest.mark.parametrize(
    ("uri", "version"),
    [(URI, None), (f"{URI}/3", 3), ("kaggle://a-b/c.d/keras/e_f/999999", 999999)],
)
def test_uri(uri: str, version: int | None) -> None:
    found = kaggle.parse_uri(uri)
    assert str(found) == uri
    assert found.version == version
    assert found.handle == uri.removeprefix("kaggle://")
    check_preset(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "kaggle://",
        "kaggle://someone",
        "kaggle://someone/bart/keras",
        "kaggle://someone/bart/keras/tiny/",
        "kaggle://someone/bart/keras/tiny/v3",
        "kaggle://someone/bart/keras/tiny/0",
        "kaggle://someone/bart/keras/tiny/3/4",
        "kaggle://someone/bart/keras/../tiny",
        "kaggle://someone/../keras/tiny",
        "kaggle://someone/bart/keras/ti..ny",
        "kaggle://someone/bart/keras/tiny\n",
        "kaggle://some one/bart/keras/tiny",
        "kaggle:///bart/keras/tiny",
    ],
)
def test_no_uri(uri: str) -> None:
    for function in (kaggle.parse_uri, kaggle.download, check_preset):
        with pytest.raises(PresetError, match=r"org/model/keras/variant\[/version\]"):
            function(uri)


def test_another_framework() -> None:
    with pytest.raises(PresetError, match="'tensorFlow2', and only Keras presets"):
        kaggle.parse_uri("kaggle://someone/bart/tensorFlow2/tiny/1")
    with pytest.raises(InputTypeError, match="is a string"):
        kaggle.parse_uri(3)  # type: ignore[arg-type]


def test_built_in_names_ask_kaggle_first() -> None:
    published = {name: preset for name, preset in PRESETS.items() if shipped_path(name) is None}
    assert sorted(published) == ["bart_base_en", "bart_large_en", "bart_large_en_cnn"]
    for name, preset in published.items():
        assert preset.sources[0] == f"kaggle://keras/bart/keras/{name}/3"
        kaggle.parse_uri(preset.sources[0])
        assert preset.sources[1].startswith("hf://")


def test_generation_config_of_the_summariser(shared_data: Path) -> None:
    configs = shared_data / "bart_vocab" / "hf_reference_configs"
    path = configs / "distilbart-cnn-6-6.generation_config.json"
    expected = json.loads(path.read_text())
    del expected["_from_model_config"], expected["transformers_version"]
    expected["prefix"] = " "  # of config.json
    assert PRESETS["bart_large_en_cnn"].generation_config == expected
    others = [preset for name, preset in PRESETS.items() if name != "bart_large_en_cnn"]
    assert not any(preset.generation_config for preset in others)


def test_stored_by_the_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BART_ONNX_HOME", str(tmp_path))
    paths = {bundle_path(uri, "fp32") for uri in (URI, f"{URI}/3", f"{URI}/4")}
    assert len(paths) == 3
    assert all(path.parents[1] == tmp_path / "bundles" for path in paths)


def test_download(server: LoopbackKaggle, tmp_path: Path) -> None:
    found = kaggle.download(f"{URI}/3")
    assert found.uri == kaggle.parse_uri(f"{URI}/3")
    assert found.directory == tmp_path / "cache/models/someone/bart/keras/tiny/3"
    assert server.files()[0] == "config.json"
    assert set(server.files()) == NAMES
    for name in NAMES:
        assert (found.directory / name).read_bytes() == (PRESET / name).read_bytes()
    asked = len(server.asked)
    assert kaggle.download(f"{URI}/3") == found
    assert kaggle.download(f"{URI}/3", offline=True) == found
    assert len(server.asked) == asked


def test_newest_version(server: LoopbackKaggle, tmp_path: Path) -> None:
    found = kaggle.download(URI)
    assert found.uri.version == 3
    server.variants["someone/bart/tiny"][12] = GOLDEN / "keras_preset_bf16"
    assert kaggle.download(URI, offline=True) == found
    newer = kaggle.download(URI)
    assert newer.uri.version == 12
    assert kaggle.download(URI, offline=True) == newer
    assert kaggle.download(f"{URI}/3", offline=True) == found


@pytest.mark.parametrize("absent", [403, 404])
def test_shards_and_files_that_a_preset_lacks(
    server: LoopbackKaggle, tmp_path: Path, absent: int
) -> None:
    preset = tmp_path / "preset"
    shutil.copytree(GOLDEN / "keras_preset_sharded", preset, copy_function=shutil.copyfile)
    (preset / "task.json").unlink()
    server.absent = absent
    server.variants["someone/bart/tiny"] = {1: preset}
    found = kaggle.download(f"{URI}/1")
    shards = [f"model_0000{number}.weights.h5" for number in range(3)]
    assert [name for name in server.files() if name.startswith("model_")] == shards
    assert kaggle.download(f"{URI}/1", offline=True) == found
    (preset / "model_00001.weights.h5").unlink()
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(MissingFileError, match=r"lists 'model_00001\.weights\.h5'"):
        kaggle.download(f"{URI}/1")
    with pytest.raises(DownloadError, match="has only a part of it"):
        kaggle.download(f"{URI}/1", offline=True)


def test_an_index_that_climbs(server: LoopbackKaggle, tmp_path: Path) -> None:
    shutil.copyfile(PRESET / "config.json", tmp_path / "config.json")
    server.variants["someone/bart/tiny"] = {1: tmp_path}
    with pytest.raises(MissingFileError, match="has neither"):
        kaggle.download(URI)
    index = tmp_path / "model.weights.json"
    for content, says in (
        ('{"weight_map": {"/x/vars": ["../../x.weights.h5"]}}', "names '../../x.weights.h5'"),
        ('{"weight_map": {}}', "lists no weight_map"),
        ("[]", "must hold a JSON object"),
        ("{", "cannot be read"),
    ):
        index.write_text(content)
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises((CheckpointError, DownloadError), match=says):
            kaggle.download(URI)
    assert not [name for name in server.files() if ".." in name]


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (404, PresetError, "Kaggle has no such model"),
        (403, DownloadError, "refused .*KAGGLE_USERNAME and KAGGLE_KEY"),
        (401, DownloadError, "refused .*KAGGLE_API_TOKEN"),
        (429, DownloadError, "answered HTTP 429"),
        (500, DownloadError, "answered HTTP 500"),
    ],
)
def test_refusals(server: LoopbackKaggle, status: int, error: type[Exception], says: str) -> None:
    server.refuse = status
    for uri in (URI, f"{URI}/3"):
        with pytest.raises(error, match=says) as caught:
            kaggle.download(uri)
        assert uri in str(caught.value)


def test_no_answer(server: LoopbackKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    import kagglesdk.kaggle_env as environment

    address = "http://127.0.0.1:9"
    monkeypatch.setitem(environment._env_to_endpoint, environment.KaggleEnv.LOCAL, address)
    with pytest.raises(DownloadError, match=r"could not be had from Kaggle .*Check the network"):
        kaggle.download(URI)


@pytest.mark.parametrize("variable", [None, "HF_HUB_OFFLINE"])
def test_offline(
    server: LoopbackKaggle, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable:
        monkeypatch.setenv(variable, "1")
    for uri in (URI, f"{URI}/3"):
        with pytest.raises(DownloadError, match=r"asked for offline, and .* has no copy"):
            kaggle.download(uri, offline=variable is None)
    assert not server.asked


def test_offline_takes_a_version_that_was_downloaded_whole(server: LoopbackKaggle) -> None:
    directory = kaggle.cache_directory() / "someone" / "bart" / "keras" / "tiny"
    shutil.copytree(PRESET, directory / "7", copy_function=shutil.copyfile)
    with pytest.raises(DownloadError, match="no copy"):
        kaggle.download(URI, offline=True)
    (directory / "7.complete").touch()
    assert kaggle.download(URI, offline=True).directory == directory / "7"


class UnauthenticatedError(Exception):
    """As kagglehub's."""


class DataCorruptionError(Exception):
    """As kagglehub's."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UnauthenticatedError("User is not authenticated"), "refused .*KAGGLE_API_TOKEN"),
        (ValueError("Invalid Kaggle credentials file at x"), "credentials cannot be used"),
        (DataCorruptionError("MD5"), "is damaged"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk was full .*KAGGLEHUB_CACHE"),
        (TimeoutError("timed out"), "could not be had from Kaggle"),
        (RuntimeError(""), "RuntimeError: no message"),
    ],
)
def test_what_else_kagglehub_raises(
    monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    def model_download(handle: str, path: str) -> str:
        raise error

    fake = ModuleType("kagglehub")
    fake.model_download = model_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kagglehub", fake)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(DownloadError, match=says) as caught:
        kaggle.download(URI)
    assert caught.value.__cause__ is None
    assert URI in str(caught.value)


def test_a_notebook_at_kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Models are mounted there, and a file that is not in one is a ValueError."""
    mounted = tmp_path / "input" / "tiny" / "3"
    shutil.copytree(PRESET, mounted, copy_function=shutil.copyfile)
    (mounted / "task.json").unlink()

    def model_download(handle: str, path: str) -> str:
        if not (mounted / path).exists():
            raise ValueError(f"'{path}' is not present in the model files. You can access ...")
        return str(mounted / path)

    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(model_download=model_download))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert kaggle.download(URI).directory == mounted


def test_without_kagglehub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(MissingPackageError, match=r'pip install "bart_onnx\[hub\]"'):
        kaggle.download(URI)

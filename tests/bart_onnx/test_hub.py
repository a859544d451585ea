"""Downloads from a loopback hub: what is fetched, what the cache gives, and every refusal."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from loopback_hub import CHECKPOINT, NEEDED, URI, LoopbackHub, commit_of, directory

from bart_onnx import hub
from bart_onnx.errors import (
    CheckpointError,
    DownloadError,
    MissingFileError,
    PresetError,
)

pytest.importorskip("huggingface_hub", reason="the [hub] extra is not installed")


def bundle_files() -> dict[str, bytes]:
    files = {
        "config.json": b"{}",
        "weights.bin": b"w" * 500,
        "encoder.onnx": b"graph",
        "tokenizer/vocab.json": b'{"<s>": 0}',
    }
    table = {name: {"size": len(content)} for name, content in files.items()}
    manifest = json.dumps({"files": table}).encode()
    seal = hashlib.sha256(manifest).hexdigest().encode()
    return {**files, "manifest.json": manifest, "manifest.sha256": seal, "notes.txt": b"unlisted"}


def test_checkpoint_download_takes_only_what_is_needed(server: LoopbackHub, tmp_path: Path) -> None:
    server.add("someone/tiny-bart", directory(tmp_path / "repository", CHECKPOINT))
    assert hub.download_size(URI).missing == sum(len(CHECKPOINT[name]) for name in NEEDED)
    assert not server.downloaded()
    snapshot = hub.download_checkpoint(URI)
    assert server.downloaded() == NEEDED == set(snapshot.files)
    assert snapshot.revision == commit_of("main")
    assert snapshot.size == sum(len(CHECKPOINT[name]) for name in NEEDED)
    assert snapshot.directory.is_relative_to(tmp_path / "home" / "hub")
    for name in NEEDED:
        assert (snapshot.directory / name).read_bytes() == CHECKPOINT[name]
    assert hub.download_size(URI).missing == 0
    assert not hub.has_bundle(URI)


def test_revisions(server: LoopbackHub, tmp_path: Path) -> None:
    server.add("someone/tiny-bart", directory(tmp_path / "main", CHECKPOINT))
    older = {**CHECKPOINT, "config.json": b'{"older": true}'}
    server.add("someone/tiny-bart", directory(tmp_path / "v1", older), "refs/pr/1")
    for revision in ("refs/pr/1", commit_of("refs/pr/1")):
        snapshot = hub.download_checkpoint(f"{URI}@{revision}")
        assert snapshot.revision == commit_of("refs/pr/1")
        assert (snapshot.directory / "config.json").read_bytes() == older["config.json"]
    assert hub.download_checkpoint(f"{URI}@refs/pr/1", offline=True).directory == snapshot.directory


def test_sharded_checkpoint(server: LoopbackHub, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "weights-b.safetensors"}}
    files = {
        "config.json": b"{}",
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-00001-of-00002.safetensors": b"a" * 100,
        "weights-b.safetensors": b"b" * 50,
        "model-00099-of-00099.safetensors": b"from another time",
    }
    server.add("someone/tiny-bart", directory(tmp_path / "repository", files))
    needed = set(files) - {"model-00099-of-00099.safetensors"}
    assert hub.download_size(URI).missing == sum(len(files[n]) for n in needed) - len(
        files["model.safetensors.index.json"]
    )  # the index was fetched to know
    assert set(hub.download_checkpoint(URI).files) == needed == server.downloaded()


@pytest.mark.parametrize(
    "shard", ["../../../x", "/etc/passwd", "", 3, "a\\b", "absent.safetensors"]
)
def test_index_that_names_no_file_of_the_repository(
    server: LoopbackHub, tmp_path: Path, shard: object
) -> None:
    index = json.dumps({"weight_map": {"a": shard}}).encode()
    files = {"config.json": b"{}", "model.safetensors.index.json": index}
    server.add("someone/tiny-bart", directory(tmp_path / "repository", files))
    with pytest.raises((DownloadError, MissingFileError), match=r"index\.json|absent"):
        hub.download_checkpoint(URI)


def test_pickles_only_on_request(server: LoopbackHub, tmp_path: Path) -> None:
    files = {"config.json": b"{}", "pytorch_model.bin": b"pickle", "tokenizer.json": b"[]"}
    server.add("someone/tiny-bart", directory(tmp_path / "repository", files))
    with pytest.raises(CheckpointError, match=r"only as a pickle.*--allow-pickle"):
        hub.download_checkpoint(URI)
    with pytest.raises(CheckpointError, match="--allow-pickle"):
        hub.download_size(URI)
    assert not server.downloaded()
    assert set(hub.download_checkpoint(URI, allow_pickle=True).files) == set(files)


def test_bundle(server: LoopbackHub, tmp_path: Path) -> None:
    files = bundle_files()
    server.add("someone/tiny-bart", directory(tmp_path / "repository", files))
    assert hub.has_bundle(URI)
    snapshot = hub.download_bundle(URI)
    assert server.downloaded() == set(files) - {"notes.txt"}
    assert (snapshot.directory / "tokenizer" / "vocab.json").read_bytes() == b'{"<s>": 0}'
    assert hub.download_checkpoint(URI).directory == snapshot.directory
    assert hub.has_bundle(URI, offline=True)
    assert hub.download_bundle(URI, offline=True) == snapshot


def test_bundle_asked_of_a_checkpoint(server: LoopbackHub, tmp_path: Path) -> None:
    server.add("someone/tiny-bart", directory(tmp_path / "repository", CHECKPOINT))
    with pytest.raises(PresetError, match=r"as a bundle.*bart_onnx.export --preset hf://someone"):
        hub.download_bundle(URI)


@pytest.mark.parametrize("listed", ["../up", "/root", "a/../../b", "a//b", "", "a\\b"])
def test_manifest_that_leaves_the_bundle(server: LoopbackHub, tmp_path: Path, listed: str) -> None:
    manifest = json.dumps({"files": {listed: {"size": 1}}}).encode()
    files = {"manifest.json": manifest, "manifest.sha256": b"0"}
    server.add("someone/tiny-bart", directory(tmp_path / "repository", files))
    with pytest.raises(DownloadError, match=r"manifest\.json"):
        hub.download_bundle(URI)


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b'{"files": 3}', b"[" * 100_000])
def test_manifest_that_is_none(server: LoopbackHub, tmp_path: Path, content: bytes) -> None:
    files = {"manifest.json": content, "manifest.sha256": b"0"}
    server.add("someone/tiny-bart", directory(tmp_path / "repository", files))
    with pytest.raises(DownloadError, match=r"manifest\.json"):
        hub.download_bundle(URI)


def test_offline_uses_the_cache_and_asks_nothing(
    server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("someone/tiny-bart", directory(tmp_path / "repository", CHECKPOINT))
    with pytest.raises(DownloadError, match=r"offline.*no copy.*without --offline"):
        hub.download_checkpoint(URI, offline=True)
    online = hub.download_checkpoint(URI)
    server.requests.clear()
    assert hub.download_checkpoint(URI, offline=True) == online
    assert hub.download_size(URI, offline=True).missing == 0
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.download_checkpoint(URI) == online
    assert not server.requests


@pytest.mark.parametrize("lost", ["tokenizer.json", "model.safetensors"])
def test_offline_refuses_half_a_download(server: LoopbackHub, tmp_path: Path, lost: str) -> None:
    files = {**CHECKPOINT, "tokenizer.json": b"[]"}
    server.add("someone/tiny-bart", directory(tmp_path / "repository", files))
    snapshot = hub.download_checkpoint(URI)
    (snapshot.directory / lost).unlink()
    with pytest.raises((DownloadError, MissingFileError), match=lost):
        hub.download_checkpoint(URI, offline=True)

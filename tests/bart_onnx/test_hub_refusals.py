"""What goes wrong at a hub: each fault is one of our errors, with what to do."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_hub import CHECKPOINT, NEEDED, URI, LoopbackHub, directory

from bart_onnx import hub
from bart_onnx.errors import (
    DownloadError,
    InputTypeError,
    MissingFileError,
    MissingPackageError,
    PresetError,
)
from bart_onnx.hub import client

pytest.importorskip("huggingface_hub", reason="the [hub] extra is not installed")


def test_unknown_repository(server: LoopbackHub) -> None:
    with pytest.raises(PresetError, match=r"no repository 'someone/tiny-bart', or it is private"):
        hub.download_checkpoint(URI)


def test_unknown_revision(server: LoopbackHub, tmp_path: Path) -> None:
    server.add("someone/tiny-bart", directory(tmp_path / "repository", CHECKPOINT))
    with pytest.raises(PresetError, match="no revision 'v9'"):
        hub.download_size(f"{URI}@v9")


@pytest.mark.parametrize(
    ("status", "code", "error", "message"),
    [
        (401, "", DownloadError, "HTTP 401.*no such repository.*HF_TOKEN"),
        (401, "RepoNotFound", PresetError, "it is private"),
        (401, "GatedRepo", DownloadError, "gated"),
        (403, "GatedRepo", DownloadError, "Accept them at"),
        (403, "", DownloadError, "HTTP 403.*HF_TOKEN"),
        (500, "", DownloadError, "HTTP 500"),
        (429, "", DownloadError, "HTTP 429"),
    ],
)
def test_refusals(
    server: LoopbackHub,
    tmp_path: Path,
    status: int,
    code: str,
    error: type[Exception],
    message: str,
) -> None:
    repository = server.add("someone/tiny-bart", directory(tmp_path / "r", CHECKPOINT))
    repository.refuse, repository.error_code = status, code
    with pytest.raises(error, match=message) as caught:
        hub.download_checkpoint(URI)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_no_hub_there(server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("someone/tiny-bart", directory(tmp_path / "repository", CHECKPOINT))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"could not be had from http://127.0.0.1:9") as caught:
        hub.download_checkpoint(URI)
    assert "cache has" not in str(caught.value)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    hub.download_checkpoint(URI)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"cache has commit .*--offline"):
        hub.download_checkpoint(URI)


@pytest.mark.parametrize("address", ["not an address", "ftp://127.0.0.1", "127.0.0.1:9"])
def test_endpoint_that_is_none(
    server: LoopbackHub, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(DownloadError, match="HF_ENDPOINT"):
        hub.download_checkpoint(URI)


def test_server_gone_in_the_middle_of_a_file(
    server: LoopbackHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, logger="huggingface_hub")
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    server.add("someone/tiny-bart", directory(tmp_path / "repository", CHECKPOINT))
    server.break_after = 1000
    with pytest.raises(DownloadError, match="could not be had"):
        hub.download_checkpoint(URI)
    blobs = tmp_path / "home" / "hub" / "models--someone--tiny-bart" / "blobs"
    assert not [path for path in blobs.glob("*") if path.name.endswith(".incomplete")]
    with pytest.raises((DownloadError, MissingFileError)):
        hub.download_checkpoint(URI, offline=True)
    server.break_after, server.closed = None, False
    assert set(hub.download_checkpoint(URI).files) == NEEDED


def test_listed_file_that_is_gone(
    server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("someone/tiny-bart", directory(tmp_path / "repository", CHECKPOINT))
    listing = client.list_files(hub.parse_uri(URI), offline=False)
    monkeypatch.setattr(client, "list_files", lambda uri, offline: listing)
    (tmp_path / "repository" / "merges.txt").unlink()
    with pytest.raises(MissingFileError, match=r"merges\.txt"):
        hub.download_checkpoint(URI)


def test_repository_without_a_model(server: LoopbackHub, tmp_path: Path) -> None:
    server.add("someone/tiny-bart", directory(tmp_path / "a", {"README.md": b"# card"}))
    with pytest.raises(MissingFileError, match=r"model.safetensors.*README.md"):
        hub.download_checkpoint(URI)
    weights_only = directory(tmp_path / "b", {"model.safetensors": b"x"})
    server.add("someone/weights", weights_only)
    with pytest.raises(MissingFileError, match=r"needs 'config.json'"):
        hub.download_checkpoint("hf://someone/weights")


def test_full_disk_before_and_during(
    server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("someone/tiny-bart", directory(tmp_path / "repository", CHECKPOINT))
    with monkeypatch.context() as patch:
        patch.setattr(
            "bart_onnx.hub.client.shutil.disk_usage",
            lambda _: type("Usage", (), {"free": 1000})(),
        )
        with pytest.raises(DownloadError, match=r"needs \d+ bytes.*has 1000 free"):
            hub.download_checkpoint(URI)

    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", no_space)
    with pytest.raises(DownloadError, match="disk was full"):
        hub.download_checkpoint(URI)


def test_another_size_than_listed(
    server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("someone/tiny-bart", directory(tmp_path / "repository", CHECKPOINT))
    snapshot = hub.download_checkpoint(URI)
    (snapshot.directory / "merges.txt").resolve().write_bytes(b"damaged since")
    with pytest.raises(MissingFileError, match=r"merges.txt.*should have 14 bytes.*has 13"):
        hub.download_checkpoint(URI)


def test_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert client.cache_directory() == Path("/home/someone/.cache/huggingface/hub")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert client.cache_directory() == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "~/models")
    assert client.cache_directory() == Path("/home/someone/models/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/cache")
    assert client.cache_directory() == Path("/cache")


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackageError, match=r'pip install "bart_onnx\[hub\]"'):
        hub.download_size(URI)


def test_other_types_are_refused() -> None:
    with pytest.raises(InputTypeError, match="string"):
        hub.download_size(3)  # type: ignore[arg-type]


def test_importing_hub_imports_no_hub_library() -> None:
    code = "import sys, bart_onnx.hub; print([m for m in sys.modules if 'huggingface' in m])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

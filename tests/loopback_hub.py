"""A small Hugging Face hub on 127.0.0.1, for tests: it serves directories as repositories.

It answers what huggingface_hub asks for when it lists and downloads a model: /api/models/...,
its tree, and /org/name/resolve/revision/file with ETag, commit, and Range. Nothing else.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

Answer = tuple[int, dict[str, str], bytes]

URI = "hf://someone/tiny-bart"
CHECKPOINT = {
    "config.json": b'{"model_type": "bart"}',
    "generation_config.json": b"{}",
    "vocab.json": b'{"<s>": 0}',
    "merges.txt": b"#version: 0.2\n",
    "model.safetensors": bytes(range(256)) * 300,
    "pytorch_model.bin": b"pickle",
    "tf_model.h5": b"never needed" * 1000,
    "README.md": b"# a card",
}
NEEDED = {"config.json", "generation_config.json", "vocab.json", "merges.txt", "model.safetensors"}


@dataclass
class Repository:
    """Revisions and the directories they name; `refuse` is a status with which all is refused."""

    revisions: dict[str, Path]
    refuse: int | None = None
    error_code: str = ""

    def commit(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit names."""
        for name in self.revisions:
            if revision in (name, commit_of(name)):
                return commit_of(name)
        return None

    def directory(self, commit: str) -> Path:
        """The files of a commit."""
        return next(path for name, path in self.revisions.items() if commit_of(name) == commit)


@dataclass
class LoopbackHub:
    """The server: its repositories, what was asked of it, and how it misbehaves.

    `break_after` stops in the middle of any file longer than that many bytes, and closes.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    break_after: int | None = None
    closed: bool = False

    def add(self, name: str, directory: Path, revision: str = "main") -> Repository:
        """Serve a directory as a revision of the repository `name`."""
        repository = self.repositories.setdefault(name, Repository({}))
        repository.revisions[revision] = directory
        return repository

    def downloaded(self) -> set[str]:
        """The files of which bytes were asked for."""
        gets = (line.split() for line in self.requests if line.startswith("GET "))
        return {
            path.split("/resolve/")[1].split("/", 1)[1] for _, path in gets if "/resolve/" in path
        }

    def answer(self, method: str, path: str) -> Answer:
        """Status, headers and body for a request."""
        self.requests.append(f"{method} {path}")
        parts = [unquote(part) for part in path.strip("/").split("/")]
        is_api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if is_api else parts[:2])
        repository = self.repositories.get(name)
        if repository is None:
            return _error(404, "RepoNotFound")
        if repository.refuse is not None:
            return _error(repository.refuse, repository.error_code)
        rest = parts[4:] if is_api else parts[2:]
        kind, revision = (rest[0], rest[1]) if rest else ("revision", "main")
        commit = repository.commit(revision)
        if commit is None:
            return _error(404, "RevisionNotFound")
        directory = repository.directory(commit)
        if kind == "resolve":
            return _file(directory.joinpath(*rest[2:]), commit)
        body = _info(name, directory, commit) if kind == "revision" else _tree(directory)
        return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


def commit_of(revision: str) -> str:
    """The made-up commit of a revision."""
    return hashlib.sha1(revision.encode()).hexdigest()


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """A running hub; it stops at the end of the block."""
    hub = LoopbackHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def hub_for_tests(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[LoopbackHub]:
    """A running hub that huggingface_hub takes for the only one, with an empty cache in `home`.

    There is no kagglehub then, so built-in names come from this hub.
    """
    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    for name in (*names, "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(home / "kaggle"))
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    # These huggingface_hub reads when it is imported, so they are set where it keeps them.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with loopback_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def _handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._respond(send_body=True)

        def do_HEAD(self) -> None:
            self._respond(send_body=False)

        def _respond(self, send_body: bool) -> None:
            if hub.closed:
                self.close_connection = True
                return
            path = urlsplit(self.path).path
            status, headers, body = hub.answer(self.command, path)
            asked = self.headers.get("Range", "")
            if status == 200 and send_body and asked.startswith("bytes="):
                start = int(asked.removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                status, body = 206, body[start:]
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if send_body:
                if hub.break_after is not None and len(body) > hub.break_after:
                    body, hub.closed = body[: hub.break_after], True
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def _names(directory: Path) -> list[tuple[str, int]]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return [(path.relative_to(directory).as_posix(), path.stat().st_size) for path in files]


def _info(name: str, directory: Path, commit: str) -> dict[str, object]:
    siblings = [{"rfilename": file, "size": size} for file, size in _names(directory)]
    return {"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []}


def _tree(directory: Path) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": file, "size": size, "oid": _etag((directory / file).read_bytes())}
        for file, size in _names(directory)
    ]


def _file(path: Path, commit: str) -> Answer:
    if not path.is_file():
        status, headers, body = _error(404, "EntryNotFound")
        return status, {**headers, "X-Repo-Commit": commit}, body
    body = path.read_bytes()
    headers = {"ETag": f'"{_etag(body)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
    return 200, {**headers, "Content-Type": "application/octet-stream"}, body


def _etag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _error(status: int, code: str) -> Answer:
    return status, {"X-Error-Code": code, "X-Error-Message": code or "refused"}, b"{}"


def directory(path: Path, files: dict[str, bytes]) -> Path:
    """`path` with these files in it."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path

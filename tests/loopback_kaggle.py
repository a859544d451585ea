"""A small Kaggle on 127.0.0.1, for tests: it serves directories as versions of models.

It answers the two calls that kagglehub makes for one file of a model: which version is the newest,
and the file.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@dataclass
class LoopbackKaggle:
    """The server: variants ("org/model/variant") with their versions, and what was asked of it.

    `refuse` is a status with which all is refused, `absent` the one for a file that is not there.
    """

    url: str = ""
    variants: dict[str, dict[int, Path]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refuse: int | None = None
    absent: int = 404

    def answer(self, call: str, request: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body for a call."""
        name = "/".join(str(request.get(f"{key}Slug")) for key in ("owner", "model", "instance"))
        self.asked.append(f"{call} {name} {request.get('path', '')}".strip())
        versions = self.variants.get(name)
        if self.refuse is not None or versions is None:
            return self.refuse or 404, b"{}"
        if call == "GetModelInstance":
            return 200, json.dumps({"versionNumber": max(versions)}).encode()
        directory = versions.get(request["versionNumber"])
        file = directory / request["path"] if directory else None
        if file is None or not file.is_file():
            return self.absent, b"{}"
        return 200, file.read_bytes()

    def files(self) -> list[str]:
        """The files that were asked for, in order."""
        downloads = (line.split() for line in self.asked if line.startswith("Download"))
        return [words[2] for words in downloads]


@contextmanager
def kaggle_for_tests(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[LoopbackKaggle]:
    """A running Kaggle that kagglehub takes for the only one, with an empty cache in `cache`."""
    names = ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_KERNEL_RUN_TYPE")
    for name in (*names, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TBE_RUNTIME_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(cache))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(cache / "no-credentials"))
    monkeypatch.setenv("HOME", str(cache))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    kaggle = LoopbackKaggle()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(kaggle))
    server.daemon_threads = True
    kaggle.url = f"http://127.0.0.1:{server.server_port}"
    # LOCALHOST is a server of Kaggle's own at port 80.
    environment = pytest.importorskip("kagglesdk.kaggle_env", reason="no [hub] extra")
    local = environment.KaggleEnv.LOCAL
    monkeypatch.setitem(environment._env_to_endpoint, local, kaggle.url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield kaggle
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(kaggle: LoopbackKaggle) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = kaggle.answer(self.path.rsplit("/", 1)[1], json.loads(body))
            self.send_response(status)
            is_json = self.path.endswith("GetModelInstance") or status != 200
            kind = "application/json" if is_json else "application/octet-stream"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler

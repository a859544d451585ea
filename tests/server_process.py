"""The server as a process of its own, for tests that ask it through a socket."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2
from serving import NAME

PRESET = ("--preset", NAME, "--offline", "--threads", "1", "--drain-delay", "0")


class Running:
    """A started server; its log is read all the time, so that it never waits for a reader."""

    def __init__(self, *flags: str, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "bart_onnx.serve", *PRESET, "--port", "0", *flags]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.log: list[str] = []
        self._up = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._up.wait(60), "".join(self.log)
        (port,) = re.findall(r"http://127.0.0.1:(\d+)", "".join(self.log))
        self.url = f"http://127.0.0.1:{port}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if "running on" in line:
                self._up.set()
        self._up.set()

    def end(self) -> int:
        """Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self._reader.join()
            for pipe in (self.process.stdout, self.process.stderr):
                assert pipe is not None
                pipe.close()

    def ask(self, prompt: Any, **fields: Any) -> httpx2.Response:
        """A completion."""
        return self.post("/v1/completions", {"model": NAME, "prompt": prompt, **fields})

    def post(self, path: str, body: Any) -> httpx2.Response:
        """What it answers to some JSON."""
        return httpx2.post(f"{self.url}{path}", json=body, timeout=60)


@contextmanager
def running(*flags: str) -> Iterator[Running]:
    """A server that ends with the block."""
    server = Running(*flags)
    try:
        yield server
    finally:
        server.end()

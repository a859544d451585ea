"""The server as a process of its own, for tests that ask it through a socket."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2
from processes import exit_status
from serving import NAME

QUICK = ("--offline", "--threads", "1", "--drain-delay", "0", "--port", "0")


class Running:
    """A started server; its log is read all the time, so that it never waits for a reader.

    Args:
        flags: of the server, besides.
        keeps: which lines of its log are kept once it is up.
    """

    def __init__(
        self,
        *flags: str,
        preset: str = NAME,
        environment: Mapping[str, str] | None = None,
        keeps: Callable[[str], bool] = lambda line: True,
    ) -> None:
        command = [sys.executable, "-m", "bart_onnx.serve", "--preset", preset, *QUICK, *flags]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.log: list[str] = []
        self._keeps, self._up = keeps, threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._up.wait(60), "".join(self.log)
        (port,) = re.findall(r"http://127.0.0.1:(\d+)", "".join(self.log))
        self.url = f"http://127.0.0.1:{port}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if not self._up.is_set() or self._keeps(line):
                self.log.append(line)
            if "running on" in line:
                self._up.set()
        self._up.set()

    def end(self) -> int:
        """Its exit status."""
        try:
            return exit_status(self.process)
        finally:
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

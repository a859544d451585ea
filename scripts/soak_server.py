"""A server in a process of its own, and what /proc (Linux) and its metrics say of it.

Used by soak.py.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

MIB = 2**20
#: What a line of the server's log has that tells a fault; see `bart_onnx.server.logs`.
ERROR = '"level": "error"'


@dataclass
class Server:
    """A started server and what /proc says of it."""

    preset: str
    flags: tuple[str, ...] = ()
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "bart_onnx.serve", "--preset", self.preset]
        command += ["--port", "0", "--offline", "--threads", "1", "--drain-delay", "0"]
        # Its log goes on being read, so that it never waits for a reader.
        self.process = subprocess.Popen(
            [*command, *self.flags], stderr=subprocess.PIPE, text=True, bufsize=1
        )
        self._up = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self._up.wait(120):
            raise SystemExit("The server did not start:\n" + "".join(self.log))
        found = re.findall(r"http://[\d.]+:\d+", "".join(self.log))
        if not found:
            raise SystemExit("The server did not start:\n" + "".join(self.log))
        self.url = found[0]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if not self._up.is_set() or ERROR in line:
                self.log.append(line)
            if "running on" in line:
                self._up.set()
        self._up.set()

    def figures(self) -> dict[str, int]:
        """Its resident bytes, threads and descriptors."""
        root = Path(f"/proc/{self.process.pid}")
        status = (root / "status").read_text()
        return {
            "bytes": int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024,
            "threads": int(re.findall(r"Threads:\s+(\d+)", status)[0]),
            "descriptors": len(os.listdir(root / "fd")),
        }

    def end(self) -> int:
        """Its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def watch(server: Server, seen: list[dict[str, int]], over: threading.Event, every: float) -> None:
    """Read the server's figures until it is over."""
    while not over.wait(every):
        seen.append(server.figures())
        told = seen[-1]
        print(
            f"{time.strftime('%T')} {told['bytes'] / MIB:.1f} MiB, {told['threads']} threads, "
            f"{told['descriptors']} descriptors",
            file=sys.stderr,
            flush=True,
        )


def settled(server: Server, before: Mapping[str, int]) -> dict[str, int]:
    """The figures once nobody asks, when they are as before or some seconds have passed."""
    for _ in range(50):
        found = server.figures()
        if all(found[name] <= before[name] for name in ("threads", "descriptors")):
            return found
        time.sleep(0.2)
    return found


def busy_gauges(server: Server) -> list[str]:
    """The gauges of work under way that are not at 0."""
    lines = httpx2.get(f"{server.url}/metrics").text.splitlines()
    gauges = [line for line in lines if re.match(r"bart_onnx_(waiting|running|rows|cache)", line)]
    return [line for line in gauges if float(line.rsplit(" ", 1)[1])]

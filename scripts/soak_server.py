"""A server in a process of its own, and what /proc (Linux) and its metrics say of it.

Used by soak.py.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import httpx2

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from server_process import Running

MIB = 2**20
#: What a line of the server's log has that tells a fault; see `bart_onnx.server.logs`.
ERROR = '"level": "error"'


class Server(Running):
    """A started server, of whose log only faults are kept, and what /proc says of it."""

    def __init__(self, preset: str) -> None:
        super().__init__(preset=preset, keeps=lambda line: ERROR in line)

    def figures(self) -> dict[str, int]:
        """Its resident bytes, threads and descriptors."""
        root = Path(f"/proc/{self.process.pid}")
        status = (root / "status").read_text()
        return {
            "bytes": int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024,
            "threads": int(re.findall(r"Threads:\s+(\d+)", status)[0]),
            "descriptors": len(os.listdir(root / "fd")),
        }


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

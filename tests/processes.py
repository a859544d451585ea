"""Processes that tests start: a port for one to listen at, and its end."""

from __future__ import annotations

import signal
import socket
import subprocess
from typing import Any


def free_port() -> int:
    """A port of loopback that nobody listened at just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def exit_status(process: subprocess.Popen[Any]) -> int:
    """What a process ends with that is asked to end, if it has not yet.

    Raises:
        subprocess.TimeoutExpired: it took more than 30 seconds, and was killed.
    """
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(30)
    finally:
        process.kill()

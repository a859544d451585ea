"""In a process that has this directory on its path, nothing but loopback can be asked or served.

Python imports it at its start. Whatever reaches further ends the process with status 97, and says
what it was on standard error.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_STATUS = 97


def _inside(address: Any) -> bool:
    # What is no pair is a socket of the file system, or an address that was never given.
    host = address[0] if isinstance(address, tuple) else None
    return host is None or host in _LOOPBACK


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.bind", "socket.sendto"):
        allowed = _inside(arguments[1])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        allowed = arguments[0] in (None, "", *_LOOPBACK, b"localhost", b"127.0.0.1")
    else:
        return
    if not allowed:
        os.write(2, f"network: {event} {arguments[1:2]!r:.200} {arguments[:1]!r:.80}\n".encode())
        os._exit(_STATUS)


sys.addaudithook(_hook)
